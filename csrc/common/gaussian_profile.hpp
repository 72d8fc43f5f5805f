// The exact privacy profile of one pair of Gaussians: Q = N(0, I), P = N(d, I + diag e).
// Header with bodies: include only from sources compiled once per instruction set. Internal linkage, no allocation.
// A team of lanes works on one pair: they split the excesses, or the nodes of a panel.
//
// delta(eps) = (1/(2 pi i)) int exp(-w eps + K(w)) / (w (1 + w)) dw over a contour with Re w = w0 > 0 at the real axis,
// K(w) = sum_j [w (1 + w) d2_j / (2 v_j) - (q/2) (log v_j + w log1p(e_j))], v_j = 1 - w e_j.
// For delta(Q | P) exchange the roles first.
#pragma once

#include <math.h>

#include "common/team.hpp"
#include "common/vector_math.hpp"

namespace {

namespace team = expunge::team;

struct ProfileResult {
  double log_delta;       // log of delta(P | Q) at epsilon; -inf where delta is exactly 0
  double relative_error;  // estimated error of delta relative to delta, quadrature and rounding together
  int converged;          // 0: log_delta is the Chernoff-type upper bound instead (or NaN if the input was)
  double saddle;          // -d log delta / d epsilon, to a few per cent where converged
};

// The pair seen by every routine below. d2[j] sums the squared shift over the q columns that share excess e[j].
struct ProfilePair {
  const double* e;
  const double* d2;
  long m;
  double rest_d2;     // squared shift along directions whose excess is exactly 0
  double q;           // columns: the multiplicity of each excess in the log-determinant
  double sum_log1p;   // sum_j log1p(e_j)
  double sum_abs;     // sum_j |log1p(e_j)|, for the rounding error
  double pole;        // 1 / max positive e, or +inf
  double max_loss;    // supremum of log(dP/dQ), or +inf
  int trivial;        // P = Q
  int valid;          // 0: NaN, infinite or e <= -1 somewhere
};

struct ProfileSlopes {
  double k1, k2, k3, k4;  // derivatives of K at a real w
};

EXPUNGE_HD static ProfilePair profile_pair(const double* e, const double* d2, long m, double rest_d2, double q) {
  ProfilePair pair{e, d2, m, rest_d2, q, 0.0, 0.0, HUGE_VAL, 0.0, 1, 1};
  double top = 0.0;
  double loss = 0.0;
  bool unbounded = rest_d2 > 0.0;
  bool trivial = rest_d2 == 0.0;
  bool valid = rest_d2 >= 0.0 && rest_d2 < HUGE_VAL && q > 0.0 && q < HUGE_VAL;
  for (long j = team::lane(); j < m; j += team::size) {
    const double ej = e[j];
    const double dj = d2[j];
    valid = valid && ej > -1.0 && ej < HUGE_VAL && dj >= 0.0 && dj < HUGE_VAL;
    const double a = fabs(ej);
    const double series = ej * (1.0 - ej * (1.0 / 2 - ej * (1.0 / 3 - ej * (1.0 / 4 - ej * (1.0 / 5 - ej / 6)))));
    const double term = a < 1e-3 ? series : log1p(ej);
    pair.sum_log1p += term;
    pair.sum_abs += fabs(term);
    if (ej > top) top = ej;
    if (ej > 0.0 || (ej == 0.0 && dj > 0.0)) unbounded = true;
    if (ej < 0.0) loss += dj / (-2.0 * ej);
    if (ej != 0.0 || dj != 0.0) trivial = false;
  }
  top = team::largest(top);
  loss = team::sum(loss);
  unbounded = team::any(unbounded);
  trivial = !team::any(!trivial);
  valid = !team::any(!valid);
  pair.sum_log1p = team::sum(pair.sum_log1p);
  pair.sum_abs = team::sum(pair.sum_abs);
  if (top > 0.0) pair.pole = 1.0 / top;
  pair.max_loss = unbounded ? HUGE_VAL : loss - 0.5 * q * pair.sum_log1p;
  pair.trivial = trivial;
  pair.valid = valid;
  return pair;
}

EXPUNGE_HD static ProfileSlopes profile_slopes(const ProfilePair& pair, double w) {
  const double rest_d2 = team::leads() ? pair.rest_d2 : 0.0;  // added once
  double k1 = 0.5 * rest_d2 * (1.0 + 2.0 * w);
  double k2 = rest_d2;
  double k3 = 0.0;
  double k4 = 0.0;
  double r1 = 0.0;
  double r2 = 0.0;
  double r3 = 0.0;
  double r4 = 0.0;
  for (long j = team::lane(); j < pair.m; j += team::size) {
    const double ej = pair.e[j];
    const double inverse = 1.0 / (1.0 - w * ej);
    const double r = ej * inverse;
    const double square = inverse * inverse;
    const double bend = pair.d2[j] * (1.0 + ej) * square * inverse;
    k1 += 0.5 * pair.d2[j] * (1.0 + 2.0 * w - w * w * ej) * square;
    k2 += bend;
    k3 += bend * r;
    k4 += bend * r * r;
    r1 += r;
    r2 += r * r;
    r3 += r * r * r;
    r4 += r * r * r * r;
  }
  k1 = team::sum(k1);
  k2 = team::sum(k2);
  k3 = team::sum(k3);
  k4 = team::sum(k4);
  r1 = team::sum(r1);
  r2 = team::sum(r2);
  r3 = team::sum(r3);
  r4 = team::sum(r4);
  const double half = 0.5 * pair.q;
  return {k1 + half * (r1 - pair.sum_log1p), k2 + half * r2, 3.0 * k3 + 2.0 * half * r3, 12.0 * k4 + 6.0 * half * r4};
}

// K at a real w in [0, pole); *size grows by the sum of the magnitudes that were added.
EXPUNGE_HD static double profile_log_moment(const ProfilePair& pair, double w, double* size) {
  double shift = team::leads() ? pair.rest_d2 : 0.0;
  double logs = 0.0;
  double magnitude = 0.0;
  for (long j = team::lane(); j < pair.m; j += team::size) {
    const double e = pair.e[j];
    const double x = w * e;
    shift += pair.d2[j] / (1.0 - x);
    if (fabs(x) < 2e-3 && fabs(e) < 2e-3) {
      // The first-order terms of -log1p(-x) and -w log1p(e) cancel: add the rest, or a tiny excess drowns in rounding.
      const double up = x * x * (1.0 / 2 + x * (1.0 / 3 + x * (1.0 / 4 + x * (1.0 / 5 + x * (1.0 / 6 + x / 7)))));
      const double down = w * e * e * (1.0 / 2 - e * (1.0 / 3 - e * (1.0 / 4 - e * (1.0 / 5 - e * (1.0 / 6 - e / 7)))));
      logs -= up + down;
      magnitude += up + down;
    } else {
      const double first = log1p(-x);
      const double second = w * log1p(e);
      logs += first + second;
      magnitude += fabs(first) + fabs(second) + (x > 0.5 ? x / (1.0 - x) : 0.0);
    }
  }
  shift = team::sum(shift);
  logs = team::sum(logs);
  magnitude = team::sum(magnitude);
  const double bend = 0.5 * w * (1.0 + w) * shift;
  *size += bend + 0.5 * pair.q * magnitude;
  return bend - 0.5 * pair.q * logs;
}

// Minimiser over (0, pole) of base(w) = -w eps + K(w) - log w - log1p w, which is convex. Near is good enough: any
// contour gives the same integral.
EXPUNGE_HD EXPUNGE_OUTLINE static double profile_saddle(const ProfilePair& pair, double epsilon,
                                                        ProfileSlopes* slopes) {
  const ProfileSlopes zero = profile_slopes(pair, 0.0);
  const double drift = zero.k1 - epsilon;
  double low = 0.0;
  double high = pair.pole;
  double w;
  if (zero.k2 > 0.0) {
    const double root = sqrt(drift * drift + 6.0 * zero.k2);
    w = drift > 0.0 ? 3.0 / (drift + root) : (root - drift) / (2.0 * zero.k2);
  } else {
    w = 1.0;
  }
  if (!(w > 0.0)) w = 1e-300;
  if (!(w < HUGE_VAL)) w = 1e300;
  if (w >= 0.9 * high) w = 0.9 * high;
  for (int round = 0; round < 200; ++round) {
    *slopes = profile_slopes(pair, w);
    const double slope = slopes->k1 - epsilon - 1.0 / w - 1.0 / (1.0 + w);
    const double bend = slopes->k2 + 1.0 / (w * w) + 1.0 / ((1.0 + w) * (1.0 + w));
    if (slope > 0.0) high = w;
    else low = w;
    double next;
    if (slope > 0.0 || pair.pole == HUGE_VAL || w < 0.5 * pair.pole) {
      // Newton on w * slope in log w: straightens the 1/w wall at the origin.
      const double step = -slope / (bend * w + slope);
      next = bend * w + slope > 0.0 ? w * exp(step > 3.0 ? 3.0 : step < -3.0 ? -3.0 : step) : 2.0 * w;
    } else {
      // Newton on the distance to the pole, same idea.
      const double gap = pair.pole - w;
      const double turn = bend * gap - slope;
      next = turn > 0.0 ? pair.pole - gap * exp(slope / turn < -3.0 ? -3.0 : slope / turn) : w - slope / bend;
    }
    if (next == w) break;  // the step is below rounding: bisection would leave the answer
    if (!(next > low && next < high)) {
      if (high == HUGE_VAL) next = 4.0 * w;
      else if (low == 0.0) next = 0.25 * high;
      else if (high == pair.pole && high < 2.0 * low) next = high - 0.25 * (high - low);
      else next = high > 4.0 * low ? sqrt(low) * sqrt(high) : 0.5 * (low + high);
    }
    if (!(next > 0.0 && next < pair.pole && next < 1e300)) break;
    const double move = fabs(next - w);
    w = next;
    const double room = pair.pole - w < w ? pair.pole - w : w;
    if (move <= 1e-4 * room) break;
  }
  *slopes = profile_slopes(pair, w);
  return w;
}

// The 24-point Gauss-Legendre rule on [-1, 1].
constexpr int kPanel = 24;
constexpr double kPanelReach = 0.99518721999702136018;  // the last node
// Vectors of nodes a lane of the team has; alone it has all of them, and a warp has lanes to spare.
constexpr int kBlocks = team::size > 1 ? 1 : kPanel / vm::kLanes;
static_assert(team::size == 1 || team::size * vm::kLanes >= kPanel, "one vector of nodes each");

// Node i and its weight.
EXPUNGE_HD static inline double panel_node(int i, double* weight) {
  static const double kNode[12] = {
      0.064056892862605626085, 0.19111886747361630916, 0.31504267969616337439, 0.43379350762604513849,
      0.54542147138883953566, 0.64809365193697556925, 0.74012419157855436424, 0.82000198597390292195,
      0.88641552700440103421, 0.93827455200273275852, 0.9747285559713094982, 0.99518721999702136018};
  static const double kWeight[12] = {
      0.12793819534675215697, 0.12583745634682829612, 0.1216704729278033912, 0.11550566805372560135,
      0.10744427011596563478, 0.09761865210411388827, 0.086190161531953275917, 0.073346481411080305734,
      0.059298584915436780746, 0.044277438817419806169, 0.028531388628933663181, 0.012341229799987199547};
  const int k = i < 12 ? 11 - i : i - 12;
  *weight = kWeight[k];
  return i < 12 ? -kNode[k] : kNode[k];
}

constexpr int kOrder = 8;  // lumped excesses enter as a power series up to (w e)^(kOrder - 1)

struct PanelSum {
  double value;       // integral over the panel of Re(integrand dw / i), relative to its value at w0
  double end_size;    // |integrand| at the last node
  double largest;     // largest |integrand| met
  double phase_rate;  // |d phase / dt| over the panel
};

struct Contour {
  double w0, s, bend;  // w(t) = w0 + bend s (sqrt(1 + (t/s)^2) - 1) + i t
  double epsilon, exponent, rtol;  // exponent = K(w0) - w0 eps
};

EXPUNGE_HD EXPUNGE_OUTLINE static PanelSum profile_panel(const ProfilePair& pair, const Contour& path, double begin,
                                                         double width) {
  using vm::vd;
  vd wr[kBlocks], wi[kBlocks], tilt[kBlocks], weight[kBlocks];
  vd pr[kBlocks], pi[kBlocks], turns[kBlocks], scale[kBlocks], sr[kBlocks], si[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    vd t;
    for (int lane = 0; lane < vm::kLanes; ++lane) {
      const int i = (static_cast<int>(team::lane()) * kBlocks + b) * vm::kLanes + lane;
      double share;
      const double node = panel_node(i < kPanel ? i : kPanel - 1, &share);
      vm::set(&t, lane, begin + 0.5 * width * (1.0 + node));
      vm::set(&weight[b], lane, i < kPanel ? 0.5 * width * share : 0.0);
    }
    const vd x = t / path.s;
    const vd h = vm::sqrt(1.0 + x * x);
    wr[b] = path.w0 + (path.bend * path.s) * (x * x / (h + 1.0));
    wi[b] = t;
    tilt[b] = path.bend * x / h;
    pr[b] = vm::broadcast(1.0);
    pi[b] = turns[b] = scale[b] = sr[b] = si[b] = vm::broadcast(0.0);
  }
  const double end_t = begin + width;
  const double end_x = end_t / path.s;
  const double reach = fabs(path.w0) + fabs(path.bend) * path.s * (sqrt(1.0 + end_x * end_x) - 1.0);
  const double w_max = sqrt(reach * reach + end_t * end_t);
  double shift_moment[kOrder] = {};
  double moment[kOrder] = {};
  double lumped = 0.0;
  int pending = 0;
  for (long j = 0; j < pair.m; ++j) {
    const double e = pair.e[j];
    const double d2 = pair.d2[j];
    const double ratio = fabs(e) * w_max;
    const double r2 = ratio * ratio;
    const double r8 = (r2 * r2) * (r2 * r2);
    if (ratio < 0.25 && (d2 * w_max * (1.0 + w_max) + pair.q) * r8 <= 1e-3 * path.rtol) {
      double power = 1.0;
      for (int k = 0; k < kOrder; ++k) {
        shift_moment[k] += d2 * power;
        moment[k] += power;
        power *= e;
      }
      ++lumped;
      continue;
    }
    for (int b = 0; b < kBlocks; ++b) {
      const vd vr = 1.0 - e * wr[b];
      const vd vi = -e * wi[b];
      const vd re = pr[b] * vr - pi[b] * vi;
      const vd im = pr[b] * vi + pi[b] * vr;
      // The product turns one way per factor; a sign change of the imaginary part tells when it passed the cut.
      if (e > 0.0) turns[b] -= vm::select((pi[b] <= 0.0) & (im > 0.0), vm::broadcast(1.0), vm::broadcast(0.0));
      else turns[b] += vm::select((pi[b] >= 0.0) & (im < 0.0), vm::broadcast(1.0), vm::broadcast(0.0));
      pr[b] = re;
      pi[b] = im;
      const vd factor = d2 / (vr * vr + vi * vi);
      sr[b] += factor * vr;
      si[b] -= factor * vi;
    }
    if (++pending == 6) {
      pending = 0;
      for (int b = 0; b < kBlocks; ++b) vm::rescale(&pr[b], &pi[b], &scale[b]);
    }
  }
  const double half = 0.5 * pair.q;
  const double linear = half * (moment[1] - pair.sum_log1p);
  PanelSum out{0.0, 0.0, 0.0, 0.0};
  double first_phase = 0.0;
  double last_phase = 0.0;
  for (int b = 0; b < kBlocks; ++b) {
    vm::rescale(&pr[b], &pi[b], &scale[b]);
    vd log_size = 0.5 * vm::log(pr[b] * pr[b] + pi[b] * pi[b]) + scale[b] * 0.693147180559945309417232121458;
    vd angle = vm::atan2(pi[b], pr[b]) + turns[b] * 6.28318530717958647692528676656;
    // Lumped part by Horner: shift series, and sum_k moment[k] w^k / k for k >= 2.
    vd ar = vm::broadcast(0.0), ai = ar, lr = ar, li = ar;
    if (lumped > 0.0) {
      for (int k = kOrder - 1; k >= 0; --k) {
        const vd nr = ar * wr[b] - ai * wi[b] + shift_moment[k];
        ai = ar * wi[b] + ai * wr[b];
        ar = nr;
      }
      for (int k = kOrder - 1; k >= 2; --k) {
        const vd nr = lr * wr[b] - li * wi[b] + moment[k] / k;
        li = lr * wi[b] + li * wr[b];
        lr = nr;
      }
      for (int k = 0; k < 2; ++k) {
        const vd nr = lr * wr[b] - li * wi[b];
        li = lr * wi[b] + li * wr[b];
        lr = nr;
      }
    }
    ar += sr[b] + pair.rest_d2;
    ai += si[b];
    // w (1 + w) / 2 times the shift sum.
    const vd nr = wr[b] + 1.0;
    const vd zr = 0.5 * (wr[b] * nr - wi[b] * wi[b]);
    const vd zi = 0.5 * wi[b] * (wr[b] + nr);
    const vd real = zr * ar - zi * ai + half * (lr - log_size) + (linear - path.epsilon) * wr[b] - path.exponent;
    const vd phase = zr * ai + zi * ar + half * (li - angle) + (linear - path.epsilon) * wi[b];
    // Divide by w (1 + w), each factor relative to its size at w0 so that nothing overflows.
    const vd ur = wr[b] / path.w0, ui = wi[b] / path.w0;
    const vd yr = nr / (1.0 + path.w0), yi = wi[b] / (1.0 + path.w0);
    const vd cr = ur * yr - ui * yi, ci = ur * yi + ui * yr;
    const vd norm = 1.0 / (cr * cr + ci * ci);
    vd sine, cosine;
    vm::sincos(phase, &sine, &cosine);
    const vd size = vm::exp(real);
    // (cosine + i sine)(cr - i ci)(1 - i tilt) / |c|^2, real part.
    const vd fr = (cosine * cr + sine * ci) * norm;
    const vd fi = (sine * cr - cosine * ci) * norm;
    const vd value = size * (fr + fi * tilt[b]) * weight[b];
    const vd absolute = size * vm::sqrt(norm * (1.0 + tilt[b] * tilt[b]));
    for (int lane = 0; lane < vm::kLanes; ++lane) {
      out.value += vm::get(value, lane);
      if (!(vm::get(absolute, lane) <= out.largest)) out.largest = vm::get(absolute, lane);
    }
    if (b == 0) first_phase = vm::get(phase, 0);
    if (b == kBlocks - 1) {
      last_phase = vm::get(phase, vm::kLanes - 1);
      out.end_size = vm::get(absolute, vm::kLanes - 1);
    }
  }
  if (team::size > 1) {
    const int last = kPanel / vm::kLanes - 1;  // the lane with the last node
    out.value = team::sum(out.value);
    out.largest = team::largest(out.largest == out.largest ? out.largest : HUGE_VAL);
    first_phase = team::from_lane(first_phase, 0);
    last_phase = team::from_lane(last_phase, last);
    out.end_size = team::from_lane(out.end_size, last);
  }
  out.phase_rate = fabs(last_phase - first_phase) / (width * kPanelReach);
  return out;
}

// log of the bound delta <= exp(K - w eps) w^w / (1 + w)^(1 + w), given exponent = K - w eps at w.
EXPUNGE_HD static double profile_bound(double exponent, double w) {
  const double bound = exponent - log1p(w) - w * log1p(1.0 / w);
  return bound < 0.0 ? bound : 0.0;
}

// The supremum of the privacy loss, rounded up: at and beyond it delta is exactly 0.
EXPUNGE_HD static double loss_ceiling(const ProfilePair& pair) {
  const double size = fabs(pair.max_loss) + 0.5 * pair.q * pair.sum_abs;
  return pair.max_loss + (8.0 + static_cast<double>(pair.m)) * 2.220446049250313e-16 * size;
}

EXPUNGE_HD EXPUNGE_OUTLINE static ProfileResult profile_at(const ProfilePair& pair, double epsilon, double rtol,
                                                           int approximate) {
  const double unit = 2.220446049250313e-16;
  if (!pair.valid || !(epsilon >= 0.0)) return {NAN, NAN, 0, 0.0};
  if (pair.trivial || epsilon == HUGE_VAL) return {-HUGE_VAL, 0.0, 1, 0.0};
  if (pair.max_loss < HUGE_VAL) {
    if (epsilon > loss_ceiling(pair)) return {-HUGE_VAL, 0.0, 1, 0.0};
  }
  ProfileSlopes slopes;
  double w0 = profile_saddle(pair, epsilon, &slopes);
  double size = w0 * epsilon;
  double exponent = profile_log_moment(pair, w0, &size) - w0 * epsilon;
  // Every w below the pole gives a bound: where squares overflow at the saddle, a smaller one does.
  const bool overflows = !(exponent < HUGE_VAL && size < HUGE_VAL);
  while (!(exponent < HUGE_VAL && size < HUGE_VAL) && w0 > 2.0) {
    w0 = sqrt(w0);
    size = w0 * epsilon;
    exponent = profile_log_moment(pair, w0, &size) - w0 * epsilon;
  }
  if (!(exponent < HUGE_VAL && size < HUGE_VAL)) return {0.0, 1.0, 0, w0};
  const double rounding = (2.0 + 0.05 * static_cast<double>(pair.m)) * unit * (size + 4.0);
  const double bound = profile_bound(exponent, w0);
  if (overflows) return {bound + rounding < 0.0 ? bound + rounding : 0.0, 1.0, 0, w0};
  const double base = exponent - ::log(w0) - log1p(w0);
  const double a = 1.0 / w0;
  const double c = 1.0 / (1.0 + w0);
  const double k2 = slopes.k2 + a * a + c * c;
  if (approximate) {
    const double k3 = slopes.k3 - 2.0 * (a * a * a + c * c * c);
    const double k4 = slopes.k4 + 6.0 * (a * a * a * a + c * c * c * c);
    const double fix = k4 / (8.0 * k2 * k2) - 5.0 * k3 * k3 / (24.0 * k2 * k2 * k2);
    const double factor = fix > -0.5 && fix < 0.5 ? 1.0 + fix : 1.0;
    const double value = base - 0.5 * ::log(6.28318530717958647692528676656 * k2) + ::log(factor);
    return {value < bound ? value : bound, 0.02 + fix * fix, 1, w0};
  }
  if (!(base >= -700.0)) return {bound + rounding < 0.0 ? bound + rounding : 0.0, 1.0, 0, w0};
  double s = 1.0 / sqrt(k2);
  const double gap = pair.pole - w0;
  const double cap = 10.0 * (gap < w0 ? gap : w0);
  if (s > cap) s = cap;
  const double bends[3] = {0.0, 0.6, -0.6};
  for (int side = 0; side < 3; ++side) {
    const Contour path{w0, s, bends[side], epsilon, exponent, rtol};
    double total = 0.0;
    double positive = 0.0;
    double t = 0.0;
    double width = 0.5 * s;
    int quiet = 0;
    const int panels = side == 0 ? 40 : 80;
    for (int panel = 0; panel < panels; ++panel) {
      const PanelSum part = profile_panel(pair, path, t, width);
      if (!(part.largest <= 1e3)) break;
      total += part.value;
      positive += fabs(part.value);
      t += width;
      quiet = part.end_size * t <= 0.1 * rtol * fabs(total) ? quiet + 1 : 0;
      if (quiet == 2) {
        const double relative = rtol + rounding * (positive / total);
        const double value = base + ::log(total / 3.14159265358979323846264338328);
        if (!(total > 0.0) || !(value <= bound + 1e-6)) break;
        return {value, relative, 1, w0};
      }
      width *= 1.6;
      if (part.phase_rate * width > 10.0) width = 10.0 / part.phase_rate;
    }
  }
  return {bound + rounding < 0.0 ? bound + rounding : 0.0, 1.0, 0, w0};
}

// delta(P | Q) at epsilon. rtol: wanted relative accuracy (1e-12 for certificates, 1e-8 for quotes).
[[maybe_unused]] EXPUNGE_HD static ProfileResult gaussian_profile(const double* e, const double* d2, long m,
                                                                  double rest_d2, double q, double epsilon,
                                                                  double rtol) {
  return profile_at(profile_pair(e, d2, m, rest_d2, q), epsilon, rtol, 0);
}

// The saddle-point estimate of the same, two to three digits: to start a noise solve, never to claim.
[[maybe_unused]] EXPUNGE_HD static ProfileResult gaussian_profile_approx(const double* e, const double* d2, long m,
                                                                         double rest_d2, double q, double epsilon) {
  return profile_at(profile_pair(e, d2, m, rest_d2, q), epsilon, 1e-2, 1);
}

// The pair with its roles exchanged, whitened by the other law; rest_d2 stays as it is. In place is allowed.
[[maybe_unused]] EXPUNGE_HD static void swap_roles(const double* e, const double* d2, long m, double* e_out,
                                                   double* d2_out) {
  team::sync();
  for (long j = team::lane(); j < m; j += team::size) {
    const double scale = 1.0 / (1.0 + e[j]);
    d2_out[j] = d2[j] * scale;
    e_out[j] = -e[j] * scale;
  }
  team::sync();
}

// Renyi divergence D_order(P | Q), order > 1; +inf where it diverges. *error: bound on the rounding error.
[[maybe_unused]] EXPUNGE_HD static double gaussian_renyi(const double* e, const double* d2, long m, double rest_d2,
                                                         double q, double order, double* error) {
  const ProfilePair pair = profile_pair(e, d2, m, rest_d2, q);
  const double w = order - 1.0;
  *error = 0.0;
  if (!pair.valid || !(w > 0.0)) return NAN;
  if (pair.trivial) return 0.0;
  if (!(w < pair.pole)) return HUGE_VAL;
  double size = 0.0;
  const double value = profile_log_moment(pair, w, &size) / w;
  *error = 8.0 * 2.220446049250313e-16 * size / w;
  return value > 0.0 ? value : 0.0;
}

}  // namespace
