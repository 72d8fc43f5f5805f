// Gaussian DP: delta(mu, epsilon) and its inverses, several at once. Header with bodies, internal linkage. On a GPU a
// vector is one number: one item per thread.
#pragma once

#include <math.h>

#include "privacy/mills.hpp"

namespace expunge::privacy {
namespace {

struct GdpValue {
  F64 log_delta;    // log delta
  F64 delta;        // delta, where it is above exp(-690)
  F64 relative;     // bound on the relative error of delta, which is the absolute one of log_delta
  F64 epsilon_slope;  // -d log delta / d epsilon, to a few digits
  F64 mu_slope;       // d log delta / d mu, to a few digits
};

constexpr double kUnit = 1.1102230246251565e-16;
constexpr double kDensity = 0.398942280401432677939946059934;  // 1 / sqrt(2 pi)
constexpr double kHuge = 0x1p664;                              // keeps the smallest mu away from subnormals
constexpr double kLogHuge = 664 * 0.693147180559945309417232;  // log of it

EXPUNGE_INLINE F64 smaller(F64 a, F64 b) { return select(a < b, a, b); }

// mu > 0, epsilon >= 0, both finite. With m = epsilon/mu, h = mu/2, a = m - h, b = m + h and R Mills' ratio,
// delta = phi(a) (R(a) - R(b)); e^epsilon phi(b) = phi(a) is used exactly.
[[maybe_unused]] EXPUNGE_HD EXPUNGE_OUTLINE static GdpValue gdp_value(F64 mu, F64 epsilon) {
  const F64 h = 0.5 * mu;
  const F64 m = smaller(epsilon / mu, splat(1e300));
  const F64 a = m - h;
  const F64 size = vm::abs(a);
  const F64 square = smaller(a * a, splat(1e300));
  const F64 wobble = kUnit * smaller(2.0 * square + m * size, splat(1e300));  // of the exponent a^2 / 2
  const F64 density = kDensity * vm::exp(-0.5 * square);
  // m was rounded before the subtraction: a is off by this much, however small it is, and log delta by at most
  // 1 + |a| times that (|a| is in the wobble).
  const F64 off = 2.0 * kUnit * m;
  const F64 near = smaller(off, splat(1e149));  // beyond, squares were cut as well: only delta <= 1 is known
  const F64 drift = select((off > 1e100) & (off > 0.1 * size), splat(1e301), near + 0.5 * near * near);
  const I64 small = (mu < 0.5) & (epsilon < 2.0);
  const I64 left = (a < 0.0) & (small == 0);
  F64 gap = splat(1.0), upper = gap, noise = gap, spread = gap;
  if (any(small == 0)) {
    const F64 ra = mills(smaller(size, splat(1e150)));
    upper = mills(smaller(m + h, splat(1e150)));
    spread = ra + upper;
    const F64 difference = ra - upper;
    // Where rounding has eaten the difference (delta below exp(-1e12)), R(a) alone is an upper bound.
    gap = select(difference * 1e-3 > kUnit * spread, difference, ra);
    noise = kUnit * (8.0 + 6.0 * spread / gap);
    gap *= kHuge;
  }
  if (any(small)) {
    // R(m - h) - R(m + h) = 2 sum_k h^(2k+1)/(2k+1)! J_(2k+1)(m), J_n(m) = int t^n exp(-m t - t^2/2) dt.
    const F64 x = smaller(m, splat(1e150));
    const F64 y = h * x;
    const F64 z = h * h;
    // K_n = h^n J_n / n! obeys (n + 1) K_(n+1) = h^2 K_(n-1) - h m K_n.
    const F64 j0 = mills(x);
    F64 odd = mills_slope(x);
    F64 even = 0.5 * h * (j0 - x * odd);
    F64 sum = odd;
    const F64 rb = j0 - h * odd + h * even;
    // odd = K_(2k+1) / h, even = K_(2k+2) / h.
    for (int k = 1; k <= 7; ++k) {
      const double n = 2.0 * k;
      odd = (z * odd - y * even) / (n + 1.0);
      even = (z * even - y * odd) / (n + 2.0);
      sum += odd;
    }
    gap = select(small, sum * (mu * kHuge), gap);
    upper = select(small, rb, upper);
    noise = select(small, splat(20.0 * kUnit), noise);
  }
  GdpValue out;
  const F64 miss = density * spread;  // 1 - delta where a < 0
  const F64 right_log = vm::log(gap * kDensity) - kLogHuge - 0.5 * square;
  const F64 right_delta = gap * (1.0 / kHuge) * density;
  const F64 left_delta = 1.0 - miss;
  out.delta = select(left, left_delta, right_delta);
  // Far in the left part log(1 - miss) = -miss: its own rounding would drown the slope.
  const F64 left_log =
      select(miss < 1e-5, -miss * (1.0 + miss * (0.5 + miss / 3.0)), vm::log(select(left, left_delta, splat(0.5))));
  out.log_delta = select(left, left_log, right_log);
  const F64 left_drift = select(off * (1.0 + size) < 0.1, 1.2 * off * density / left_delta, drift);
  out.relative =
      select(left, kUnit * 3.0 + miss * (12.0 * kUnit + wobble) / left_delta + left_drift, noise + wobble + drift);
  const F64 flux = select(left, density / left_delta, kHuge / gap);
  out.epsilon_slope = flux * upper;
  out.mu_slope = flux;
  return out;
}

// delta rounded up from lane `lane`.
EXPUNGE_HD static inline double gdp_round_up(const GdpValue& value, int lane) {
  const double relative = lane_of(value.relative, lane);
  const double log_delta = lane_of(value.log_delta, lane);
  if (relative < 1e-3 && log_delta > -690.0) {
    const double up = lane_of(value.delta, lane) * (1.0 + relative);
    return up < 1.0 ? up : 1.0;
  }
  // The logarithm's own rounding is an error of delta: of its size, and of kLogHuge that was in it.
  const double rounding = kUnit * (5.0 * ::fmin(-log_delta, 1e300) + 3.0 * kLogHuge);
  const double up = ::exp(log_delta + (relative + rounding)) * (1.0 + 1e-15) + 4.9406564584124654e-324;
  return up < 1.0 ? up : 1.0;
}

[[maybe_unused]] EXPUNGE_HD static void gdp_delta(const double* mu, const double* epsilon, double* delta, long begin,
                                                  long end) {
  for (long start = begin; start < end; start += kLanes) {
    F64 mus = splat(1.0);
    F64 epsilons = mus;
    const int count = end - start < kLanes ? static_cast<int>(end - start) : kLanes;
    for (int lane = 0; lane < count; ++lane) {
      if (mu[start + lane] > 0.0) set_lane(&mus, lane, mu[start + lane]);
      set_lane(&epsilons, lane, epsilon[start + lane]);
    }
    const GdpValue value = gdp_value(mus, epsilons);
    for (int lane = 0; lane < count; ++lane) {
      const double one_mu = mu[start + lane];
      const double one_epsilon = epsilon[start + lane];
      // NaN in, NaN out: the rounding above is all comparisons, and would lose it.
      delta[start + lane] = one_mu > 0.0 && one_epsilon >= 0.0    ? gdp_round_up(value, lane)
                            : one_mu == 0.0 && one_epsilon >= 0.0 ? 0.0
                                                                  : NAN;
    }
  }
}

[[maybe_unused]] EXPUNGE_HD static void gdp_epsilon(const double* mu, const double* delta, double* epsilon, long begin,
                                                    long end) {
  for (long start = begin; start < end; start += kLanes) {
    const int count = end - start < kLanes ? static_cast<int>(end - start) : kLanes;
    F64 mus = splat(1.0), log_target = splat(-1.0), target = splat(0.5);
    I64 open{};       // lanes still searching
    I64 maybe_zero{};  // lanes where epsilon = 0 may suffice
    double settled[kLanes];
    for (int lane = 0; lane < count; ++lane) {
      const double one_mu = mu[start + lane];
      const double one_delta = delta[start + lane];
      settled[lane] = NAN;
      if (!(one_mu >= 0.0 && one_delta >= 0.0)) continue;
      settled[lane] = 0.0;
      if (one_mu == 0.0 || one_delta >= 1.0) continue;
      settled[lane] = HUGE_VAL;
      // epsilon <= mu^2/2 + mu sqrt(-2 log delta), and within a factor of 2 of it where mu is large.
      if (!(one_delta > 0.0) || !(one_mu * (0.5 * one_mu + 40.0) < 1.7e308)) continue;
      set_lane(&mus, lane, one_mu);
      set_lane(&target, lane, one_delta);
      set_lane(&log_target, lane, ::log(one_delta));
      set_lane(&open, lane, -1);
      set_lane(&maybe_zero, lane, one_delta < 0.3 * (one_mu < 1.0 ? one_mu : 1.0) ? 0 : -1);
    }
    if (any(maybe_zero)) {
      const GdpValue value = gdp_value(mus, F64{});
      for (int lane = 0; lane < count; ++lane)
        if (lane_of(maybe_zero, lane) && gdp_round_up(value, lane) <= lane_of(target, lane)) {
          settled[lane] = 0.0;
          set_lane(&open, lane, 0);
        }
    }
    // sqrt(-2 log delta) is nearly linear in epsilon: Newton on it, inside the bracket.
    const F64 goal = sqrt_lanes(-2.0 * log_target);
    F64 low = F64{};
    F64 high = mus * (0.5 * mus + goal);
    const F64 top = high;
    F64 at = high;
    {
      // Tail approximation z of the normal quantile: epsilon = mu^2/2 + mu z, refined below.
      const F64 bump = vm::log(1.0 + 1.5 * goal) / (0.5 + goal);
      const F64 guess = mus * (0.5 * mus + goal - bump);
      at = select((guess > 0.0) & (guess < high), guess, 0.5 * high);
    }
    for (int round = 0; round < 100 && any(open); ++round) {
      const GdpValue value = gdp_value(mus, at);
      const F64 off = value.log_delta - log_target;
      const I64 above = off > 0.0;
      low = select(above, at, low);
      high = select(above, high, at);
      const F64 fine = 2.0 * value.relative + 4.0 * kUnit * vm::abs(log_target);
      const I64 done = (vm::abs(off) <= fine) | (high - low <= 4.0 * kUnit * high);
      const F64 level = sqrt_lanes(-2.0 * smaller(value.log_delta, splat(-1e-300)));
      // goal - level = 2 off / (goal + level), without cancellation.
      F64 next = at + 2.0 * off / (goal + level) * level / value.epsilon_slope;
      next = select((next > low) & (next < high), next, 0.5 * (low + high));
      for (int lane = 0; lane < count; ++lane) {
        if (!lane_of(open, lane) || !lane_of(done, lane)) continue;
        set_lane(&open, lane, 0);
        // Outward by the error, then proved by the rounded-up delta itself.
        const double relative = lane_of(value.relative, lane);
        double step = lane_of(off, lane) + 2.0 * relative + 4.0 * kUnit * lane_of(vm::abs(log_target), lane);
        if (!(step > 0.0)) step = relative;
        settled[lane] = lane_of(at, lane) + step / lane_of(value.epsilon_slope, lane);
        settled[lane] *= 1.0 + 4.0 * kUnit;
        // Where rounding swamps the exponent, and with it this step: the bound from the start.
        if (!(settled[lane] < lane_of(top, lane))) settled[lane] = lane_of(top, lane);
      }
      at = select(open != 0, next, at);
    }
    I64 unproved{};
    F64 candidate = splat(1.0);
    for (int lane = 0; lane < count; ++lane) {
      if (lane_of(open, lane)) settled[lane] = lane_of(top, lane);
      if (settled[lane] > 0.0 && settled[lane] < HUGE_VAL) {
        set_lane(&candidate, lane, settled[lane]);
        set_lane(&unproved, lane, -1);
      }
    }
    double growth = 16.0 * kUnit;
    for (int round = 0; round < 200 && any(unproved); ++round) {
      const GdpValue value = gdp_value(mus, candidate);
      for (int lane = 0; lane < count; ++lane) {
        if (!lane_of(unproved, lane)) continue;
        if (gdp_round_up(value, lane) <= lane_of(target, lane)) {
          set_lane(&unproved, lane, 0);
          settled[lane] = lane_of(candidate, lane);
        } else {
          set_lane(&candidate, lane, lane_of(candidate, lane) * (1.0 + growth));
        }
      }
      growth *= 2.0;
    }
    for (int lane = 0; lane < count; ++lane) epsilon[start + lane] = lane_of(unproved, lane) ? HUGE_VAL : settled[lane];
  }
}

[[maybe_unused]] EXPUNGE_HD static void gdp_mu(const double* epsilon, const double* delta, double* mu, long begin,
                                               long end) {
  for (long start = begin; start < end; start += kLanes) {
    const int count = end - start < kLanes ? static_cast<int>(end - start) : kLanes;
    F64 epsilons = splat(1.0), at = epsilons;
    F64 log_target = splat(-1.0), target = splat(0.5);
    I64 open{};      // lanes still searching
    I64 unproved{};  // lanes whose answer the rounded-up delta has not confirmed yet
    double settled[kLanes];
    for (int lane = 0; lane < count; ++lane) {
      const double one_epsilon = epsilon[start + lane];
      const double one_delta = delta[start + lane];
      settled[lane] = NAN;
      if (!(one_epsilon >= 0.0 && one_delta >= 0.0)) continue;
      settled[lane] = one_delta >= 1.0 ? HUGE_VAL : 0.0;
      if (!(one_delta > 0.0 && one_delta < 1.0)) continue;
      set_lane(&epsilons, lane, one_epsilon);
      set_lane(&target, lane, one_delta);
      set_lane(&log_target, lane, ::log(one_delta));
      // Two lower bounds: delta <= Phi(-a) <= exp(-a^2/2), and delta <= 2 Phi(mu/2) - 1 <= mu / sqrt(2 pi).
      const double z = ::sqrt(-2.0 * lane_of(log_target, lane));
      const double tail = one_epsilon / (0.5 * z + ::sqrt(0.25 * z * z + 0.5 * one_epsilon));
      const double flat = one_delta / kDensity;
      set_lane(&at, lane, tail > flat ? tail : flat);
      set_lane(&open, lane, -1);
      set_lane(&unproved, lane, -1);
    }
    F64 low = 0.5 * at, high = splat(HUGE_VAL);
    const F64 bottom = at * (1.0 - 16.0 * kUnit);
    for (int round = 0; round < 200 && any(open); ++round) {
      const GdpValue value = gdp_value(at, epsilons);
      const F64 off = value.log_delta - log_target;
      const I64 above = off > 0.0;
      high = select(above, at, high);
      low = select(above, low, at);
      const F64 fine = 2.0 * value.relative + 4.0 * kUnit * vm::abs(log_target);
      const I64 done = (vm::abs(off) <= fine) | ((high < 1e300) & (high - low <= 4.0 * kUnit * high));
      // log delta is concave in log mu: Newton there climbs without overshooting.
      F64 step = -off / (at * value.mu_slope);
      step = select(step < 2.0, step, splat(2.0));
      F64 next = at * vm::exp(select(step > -2.0, step, splat(-2.0)));
      const F64 middle = select(high < 1e300, low + 0.5 * (high - low), 2.0 * at);
      next = select((next > low) & (next < high), next, middle);
      for (int lane = 0; lane < count; ++lane) {
        if (!lane_of(open, lane) || !lane_of(done, lane)) continue;
        set_lane(&open, lane, 0);
        const double relative = lane_of(value.relative, lane);
        double back = lane_of(off, lane) + 2.0 * relative + 4.0 * kUnit * lane_of(vm::abs(log_target), lane);
        if (!(back > 0.0)) back = relative;
        settled[lane] = (lane_of(at, lane) - back / lane_of(value.mu_slope, lane)) * (1.0 - 4.0 * kUnit);
      }
      at = select(open != 0, next, at);
    }
    // Where rounding swamps the exponent, and with it the step back: the bounds from the start.
    F64 candidate = splat(1.0);
    for (int lane = 0; lane < count; ++lane)
      if (lane_of(unproved, lane) != 0)
        set_lane(
            &candidate, lane,
            lane_of(open, lane) == 0 && settled[lane] > lane_of(bottom, lane) ? settled[lane] : lane_of(bottom, lane));
    double shrink = 16.0 * kUnit;
    for (int round = 0; round < 200 && any(unproved); ++round) {
      const GdpValue value = gdp_value(candidate, epsilons);
      for (int lane = 0; lane < count; ++lane) {
        if (!lane_of(unproved, lane)) continue;
        if (gdp_round_up(value, lane) <= lane_of(target, lane)) {
          set_lane(&unproved, lane, 0);
          settled[lane] = lane_of(candidate, lane);
        } else {
          set_lane(&candidate, lane, lane_of(candidate, lane) * (1.0 - shrink));
        }
      }
      shrink = shrink < 0.25 ? 2.0 * shrink : 0.5;
    }
    for (int lane = 0; lane < count; ++lane) mu[start + lane] = lane_of(unproved, lane) ? 0.0 : settled[lane];
  }
}

}  // namespace
}  // namespace expunge::privacy
