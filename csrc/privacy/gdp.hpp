// Gaussian DP: delta(mu, epsilon) and its inverses, several at once. Header with bodies, internal linkage. On a GPU a
// vector is one number: one item per thread.
#pragma once

#include "common/special.hpp"

namespace {

// Masks lane by lane.
namespace vm {
#if defined(EXPUNGE_DEVICE_CODE)
EXPUNGE_INLINE long long get(vi mask, int) { return mask; }
EXPUNGE_INLINE void set(vi* mask, int, long long value) { *mask = value; }
#else
EXPUNGE_INLINE long long get(vi mask, int lane) { return mask[lane]; }
EXPUNGE_INLINE void set(vi* mask, int lane, long long value) { (*mask)[lane] = value; }
#endif
}  // namespace vm

using vm::kLanes;
using vm::vd;
using vm::vi;

struct GdpValue {
  vd log_delta;    // log delta
  vd delta;        // delta, where it is above exp(-690)
  vd relative;     // bound on the relative error of delta, which is the absolute one of log_delta
  vd epsilon_slope;  // -d log delta / d epsilon, to a few digits
  vd mu_slope;       // d log delta / d mu, to a few digits
};

constexpr double kUnit = 1.1102230246251565e-16;
constexpr double kDensity = 0.398942280401432677939946059934;  // 1 / sqrt(2 pi)
constexpr double kHuge = 0x1p664;                              // keeps the smallest mu away from subnormals
constexpr double kLogHuge = 664 * 0.693147180559945309417232;  // log of it

EXPUNGE_INLINE vd smaller(vd a, vd b) { return vm::select(a < b, a, b); }

EXPUNGE_INLINE bool any(vi mask) {
  long long seen = 0;
  for (int lane = 0; lane < kLanes; ++lane) seen |= vm::get(mask, lane);
  return seen != 0;
}

// mu > 0, epsilon >= 0, both finite. With m = epsilon/mu, h = mu/2, a = m - h, b = m + h and R Mills' ratio,
// delta = phi(a) (R(a) - R(b)); e^epsilon phi(b) = phi(a) is used exactly.
[[maybe_unused]] EXPUNGE_HD EXPUNGE_OUTLINE static GdpValue gdp_value(vd mu, vd epsilon) {
  const vd h = 0.5 * mu;
  const vd m = smaller(epsilon / mu, vm::broadcast(1e300));
  const vd a = m - h;
  const vd size = vm::abs(a);
  const vd square = smaller(a * a, vm::broadcast(1e300));
  const vd wobble = kUnit * smaller(2.0 * square + m * size, vm::broadcast(1e300));  // of the exponent a^2 / 2
  const vd density = kDensity * vm::exp(-0.5 * square);
  // m was rounded before the subtraction: a is off by this much, however small it is, and log delta by at most
  // 1 + |a| times that (|a| is in the wobble).
  const vd off = 2.0 * kUnit * m;
  const vd near = smaller(off, vm::broadcast(1e149));  // beyond, squares were cut as well: only delta <= 1 is known
  const vd drift = vm::select((off > 1e100) & (off > 0.1 * size), vm::broadcast(1e301), near + 0.5 * near * near);
  const vi small = (mu < 0.5) & (epsilon < 2.0);
  const vi left = (a < 0.0) & (small == 0);
  vd gap = vm::broadcast(1.0), upper = gap, noise = gap, spread = gap;
  if (any(small == 0)) {
    const vd ra = vm::mills(smaller(size, vm::broadcast(1e150)));
    upper = vm::mills(smaller(m + h, vm::broadcast(1e150)));
    spread = ra + upper;
    const vd difference = ra - upper;
    // Where rounding has eaten the difference (delta below exp(-1e12)), R(a) alone is an upper bound.
    gap = vm::select(difference * 1e-3 > kUnit * spread, difference, ra);
    noise = kUnit * (8.0 + 6.0 * spread / gap);
    gap *= kHuge;
  }
  if (any(small)) {
    // R(m - h) - R(m + h) = 2 sum_k h^(2k+1)/(2k+1)! J_(2k+1)(m), J_n(m) = int t^n exp(-m t - t^2/2) dt.
    const vd x = smaller(m, vm::broadcast(1e150));
    const vd y = h * x;
    const vd z = h * h;
    // K_n = h^n J_n / n! obeys (n + 1) K_(n+1) = h^2 K_(n-1) - h m K_n.
    const vd j0 = vm::mills(x);
    vd odd = vm::mills_slope(x);
    vd even = 0.5 * h * (j0 - x * odd);
    vd sum = odd;
    const vd rb = j0 - h * odd + h * even;
    // odd = K_(2k+1) / h, even = K_(2k+2) / h.
    for (int k = 1; k <= 7; ++k) {
      const double n = 2.0 * k;
      odd = (z * odd - y * even) / (n + 1.0);
      even = (z * even - y * odd) / (n + 2.0);
      sum += odd;
    }
    gap = vm::select(small, sum * (mu * kHuge), gap);
    upper = vm::select(small, rb, upper);
    noise = vm::select(small, vm::broadcast(20.0 * kUnit), noise);
  }
  GdpValue out;
  const vd miss = density * spread;  // 1 - delta where a < 0
  const vd right_log = vm::log(gap * kDensity) - kLogHuge - 0.5 * square;
  const vd right_delta = gap * (1.0 / kHuge) * density;
  const vd left_delta = 1.0 - miss;
  out.delta = vm::select(left, left_delta, right_delta);
  // Far in the left part log(1 - miss) = -miss: its own rounding would drown the slope.
  const vd left_log = vm::select(miss < 1e-5, -miss * (1.0 + miss * (0.5 + miss / 3.0)),
                                 vm::log(vm::select(left, left_delta, vm::broadcast(0.5))));
  out.log_delta = vm::select(left, left_log, right_log);
  const vd left_drift = vm::select(off * (1.0 + size) < 0.1, 1.2 * off * density / left_delta, drift);
  out.relative =
      vm::select(left, kUnit * 3.0 + miss * (12.0 * kUnit + wobble) / left_delta + left_drift, noise + wobble + drift);
  const vd flux = vm::select(left, density / left_delta, kHuge / gap);
  out.epsilon_slope = flux * upper;
  out.mu_slope = flux;
  return out;
}

// delta rounded up from lane `lane`.
EXPUNGE_HD static inline double gdp_round_up(const GdpValue& value, int lane) {
  const double relative = vm::get(value.relative, lane);
  const double log_delta = vm::get(value.log_delta, lane);
  if (relative < 1e-3 && log_delta > -690.0) {
    const double up = vm::get(value.delta, lane) * (1.0 + relative);
    return up < 1.0 ? up : 1.0;
  }
  const double up = ::exp(log_delta + relative) * (1.0 + 1e-15) + 4.9406564584124654e-324;
  return up < 1.0 ? up : 1.0;
}

[[maybe_unused]] EXPUNGE_HD static void gdp_delta(const double* mu, const double* epsilon, double* delta, long begin,
                                                  long end) {
  for (long start = begin; start < end; start += kLanes) {
    vd mus = vm::broadcast(1.0);
    vd epsilons = mus;
    const int count = end - start < kLanes ? static_cast<int>(end - start) : kLanes;
    for (int lane = 0; lane < count; ++lane) {
      if (mu[start + lane] > 0.0) vm::set(&mus, lane, mu[start + lane]);
      vm::set(&epsilons, lane, epsilon[start + lane]);
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
    vd mus = vm::broadcast(1.0), log_target = vm::broadcast(-1.0), target = vm::broadcast(0.5);
    vi open{};       // lanes still searching
    vi maybe_zero{};  // lanes where epsilon = 0 may suffice
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
      vm::set(&mus, lane, one_mu);
      vm::set(&target, lane, one_delta);
      vm::set(&log_target, lane, ::log(one_delta));
      vm::set(&open, lane, -1);
      vm::set(&maybe_zero, lane, one_delta < 0.3 * (one_mu < 1.0 ? one_mu : 1.0) ? 0 : -1);
    }
    if (any(maybe_zero)) {
      const GdpValue value = gdp_value(mus, vm::broadcast(0.0));
      for (int lane = 0; lane < count; ++lane)
        if (vm::get(maybe_zero, lane) && gdp_round_up(value, lane) <= vm::get(target, lane)) {
          settled[lane] = 0.0;
          vm::set(&open, lane, 0);
        }
    }
    // sqrt(-2 log delta) is nearly linear in epsilon: Newton on it, inside the bracket.
    const vd goal = vm::sqrt(-2.0 * log_target);
    vd low = vm::broadcast(0.0);
    vd high = mus * (0.5 * mus + goal);
    const vd top = high;
    vd at = high;
    {
      // Tail approximation z of the normal quantile: epsilon = mu^2/2 + mu z, refined below.
      const vd bump = vm::log(1.0 + 1.5 * goal) / (0.5 + goal);
      const vd guess = mus * (0.5 * mus + goal - bump);
      at = vm::select((guess > 0.0) & (guess < high), guess, 0.5 * high);
    }
    for (int round = 0; round < 100 && any(open); ++round) {
      const GdpValue value = gdp_value(mus, at);
      const vd off = value.log_delta - log_target;
      const vi above = off > 0.0;
      low = vm::select(above, at, low);
      high = vm::select(above, high, at);
      const vd fine = 2.0 * value.relative + 4.0 * kUnit * vm::abs(log_target);
      const vi done = (vm::abs(off) <= fine) | (high - low <= 4.0 * kUnit * high);
      const vd level = vm::sqrt(-2.0 * smaller(value.log_delta, vm::broadcast(-1e-300)));
      // goal - level = 2 off / (goal + level), without cancellation.
      vd next = at + 2.0 * off / (goal + level) * level / value.epsilon_slope;
      next = vm::select((next > low) & (next < high), next, 0.5 * (low + high));
      for (int lane = 0; lane < count; ++lane) {
        if (!vm::get(open, lane) || !vm::get(done, lane)) continue;
        vm::set(&open, lane, 0);
        // Outward by the error, then proved by the rounded-up delta itself.
        const double relative = vm::get(value.relative, lane);
        double step = vm::get(off, lane) + 2.0 * relative + 4.0 * kUnit * vm::get(vm::abs(log_target), lane);
        if (!(step > 0.0)) step = relative;
        settled[lane] = vm::get(at, lane) + step / vm::get(value.epsilon_slope, lane);
        settled[lane] *= 1.0 + 4.0 * kUnit;
        // Where rounding swamps the exponent, and with it this step: the bound from the start.
        if (!(settled[lane] < vm::get(top, lane))) settled[lane] = vm::get(top, lane);
      }
      at = vm::select(open != 0, next, at);
    }
    vi unproved{};
    vd candidate = vm::broadcast(1.0);
    for (int lane = 0; lane < count; ++lane) {
      if (vm::get(open, lane)) settled[lane] = vm::get(top, lane);
      if (settled[lane] > 0.0 && settled[lane] < HUGE_VAL) {
        vm::set(&candidate, lane, settled[lane]);
        vm::set(&unproved, lane, -1);
      }
    }
    double growth = 16.0 * kUnit;
    for (int round = 0; round < 200 && any(unproved); ++round) {
      const GdpValue value = gdp_value(mus, candidate);
      for (int lane = 0; lane < count; ++lane) {
        if (!vm::get(unproved, lane)) continue;
        if (gdp_round_up(value, lane) <= vm::get(target, lane)) {
          vm::set(&unproved, lane, 0);
          settled[lane] = vm::get(candidate, lane);
        } else {
          vm::set(&candidate, lane, vm::get(candidate, lane) * (1.0 + growth));
        }
      }
      growth *= 2.0;
    }
    for (int lane = 0; lane < count; ++lane) epsilon[start + lane] = vm::get(unproved, lane) ? HUGE_VAL : settled[lane];
  }
}

[[maybe_unused]] EXPUNGE_HD static void gdp_mu(const double* epsilon, const double* delta, double* mu, long begin,
                                               long end) {
  for (long start = begin; start < end; start += kLanes) {
    const int count = end - start < kLanes ? static_cast<int>(end - start) : kLanes;
    vd epsilons = vm::broadcast(1.0), at = epsilons;
    vd log_target = vm::broadcast(-1.0), target = vm::broadcast(0.5);
    vi open{};      // lanes still searching
    vi unproved{};  // lanes whose answer the rounded-up delta has not confirmed yet
    double settled[kLanes];
    for (int lane = 0; lane < count; ++lane) {
      const double one_epsilon = epsilon[start + lane];
      const double one_delta = delta[start + lane];
      settled[lane] = NAN;
      if (!(one_epsilon >= 0.0 && one_delta >= 0.0)) continue;
      settled[lane] = one_delta >= 1.0 ? HUGE_VAL : 0.0;
      if (!(one_delta > 0.0 && one_delta < 1.0)) continue;
      vm::set(&epsilons, lane, one_epsilon);
      vm::set(&target, lane, one_delta);
      vm::set(&log_target, lane, ::log(one_delta));
      // Two lower bounds: delta <= Phi(-a) <= exp(-a^2/2), and delta <= 2 Phi(mu/2) - 1 <= mu / sqrt(2 pi).
      const double z = ::sqrt(-2.0 * vm::get(log_target, lane));
      const double tail = 2.0 * one_epsilon / (z + ::sqrt(z * z + 2.0 * one_epsilon));
      const double flat = one_delta / kDensity;
      vm::set(&at, lane, tail > flat ? tail : flat);
      vm::set(&open, lane, -1);
      vm::set(&unproved, lane, -1);
    }
    vd low = 0.5 * at, high = vm::broadcast(HUGE_VAL);
    const vd bottom = low;
    for (int round = 0; round < 200 && any(open); ++round) {
      const GdpValue value = gdp_value(at, epsilons);
      const vd off = value.log_delta - log_target;
      const vi above = off > 0.0;
      high = vm::select(above, at, high);
      low = vm::select(above, low, at);
      const vd fine = 2.0 * value.relative + 4.0 * kUnit * vm::abs(log_target);
      const vi done = (vm::abs(off) <= fine) | ((high < 1e300) & (high - low <= 4.0 * kUnit * high));
      // log delta is concave in log mu: Newton there climbs without overshooting.
      vd step = -off / (at * value.mu_slope);
      step = vm::select(step < 2.0, step, vm::broadcast(2.0));
      vd next = at * vm::exp(vm::select(step > -2.0, step, vm::broadcast(-2.0)));
      const vd middle = vm::select(high < 1e300, low + 0.5 * (high - low), 2.0 * at);
      next = vm::select((next > low) & (next < high), next, middle);
      for (int lane = 0; lane < count; ++lane) {
        if (!vm::get(open, lane) || !vm::get(done, lane)) continue;
        vm::set(&open, lane, 0);
        const double relative = vm::get(value.relative, lane);
        double back = vm::get(off, lane) + 2.0 * relative + 4.0 * kUnit * vm::get(vm::abs(log_target), lane);
        if (!(back > 0.0)) back = relative;
        settled[lane] = (vm::get(at, lane) - back / vm::get(value.mu_slope, lane)) * (1.0 - 4.0 * kUnit);
      }
      at = vm::select(open != 0, next, at);
    }
    vd candidate = vm::broadcast(1.0);
    for (int lane = 0; lane < count; ++lane)
      if (vm::get(unproved, lane) != 0)
        vm::set(&candidate, lane,
                vm::get(open, lane) == 0 && settled[lane] > 0.0 ? settled[lane] : vm::get(bottom, lane));
    double shrink = 16.0 * kUnit;
    for (int round = 0; round < 200 && any(unproved); ++round) {
      const GdpValue value = gdp_value(candidate, epsilons);
      for (int lane = 0; lane < count; ++lane) {
        if (!vm::get(unproved, lane)) continue;
        if (gdp_round_up(value, lane) <= vm::get(target, lane)) {
          vm::set(&unproved, lane, 0);
          settled[lane] = vm::get(candidate, lane);
        } else {
          vm::set(&candidate, lane, vm::get(candidate, lane) * (1.0 - shrink));
        }
      }
      shrink = shrink < 0.25 ? 2.0 * shrink : 0.5;
    }
    for (int lane = 0; lane < count; ++lane) mu[start + lane] = vm::get(unproved, lane) ? 0.0 : settled[lane];
  }
}

}  // namespace
