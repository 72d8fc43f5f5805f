// The smallest unlearning noise, or the fewest steps, that reach a target (epsilon, delta) for one reduced record.
#pragma once

#include "privacy/gaussian_profile.hpp"
#include "ridge/reduced_pair.hpp"

namespace expunge::ridge {
namespace {

using privacy::gaussian_profile;
using privacy::gaussian_profile_approx;
using privacy::ProfileResult;
using privacy::swap_roles;

struct Target {
  double epsilon;
  double log_delta;
  double mu;         // of the Gaussian mechanism that just meets (epsilon, delta)
  double tolerance;  // accepted relative excess of the answer; never a shortfall
};

// What is given and what is solved for: unlearning noise at fixed steps, or steps at fixed noise.
enum class Unknown { noise, steps };

struct Profile {
  double log_pq;
  double log_qp;
  double worst;   // the larger; NaN where it could not be computed
  bool exact_pq;  // comes from the integral
  bool exact_qp;
};

EXPUNGE_HD static inline double not_a_number() { return __builtin_nan(""); }

// How a profile is wanted: the saddlepoint estimate, the integral in the direction that decides, or in both.
enum class Accuracy { approximate, decisive, exact };

EXPUNGE_HD static inline double exact_log_delta(const double* e, const double* d2, long count, double rest,
                                                double width, double epsilon, const double* origin) {
  const ProfileResult result = gaussian_profile(e, d2, count, rest, width, epsilon, 1e-10, origin);
  return result.log_delta + (result.converged ? result.relative_error : 0.0);  // rounded outward
}

// Log delta of a diagonal pair in both directions at one epsilon. swapped: 2 * count doubles.
EXPUNGE_HD EXPUNGE_OUTLINE static Profile both_directions(const double* e, const double* d2, long count, double rest,
                                                          double width, double epsilon, Accuracy accuracy,
                                                          double* swapped) {
  Profile out;
  double* swapped_d2 = swapped + count;
  swap_roles(e, d2, count, swapped, swapped_d2);
  bool need_pq = accuracy == Accuracy::exact, need_qp = need_pq;
  if (accuracy != Accuracy::exact) {
    const ProfileResult pq = gaussian_profile_approx(e, d2, count, rest, width, epsilon, nullptr);
    const ProfileResult qp = gaussian_profile_approx(swapped, swapped_d2, count, rest, width, epsilon, e);
    out.log_pq = pq.log_delta;
    out.log_qp = qp.log_delta;
    if (accuracy == Accuracy::decisive) {
      // far below the other, and by more than the estimates can be wrong
      const bool sure = pq.relative_error < 0.2 && qp.relative_error < 0.2;
      need_pq = !(sure && out.log_pq < out.log_qp - 1.0);
      need_qp = !(sure && out.log_qp < out.log_pq - 1.0);
    }
  }
  if (need_pq) out.log_pq = exact_log_delta(e, d2, count, rest, width, epsilon, nullptr);
  if (need_qp) out.log_qp = exact_log_delta(swapped, swapped_d2, count, rest, width, epsilon, e);
  out.exact_pq = need_pq;
  out.exact_qp = need_qp;
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

EXPUNGE_HD EXPUNGE_OUTLINE static Profile pair_profile(const Pair& pair, double width, double epsilon,
                                                       Accuracy accuracy, double* swapped) {
  if (pair.count == -2) return {0.0, 0.0, 0.0, true, true};
  if (pair.count < 0) return {not_a_number(), not_a_number(), not_a_number(), true, true};
  if (pair.count == 0 && !(pair.rest > 0.0)) return {-HUGE_VAL, -HUGE_VAL, -HUGE_VAL, true, true};
  return both_directions(pair.e, pair.d2, pair.count, pair.rest, width, epsilon, accuracy, swapped);
}

// Replaces what is still an estimate by the integral.
EXPUNGE_HD EXPUNGE_OUTLINE static void complete_profile(const Pair& pair, double width, double epsilon, double* swapped,
                                                        Profile* profile) {
  if (!profile->exact_pq)
    profile->log_pq = exact_log_delta(pair.e, pair.d2, pair.count, pair.rest, width, epsilon, nullptr);
  if (!profile->exact_qp) {
    swap_roles(pair.e, pair.d2, pair.count, swapped, swapped + pair.count);
    profile->log_qp = exact_log_delta(swapped, swapped + pair.count, pair.count, pair.rest, width, epsilon, pair.e);
  }
  profile->exact_pq = profile->exact_qp = true;
}

// Log of the mu at which a Gaussian mechanism has the same privacy loss variance as the pair: a cheap monotone stand-in
// for its delta that needs no eigenvalues.
EXPUNGE_HD EXPUNGE_OUTLINE static double surrogate_log_mu(const Reduced& in, double n_steps, double variance,
                                                          double* squares) {
  const long r = in.rank, width = in.width;
  double sum = 0.0;
  team::sync();
  for (long i = team::lane(); i < r; i += team::size) {
    const double factor = power(in.maps[i], n_steps);
    const double reference = factor * factor * in.covariances[i] + variance * geometric_sum(in.maps[i], n_steps);
    squares[i] = reference > 0.0 ? factor * factor / reference : 0.0;
    double square = 0.0;
    for (long c = 0; c < width; ++c) square += in.shift[i * width + c] * in.shift[i * width + c];
    sum += squares[i] * square;
  }
  sum = team::sum(sum);
  team::sync();
  double excess = 0.0;
  for (long i = team::lane(); i < r; i += team::size) {
    if (squares[i] == 0.0) continue;
    const double* EXPUNGE_RESTRICT row = in.difference + i * r;
    double inner = 0.0;
    for (long j = 0; j < r; ++j) inner += row[j] * row[j] * squares[j];
    excess += squares[i] * inner;
  }
  return 0.5 * log(sum + 0.5 * static_cast<double>(width) * team::sum(excess));
}

// Log delta falls by about this much per unit of log mu at the target (Gaussian mechanism).
EXPUNGE_HD static inline double gdp_log_slope(const Target& target) {
  const double z = -target.epsilon / target.mu + 0.5 * target.mu;
  return target.mu * exp(-0.5 * z * z - 0.91893853320467274178 - target.log_delta);
}

// The log mu of the Gaussian mechanism with this delta at epsilon, to a few digits; `start` where there is none.
EXPUNGE_HD EXPUNGE_OUTLINE static double equivalent_log_mu(double log_delta, double epsilon, double start) {
  if (!(log_delta < -1e-3)) return start;
  double x = start;
  for (int i = 0; i < 30; ++i) {
    const double mu = exp(x), z = -epsilon / mu + 0.5 * mu;
    const double delta = 0.5 * (erfc(-0.70710678118654752 * z) - exp(epsilon) * erfc(0.70710678118654752 * (mu - z)));
    const double slope = mu * exp(-0.5 * z * z - 0.91893853320467274178);
    const double step = delta > 0.0 && slope > 0.0 ? (log_delta - log(delta)) * delta / slope : 0.5;
    x += step > 1.0 ? 1.0 : step < -1.0 ? -1.0 : step;
    if (magnitude(step) < 1e-4) return x;
  }
  return start;
}

struct Solution {
  double value;  // noise standard deviation per step, or a real number of steps; infinite where none suffices
  Profile profile;
  double slope;  // d log delta / d log value near it, negative
  int evaluations;
};

EXPUNGE_HD static inline void candidate(Unknown unknown, double log_value, double known, double* n_steps,
                                        double* variance) {
  const double value = exp(log_value);
  *n_steps = unknown == Unknown::noise ? known : value;
  *variance = unknown == Unknown::noise ? value * value : known * known;
}

// Safeguarded secant iteration on log delta as a function of the logarithm of the unknown; it falls in either unknown.
// `start` is the first guess, `slope` an estimate of the derivative (0: none). On return `pair` is the pair of the
// answer.
EXPUNGE_HD EXPUNGE_OUTLINE static Solution solve(const Reduced& in, Unknown unknown, double known, const Target& target,
                                                 double start, double slope, Pair* pair, double* scratch) {
  const double width = static_cast<double>(in.width);
  double* swapped = scratch;
  double* work = scratch + 2 * in.rank;
  double low = -HUGE_VAL, high = HUGE_VAL;  // delta too large at low, small enough at high
  double x = start, last_x = 0.0, last_g = 0.0;
  double step = 1.0;
  double width_before = HUGE_VAL;
  int rounds = 0;
  bool have_last = false;
  if (!(slope < -0.01)) slope = 0.0;
  Solution best = {not_a_number(), {not_a_number(), not_a_number(), not_a_number(), true, true}, slope, 0};
  for (int i = 0; i < 200; ++i) {
    double n_steps, variance;
    candidate(unknown, x, known, &n_steps, &variance);
    pair->count = gaussian_pair(in, n_steps, variance, pair->e, pair->d2, &pair->rest, work);
    const Profile profile = pair_profile(*pair, width, target.epsilon, Accuracy::decisive, swapped);
    best.evaluations = i + 1;
    const double g = profile.worst - target.log_delta;
    if (g != g) return {not_a_number(), profile, slope, i + 1};
    if (have_last && x != last_x) {
      const double secant = (g - last_g) / (x - last_x);
      if (secant < 0.0 && secant > -HUGE_VAL) slope = secant;
    }
    const double steepness = slope < 0.0 ? -slope : 1.0;
    const double wanted = target.tolerance * steepness;
    const double tolerance = wanted > 1e-12 ? wanted : 1e-12;
    if (g <= 0.0) {
      high = x;
      best.value = exp(x);
      best.profile = profile;
      best.slope = slope;
      if (g >= -tolerance || high - low < 4e-15 * (1.0 + magnitude(x))) return best;
    } else {
      low = x;
      if (high - low < 4e-15 * (1.0 + magnitude(x))) {
        candidate(unknown, high, known, &n_steps, &variance);
        pair->count = gaussian_pair(in, n_steps, variance, pair->e, pair->d2, &pair->rest, work);
        return best;
      }
    }
    double next = slope < 0.0 && g > -HUGE_VAL && g < HUGE_VAL ? x - (g + 0.5 * tolerance) / slope : not_a_number();
    const bool bracketed = low > -HUGE_VAL && high < HUGE_VAL;
    if (bracketed) {
      // secant steps that do not halve the bracket in three rounds give way to bisection
      bool slow = false;
      if (++rounds == 3) {
        slow = high - low > 0.5 * width_before;
        width_before = high - low;
        rounds = 0;
      }
      if (!(next > low && next < high) || slow) next = 0.5 * (low + high);
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
EXPUNGE_HD EXPUNGE_OUTLINE static double surrogate_guess(const Reduced& in, Unknown unknown, double known,
                                                         double log_mu, double start, double* slope, double* work) {
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
    if (magnitude(value) < 3e-4) break;
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

// The smallest epsilon at which a fixed pair meets delta; `*at` is its exact profile at `high`, which meets it, and
// becomes that of the answer. *slope: d log delta / d epsilon there. Rounds of a secant solve on the saddlepoint
// estimate, each corrected by what the integral says at the last answer.
EXPUNGE_HD EXPUNGE_OUTLINE static double smallest_epsilon(const Pair& pair, double width, double log_delta, double high,
                                                          double tolerance, double* swapped, Profile* at,
                                                          double* slope) {
  *slope = -HUGE_VAL;
  if (high == 0.0 || at->worst == -HUGE_VAL) {
    *at = pair_profile(pair, width, 0.0, Accuracy::exact, swapped);
    return 0.0;
  }
  Profile profile = pair_profile(pair, width, 0.0, Accuracy::exact, swapped);
  if (profile.worst <= log_delta) {
    *at = profile;
    return 0.0;
  }
  double low = 0.0, best = high;
  double bias = at->worst - pair_profile(pair, width, high, Accuracy::approximate, swapped).worst;
  double x = high, g_high = at->worst - log_delta, gradient = (g_high - (profile.worst - log_delta)) / high;
  double last_x = 0.0, last_g = profile.worst - log_delta;
  for (int round = 0; round < 60; ++round) {
    // the estimate plus bias, solved between the exact bounds
    double a = low, b = best, y = x;
    for (int i = 0; i < 60 && b - a > 1e-13 * b; ++i) {
      const double g = pair_profile(pair, width, y, Accuracy::approximate, swapped).worst + bias - log_delta;
      if (g != g) return not_a_number();
      if (i > 0 && y != last_x) {
        const double secant = (g - last_g) / (y - last_x);
        if (secant < 0.0 && secant > -HUGE_VAL) gradient = secant;
      }
      if (g > 0.0)
        a = y > a ? y : a;
      else
        b = y < b ? y : b;
      last_x = y;
      last_g = g;
      if (magnitude(g) < 0.2 * tolerance * magnitude(gradient) * best) break;
      const double next = y - g / gradient;
      y = next > a && next < b && i % 8 != 7 ? next : 0.5 * (a + b);
    }
    x = y + 0.5 * tolerance * best;  // to land on the safe side
    if (!(x > low && x < best) || round % 8 == 7) x = 0.5 * (low + best);
    profile = pair_profile(pair, width, x, Accuracy::decisive, swapped);
    const double g = profile.worst - log_delta;
    if (g != g) return not_a_number();
    bias = profile.worst - pair_profile(pair, width, x, Accuracy::approximate, swapped).worst;
    if (bias != bias) bias = 0.0;
    if (g > 0.0) {
      low = x;
    } else {
      best = x;
      *at = profile;
    }
    last_x = x;
    last_g = g;
    if (g <= 0.0 && g > -tolerance * magnitude(gradient) * best) break;
    if (best - low < tolerance * best) break;
  }
  *slope = gradient;
  complete_profile(pair, width, best, swapped, at);
  return best;
}

EXPUNGE_HD static inline long solve_scratch_size(long r, long width) {
  return 2 * r + pair_scratch_size(r, width) + 2 * r;
}

}  // namespace
}  // namespace expunge::ridge
