// The smallest unlearning noise, or the fewest steps, that reach a target (epsilon, delta) for one reduced record.
#pragma once

#include "common/gaussian_profile.hpp"
#include "ridge/reduced_pair.hpp"

namespace expunge::ridge {
namespace {

struct Target {
  double epsilon;
  double log_delta;
  double mu;         // of the Gaussian mechanism that just meets (epsilon, delta)
  double tolerance;  // accepted shortfall in log delta; never an excess
};

// What is given and what is solved for: unlearning noise at fixed steps, or steps at fixed noise.
enum class Unknown { noise, steps };

struct Profile {
  double log_pq;
  double log_qp;
  double worst;  // the larger; NaN where it could not be computed
};

static inline double not_a_number() { return __builtin_nan(""); }

// Log delta of a diagonal pair in both directions at one epsilon. swapped: 2 * count doubles.
static Profile both_directions(const double* e, const double* d2, long count, double rest, double width, double epsilon,
                               bool exact, double* swapped) {
  Profile out;
  swap_roles(e, d2, count, swapped, swapped + count);
  if (exact) {
    const ProfileResult pq = gaussian_profile(e, d2, count, rest, width, epsilon, 1e-10);
    const ProfileResult qp = gaussian_profile(swapped, swapped + count, count, rest, width, epsilon, 1e-10);
    out.log_pq = pq.log_delta + (pq.converged ? pq.relative_error : 0.0);
    out.log_qp = qp.log_delta + (qp.converged ? qp.relative_error : 0.0);
  } else {
    out.log_pq = gaussian_profile_approx(e, d2, count, rest, width, epsilon).log_delta;
    out.log_qp = gaussian_profile_approx(swapped, swapped + count, count, rest, width, epsilon).log_delta;
  }
  out.worst = out.log_pq > out.log_qp ? out.log_pq : out.log_qp;
  if (out.log_pq != out.log_pq || out.log_qp != out.log_qp) out.worst = not_a_number();
  return out;
}

// A diagonal pair, kept so that it can be profiled again.
struct Pair {
  double* e;
  double* d2;
  double rest;
  long count;  // as gaussian_pair returns it
};

static Profile pair_profile(const Pair& pair, double width, double epsilon, bool exact, double* swapped) {
  if (pair.count == -2) return {0.0, 0.0, 0.0};
  if (pair.count < 0) return {not_a_number(), not_a_number(), not_a_number()};
  if (pair.count == 0 && !(pair.rest > 0.0)) return {-HUGE_VAL, -HUGE_VAL, -HUGE_VAL};
  return both_directions(pair.e, pair.d2, pair.count, pair.rest, width, epsilon, exact, swapped);
}

// Log of the mu at which a Gaussian mechanism has the same privacy loss variance as the pair: a cheap monotone stand-in
// for its delta that needs no eigenvalues.
static double surrogate_log_mu(const Reduced& in, double n_steps, double variance, double* squares) {
  const long r = in.rank, width = in.width;
  double sum = 0.0;
  for (long i = 0; i < r; ++i) {
    const double factor = power(in.maps[i], n_steps);
    const double reference = factor * factor * in.covariances[i] + variance * geometric_sum(in.maps[i], n_steps);
    squares[i] = reference > 0.0 ? factor * factor / reference : 0.0;
    double square = 0.0;
    for (long c = 0; c < width; ++c) square += in.shift[i * width + c] * in.shift[i * width + c];
    sum += squares[i] * square;
  }
  double excess = 0.0;
  for (long i = 0; i < r; ++i) {
    if (squares[i] == 0.0) continue;
    const double* EXPUNGE_RESTRICT row = in.difference + i * r;
    double inner = 0.0;
    for (long j = 0; j < r; ++j) inner += row[j] * row[j] * squares[j];
    excess += squares[i] * inner;
  }
  return 0.5 * log(sum + 0.5 * static_cast<double>(width) * excess);
}

// Log delta falls by about this much per unit of log mu at the target (Gaussian mechanism).
static inline double gdp_log_slope(const Target& target) {
  const double z = -target.epsilon / target.mu + 0.5 * target.mu;
  return target.mu * exp(-0.5 * z * z - 0.91893853320467274178 - target.log_delta);
}

struct Solution {
  double value;  // noise standard deviation per step, or a real number of steps; infinite where none suffices
  Profile profile;
  double slope;  // d log delta / d log value near it, negative
  int evaluations;
};

static inline void candidate(Unknown unknown, double log_value, double known, double* n_steps, double* variance) {
  const double value = exp(log_value);
  *n_steps = unknown == Unknown::noise ? known : value;
  *variance = unknown == Unknown::noise ? value * value : known * known;
}

// Safeguarded secant iteration on log delta as a function of the logarithm of the unknown; it falls in either unknown.
// `start` is the first guess, `slope` an estimate of the derivative (0: none). With exact = false the saddlepoint
// approximation replaces the integral and a looser tolerance applies.
static Solution solve(const Reduced& in, Unknown unknown, double known, const Target& target, double start, double slope,
                      bool exact, Pair* pair, double* scratch) {
  const double width = static_cast<double>(in.width);
  double* swapped = scratch;
  double* work = scratch + 2 * in.rank;
  double low = -HUGE_VAL, high = HUGE_VAL;  // delta too large at low, small enough at high
  double x = start, last_x = 0.0, last_g = 0.0;
  double step = 1.0;
  bool have_last = false;
  Solution best = {not_a_number(), {not_a_number(), not_a_number(), not_a_number()}, slope, 0};
  for (int i = 0; i < 200; ++i) {
    double n_steps, variance;
    candidate(unknown, x, known, &n_steps, &variance);
    pair->count = gaussian_pair(in, n_steps, variance, pair->e, pair->d2, &pair->rest, work);
    const Profile profile = pair_profile(*pair, width, target.epsilon, exact, swapped);
    best.evaluations = i + 1;
    const double g = profile.worst - target.log_delta;
    if (g != g) return {not_a_number(), profile, slope, i + 1};
    if (have_last && x != last_x) {
      const double secant = (g - last_g) / (x - last_x);
      if (secant < 0.0 && secant > -HUGE_VAL) slope = secant;
    }
    // where delta hardly depends on the unknown, the same accuracy of the answer takes more of delta
    const double flatness = slope < 0.0 && slope > -1.0 ? -slope : 1.0;
    const double tolerance = exact ? target.tolerance * (flatness > 1e-4 ? flatness : 1e-4) : 1e-3 * flatness;
    if (g <= 0.0) {
      high = x;
      best.value = exp(x);
      best.profile = profile;
      best.slope = slope;
      if (g >= -tolerance || high - low < 4e-15 * (1.0 + magnitude(x))) return best;
    } else {
      low = x;
      if (!exact && g <= tolerance) {
        best.value = exp(x);
        best.profile = profile;
        best.slope = slope;
        return best;
      }
      if (high - low < 4e-15 * (1.0 + magnitude(x))) {
        pair->count = -1;  // holds the wrong side; the caller profiles again
        return best;
      }
    }
    double next = slope < 0.0 && g > -HUGE_VAL && g < HUGE_VAL ? x - (g + 0.5 * tolerance) / slope : not_a_number();
    const bool bracketed = low > -HUGE_VAL && high < HUGE_VAL;
    if (bracketed) {
      // a secant step that does not halve the bracket twice in a row gives way to bisection
      if (!(next > low && next < high) || (i > 8 && (i & 1))) next = 0.5 * (low + high);
    } else {
      const double limit = step;
      if (!(magnitude(next - x) < limit)) next = g > 0.0 ? x + limit : x - limit;
      step *= 2.0;
      if (x > 600.0) {  // beyond any number: nothing suffices
        best.value = HUGE_VAL;
        return best;
      }
      if (x < -650.0) return best;
    }
    last_x = x;
    last_g = g;
    have_last = g > -HUGE_VAL && g < HUGE_VAL;
    x = next;
  }
  return best;
}

// First guess: the surrogate equals the target mu. Bisection-free secant in the logarithm, a few microseconds.
static double surrogate_guess(const Reduced& in, Unknown unknown, double known, double log_mu, double start,
                              double* slope, double* work) {
  double low = -HUGE_VAL, high = HUGE_VAL, x = start, last_x = 0.0, last_value = 0.0;
  double gradient = unknown == Unknown::noise ? -0.5 : -0.1;
  for (int i = 0; i < 60; ++i) {
    double n_steps, variance;
    candidate(unknown, x, known, &n_steps, &variance);
    const double value = surrogate_log_mu(in, n_steps, variance, work) - log_mu;
    if (value != value) break;
    if (i > 0 && x != last_x) {
      const double secant = (value - last_value) / (x - last_x);
      if (secant < 0.0 && secant > -HUGE_VAL) gradient = secant;
    }
    if (magnitude(value) < 1e-3) break;
    if (value > 0.0)
      low = x;
    else
      high = x;
    double next = x - value / gradient;
    if (!(magnitude(next - x) < 4.0)) next = value > 0.0 ? x + 4.0 : x - 4.0;
    if (!(next > low && next < high)) next = low > -HUGE_VAL && high < HUGE_VAL ? 0.5 * (low + high) : next;
    last_x = x;
    last_value = value;
    x = next;
  }
  *slope = gradient;
  return x;
}

// The smallest epsilon at which a fixed pair meets delta, not above `high` where it is known to.
static double smallest_epsilon(const Pair& pair, double width, double log_delta, double high, double* swapped,
                               Profile* at) {
  Profile profile = pair_profile(pair, width, 0.0, true, swapped);
  if (profile.worst <= log_delta) {
    *at = profile;
    return 0.0;
  }
  double low = 0.0, g_low = profile.worst - log_delta;
  *at = pair_profile(pair, width, high, true, swapped);
  double g_high = at->worst - log_delta;
  for (int i = 0; i < 100 && high - low > 1e-10 * high && g_high < -1e-10; ++i) {
    double next = g_high > -HUGE_VAL ? high - (g_high + 5e-11) * (high - low) / (g_high - g_low) : 0.5 * (low + high);
    if (!(next > low && next < high) || i % 3 == 2) next = 0.5 * (low + high);
    profile = pair_profile(pair, width, next, true, swapped);
    const double g = profile.worst - log_delta;
    if (g != g) return not_a_number();
    if (g <= 0.0) {
      high = next;
      g_high = g;
      *at = profile;
    } else {
      low = next;
      g_low = g;
    }
  }
  return high;
}

static inline long solve_scratch_size(long r, long width) { return 2 * r + pair_scratch_size(r, width) + 2 * r; }

}  // namespace
}  // namespace expunge::ridge
