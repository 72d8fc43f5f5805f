// Renyi divergences of the sampled Gaussian mechanism [MTZ19, arXiv 1908.10530], any order > 1, rounded outward.
//
// With u = q (e^x - 1), x = z/s - 1/(2 s^2), l = log(1 + u), w = order - 1 and z ~ N(0, 1), E[u] = 0 gives
//   mixture first:  exp(w D) = 1 + w E[ e^l (phi(-l) + phi(w l)/w) ],  phi(y) = e^y - 1 - y >= 0,
//   Gaussian first: exp(w D) = 1 + w E[ phi(l) + phi(-w l)/w ],
// sums of positive terms: no digit is lost however small D is. Both integrands equal order u^2 G(z) with
// G = integral over t in [0, 1] of (1 - t)(1 + t u)^e dt, e = order - 2 or -order - 1, which bounds every error:
// - Step. The trapezoidal rule on |Im z| < y errs by at most 2 M/(exp(2 pi y/h) - 1), M the integral of the modulus on
//   Im z = +-y. There |1 + t u| lies between cos(y/2s) and 1 times its real-axis value, and |u|^2 = u^2 +
//   4 q^2 e^x sin^2(y/2s). The density prop. to exp(-z^2/2 + x) G has log-curvature >= -L (L = 1 if e >= 0, else
//   1 - e/(4 s^2)), hence variance >= 1/L (Cramer-Rao), so M <= integral * e^(y^2/2) cos(y/2s)^min(e, 0) (1 + y^2 L).
// - Cut. Outside the nodes the integrand is below (order/2) u^2 max(1, (1+u)^e) phi(z), log-concave enough for a
//   geometric tail; between two far peaks it is below (1+u)^order/w, which has no third peak.
#pragma once

#include <cmath>

#include "common/isa.hpp"

namespace expunge::privacy {
namespace {

constexpr double kTail = 0x1p-58;       // what each cut may leave out, relative to the sum
constexpr double kOutward = 0x1p-44;    // rounding of the terms and of the sum, the step and the cuts, relative
constexpr double kLeast = 1e-300;       // stands for all below it: nothing but no sampling or endless noise costs 0
constexpr double kSmallNoise = 0.02;    // below it the two components do not overlap to 1e-100
constexpr double kSmallRate = 1e-12;    // smallest rate told apart when the noise is that small
constexpr double kMostNodes = 1 << 18;  // beyond, Minkowski's bound

struct Item {
  bool reverse;
  double order, w, sigma, q, log_q, log_rest;  // log_rest = log(1 - q)
};

struct Point {
  double u, l, share;  // share = q e^x / (1 + u), the posterior weight of the shifted component
};

EXPUNGE_HD EXPUNGE_OUTLINE static Point at(const Item& item, double z) {
  const double x = (z - 0.5 / item.sigma) / item.sigma;
  const double u = x > 500.0 ? std::exp(item.log_q + x) : item.q * std::expm1(x);
  if (u > 1e100) return {u, item.log_q + x, 1.0};
  return {u, u > -0.5 ? std::log1p(u) : std::log((1.0 - item.q) + item.q * std::exp(x)),
          1.0 / (1.0 + std::exp(item.log_rest - item.log_q - x))};
}

// e^y - 1 - y without cancellation.
EXPUNGE_HD static double phi(double y) {
  if (y < -0.5 || y > 0.5) return std::expm1(y) - y;
  double sum = 0.0;
  for (int k = 16; k >= 2; --k) sum = (sum + 1.0) * y / k;
  return sum * y;
}

// exp(e) phi(y), safe where exp(y) overflows but exp(e + y) does not.
EXPUNGE_HD static double scaled_phi(double e, double y) {
  return y > 1.0 ? std::exp(e + y) - std::exp(e) * (1.0 + y) : std::exp(e) * phi(y);
}

// Log of the integrand without its polynomial part: where peaks and valleys are.
EXPUNGE_HD static double envelope(const Item& item, double z, double l) {
  return (item.reverse ? -item.w : item.order) * l - 0.5 * z * z;
}

EXPUNGE_HD static double term(const Item& item, double z, double l, double scale) {
  const double e = -0.5 * z * z - scale;
  if (item.reverse) return scaled_phi(e, l) + scaled_phi(e, -item.w * l) / item.w;
  const double first = l > -1.0 ? std::exp(e + l) * phi(-l) : std::exp(e) * (1.0 + std::exp(l) * (l - 1.0));
  return first + scaled_phi(e + l, item.w * l) / item.w;
}

// Bound of the integral beyond z on the side `direction`, in units of the terms; infinite where it does not hold yet.
EXPUNGE_HD static double tail(const Item& item, double z, const Point& point, int direction, double scale) {
  const double centre = 0.5 / item.sigma;
  const double power = item.reverse ? -item.order - 1.0 : item.order - 2.0;
  double slope;
  if (direction > 0) {
    if (!(z > centre)) return HUGE_VAL;
    slope = z - 2.0 / item.sigma - 2.0 / (z - centre) - std::fmax(power, 0.0) / item.sigma;
  } else {
    if (!(z < 0.0)) return HUGE_VAL;
    slope = -z - 2.0 / (centre - z) - (item.reverse ? -power * point.share / item.sigma : 0.0);
  }
  if (!(slope > 0.0)) return HUGE_VAL;
  double growth = std::fmax(power * point.l, 0.0);
  if (direction < 0 && !item.reverse) growth = std::fmax(power * item.log_rest, 0.0);
  const double log_u2 = point.u > 1e100 ? 2.0 * point.l : 2.0 * std::log(std::fabs(point.u));
  return 0.5 * item.order * std::exp(growth + log_u2 - 0.5 * z * z - scale) / slope;
}

struct Sum {
  double total = 0.0, lost = 0.0, nodes = 0.0;  // Neumaier's compensated sum
  EXPUNGE_HD void add(double value) {
    const double next = total + value;
    lost += std::fabs(total) >= std::fabs(value) ? (total - next) + value : (value - next) + total;
    total = next;
  }
};

// Adds the nodes from k on in `direction` until the rest is negligible or `limit` (exclusive) is reached; returns the
// last index added. A valley towards the peak at `other` ends the walk too.
EXPUNGE_HD EXPUNGE_OUTLINE static double walk(const Item& item, double h, double k, int direction, double limit,
                                              double other, double scale, Sum& sum) {
  for (;; k += direction) {
    if (direction > 0 ? k >= limit : k <= limit) return k - direction;
    const double z = k * h;
    const Point point = at(item, z);
    sum.add(term(item, z, point.l, scale));
    if ((sum.nodes += 1.0) > kMostNodes) return k;
    if (tail(item, z, point, direction, scale) <= kTail * sum.total * h) return k;
    const double gap = (other - z) * direction;
    if (item.reverse || !(gap > 0.0) || !(point.u >= 0.0)) continue;
    const double falls = (item.order / item.sigma * point.share - z) * direction;
    if (falls < 0.0 && gap * std::exp(envelope(item, z, point.l) - scale) / item.w <= kTail * sum.total * h) return k;
  }
}

// Where the envelope peaks: from below and from above by fixed point (mixture first), by bisection (Gaussian first).
EXPUNGE_HD static void find_peaks(const Item& item, double& left, double& right) {
  if (item.reverse) {
    // The envelope is concave: its slope -(z + w share/s) changes sign once.
    double low = -item.w / item.sigma, high = 0.0;
    while (high - low > 0.25 + 1e-12 * -low) {
      const double middle = 0.5 * (low + high);
      (middle + item.w / item.sigma * at(item, middle).share > 0.0 ? high : low) = middle;
    }
    left = right = 0.5 * (low + high);
    return;
  }
  const double pull = item.order / item.sigma;
  left = 0.0;
  right = pull;
  for (int i = 0; i < 40; ++i) {
    const double next = pull * at(item, left).share;
    const bool done = next - left < 0.25;
    left = next;
    if (done) break;
  }
  for (int i = 0; i < 40; ++i) {
    const double next = pull * at(item, right).share;
    const bool done = right - next < 0.25;
    right = next;
    if (done) break;
  }
}

// Largest h whose step error is below 1e-18 relative (see the top), cut to 8 bits so that k h is exact.
EXPUNGE_HD static double step_width(const Item& item) {
  const double shrink = item.reverse ? item.order + 1.0 : std::fmax(2.0 - item.order, 0.0);
  const double curvature = 1.0 + shrink / (4.0 * item.sigma * item.sigma);
  const double penalty = 0.5 + shrink / (7.1 * item.sigma * item.sigma);  // -log cos(t/2) <= t^2/7.1 for t <= 1.5
  const double y = std::fmin(10.0 / std::sqrt(penalty) * 0.6708, (shrink > 0.0 ? 1.5 : 3.0) * item.sigma);
  const double goal = 43.0 + std::log1p(y * y * curvature) + penalty * y * y;
  int exponent;
  const double mantissa = std::frexp(6.283185307179586 * y / goal, &exponent);
  return std::ldexp(std::floor(mantissa * 256.0), exponent - 8);
}

// ||1 + u||_order <= (1 - q) + q e^(w/(2 s^2)) by Minkowski; the density ratio is at most 1/(1 - q) the other way.
EXPUNGE_HD static double crude_bound(const Item& item) {
  if (item.reverse) return -item.log_rest;
  const double top = item.log_q + item.w / (2.0 * item.sigma * item.sigma);
  const double high = std::fmax(top, item.log_rest), low = std::fmin(top, item.log_rest);
  return item.order / item.w * (high + std::log1p(std::exp(low - high)));
}

// The components do not overlap: E (1 + u)^order = (1-q)^order + q^order e^(order w/(2 s^2)) to all digits.
EXPUNGE_HD static double separated(Item item) {
  if (item.reverse) return -item.log_rest;
  if (item.q < kSmallRate) {
    item.q = kSmallRate;
    item.log_q = std::log(kSmallRate);
    item.log_rest = std::log1p(-kSmallRate);
  }
  const double lift = item.w * (item.log_q + item.order / (2.0 * item.sigma * item.sigma));
  if (lift + item.log_q > 40.0 && lift > 1.0) return (lift + item.log_q) / item.w;
  const double left = scaled_phi(0.0, item.order * item.log_rest) + item.order * (item.log_rest + item.q);
  return std::log1p(std::fmax(left, 0.0) + item.q * (std::expm1(lift) - item.w)) / item.w;
}

EXPUNGE_HD static double divergence(const Item& item) {
  if (item.sigma < kSmallNoise) return separated(item) * (1.0 + kOutward);
  double left, right;
  find_peaks(item, left, right);
  const double at_left = envelope(item, left, at(item, left).l), at_right = envelope(item, right, at(item, right).l);
  const double scale = std::fmax(std::fmax(at_left, at_right), 0.0);
  const double h = step_width(item);
  const bool right_first = at_right > at_left;
  const double first = right_first ? right : left, second = right_first ? left : right;
  const double k1 = std::floor(first / h), k2 = std::floor(second / h);
  Sum sum;
  const double high = walk(item, h, k1, 1, HUGE_VAL, second, scale, sum);
  const double low = walk(item, h, k1 - 1.0, -1, -HUGE_VAL, second, scale, sum);
  if (k2 > high) {
    walk(item, h, k2, 1, HUGE_VAL, -HUGE_VAL, scale, sum);
    walk(item, h, k2 - 1.0, -1, high, first, scale, sum);
  } else if (k2 < low) {
    walk(item, h, k2, -1, -HUGE_VAL, HUGE_VAL, scale, sum);
    walk(item, h, k2 + 1.0, 1, low, first, scale, sum);
  }
  if (sum.nodes > kMostNodes) return crude_bound(item) * (1.0 + kOutward);
  // The exponents that were rounded are as large as this; their error is absolute in the logarithm.
  const double reach = std::fmax(left * left, right * right) + item.order * std::fabs(at(item, right).l);
  const double integral = (sum.total + sum.lost) * h * 0.3989422804014327 * (1.0 + kOutward + 0x1p-50 * reach);
  if (!(integral > 1e-290)) return 1e-290;
  const double log_mass = std::log(item.w) + std::log(integral) + scale;
  if (log_mass > 40.0) return (log_mass * (1.0 + 0x1p-48) + 1e-17) / item.w;
  return std::log1p(item.w * integral * std::exp(scale)) / item.w * (1.0 + 0x1p-48 * (1.0 + scale));
}

// One item, rounded up; NaN where an argument is, or is out of its range.
EXPUNGE_HD static double sampled_rdp(bool reverse, double a, double s, double q) {
  if (!(a > 1.0 && a < HUGE_VAL && s >= 0.0 && q >= 0.0 && q <= 1.0)) return NAN;
  if (q == 0.0 || s == HUGE_VAL) return 0.0;
  if (s == 0.0) return reverse && q < 1.0 ? -std::log1p(-q) * (1.0 + kOutward) : HUGE_VAL;
  // No mixture is further from the Gaussian than its shifted component. One factor of s at a time: its square may
  // overflow.
  const double gaussian = std::fmax(0.5 * a / s / s * (1.0 + 0x1p-50), kLeast);
  if (q == 1.0) return gaussian;
  const double log_rest = std::log1p(-q);
  double value = std::fmin(divergence({reverse, a, a - 1.0, s, q, std::log(q), log_rest}), gaussian);
  if (reverse) value = std::fmin(value, -log_rest * (1.0 + 0x1p-50));  // the density ratio is at most 1/(1 - q)
  return std::fmax(value, kLeast);
}

}  // namespace
}  // namespace expunge::privacy
