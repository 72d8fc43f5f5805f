// What forgetting one record costs: one adaptive solve from its Jacobi matrix.
#pragma once

#include "ridge/noise_solve.hpp"
#include "ridge/ridge.hpp"

namespace expunge::ridge {
namespace {

// Doubles for the Jacobi matrix of a record and its spectra at two ranks.
EXPUNGE_HD static inline long spectra_doubles(long rank) { return 2 * rank + 2 * spectrum_size(rank); }

// Doubles one record needs beside them: two reductions, two pairs, scratch.
EXPUNGE_HD static inline long record_doubles(long rank, long width) {
  const long scratch = reduce_scratch_size(rank) > solve_scratch_size(rank, width) ? reduce_scratch_size(rank)
                                                                                   : solve_scratch_size(rank, width);
  return 2 * reduced_size(rank, width) + 4 * rank + scratch;
}

struct RecordWork {
  double* diagonal;
  double* squares;
  double* reduced[2];
  double* spectrum[2];
  Pair pair[2];
  double* scratch;
};

EXPUNGE_HD static void place_spectra(double* at, long limit, RecordWork* work) {
  work->diagonal = at;
  work->squares = at + limit;
  work->spectrum[0] = at + 2 * limit;
  work->spectrum[1] = work->spectrum[0] + spectrum_size(limit);
}

// Memory of a record but for its matrix and spectra.
EXPUNGE_HD static RecordWork place_record(double* at, long limit, long width) {
  RecordWork work = {};
  for (int side = 0; side < 2; ++side) {
    work.reduced[side] = at;
    at += reduced_size(limit, width);
    work.pair[side].e = at;
    work.pair[side].d2 = at + limit;
    at += 2 * limit;
  }
  work.scratch = at;
  return work;
}

// The ranks compared: an answer at `high` is checked against `low`; high == p needs no check.
struct Ranks {
  long low;
  long high;
};

EXPUNGE_HD static inline Ranks first_ranks(const QuoteInput& in) {
  if (in.rank > 0) return {(5 * in.rank + 5) / 6, in.rank};
  const long high = 8 + static_cast<long>(0.85 * sqrt(in.n_steps));
  return high < in.p ? Ranks{(5 * high + 5) / 6, high} : Ranks{in.p, in.p};
}

// The next pair to try where these did not agree.
EXPUNGE_HD static inline Ranks more_ranks(Ranks ranks, long p) {
  const long high = ranks.high + ranks.high / 2;
  return {ranks.high, high < p ? high : p};
}

// The difference of the answers at two ranks as an error estimate. Where they disagree by more than a few percent the
// space is not resolved and the difference says nothing.
EXPUNGE_HD static inline double resolved(double difference) { return difference < 0.03 ? difference : HUGE_VAL; }

EXPUNGE_HD static void store(const QuoteOutput& out, long i, double value, double epsilon, const Profile& profile,
                             double error, long rank) {
  if (!team::leads()) return;
  out.value[i] = value;
  out.epsilon[i] = epsilon;
  out.log_delta_pq[i] = profile.log_pq;
  out.log_delta_qp[i] = profile.log_qp;
  out.error[i] = error;
  out.rank[i] = rank;
}

EXPUNGE_HD static inline void store_failure(const QuoteOutput& out, long i, long rank) {
  const double nan = not_a_number();
  store(out, i, nan, nan, {nan, nan, nan, true, true}, nan, rank);
}

// A row of zeros changes nothing.
EXPUNGE_HD static inline void store_nothing_to_forget(const QuoteOutput& out, long i) {
  store(out, i, 0.0, 0.0, {-HUGE_VAL, -HUGE_VAL, -HUGE_VAL, true, true}, 0.0, 0);
}

// Answers one record from its reduction `high`, checked against the shorter `low` unless that is null; false if the
// estimated relative error is above the tolerance.
EXPUNGE_HD EXPUNGE_OUTLINE static bool answer_record(const QuoteInput& in, const QuoteOutput& out, long i,
                                                     const Reduced& high, const Reduced* low, RecordWork& work) {
  const Unknown unknown = in.solve_steps ? Unknown::steps : Unknown::noise;
  const double wanted = 0.2 * in.tolerance < 1e-7 ? 0.2 * in.tolerance : 1e-7;
  const Target target = {in.epsilon, in.log_delta, in.mu, wanted};
  const double width = static_cast<double>(in.q);
  const bool truncated = low != nullptr;
  double* swapped = work.scratch;
  double* rest_of_scratch = work.scratch + 2 * high.rank;
  Pair& at_high = work.pair[0];
  Pair& at_low = work.pair[1];
  const bool can_unlearn = in.solve_steps ? in.unlearn_noise_std > 0.0 : in.unlearn_steps > 0.0;
  const double known = in.solve_steps ? in.unlearn_noise_std : in.unlearn_steps;
  // the end of learning may already be private enough
  at_high.count = gaussian_pair(high, 0.0, 0.0, at_high.e, at_high.d2, &at_high.rest, rest_of_scratch);
  Profile end = pair_profile(at_high, width, in.epsilon, Accuracy::approximate, swapped);
  if (!(end.worst > in.log_delta + 1.0) || !can_unlearn)
    end = pair_profile(at_high, width, in.epsilon, Accuracy::exact, swapped);
  if (end.worst != end.worst) {
    store_failure(out, i, high.rank);
    return true;
  }
  if (end.worst <= in.log_delta) {
    Profile profile = end;
    double steepness;
    const double epsilon =
        smallest_epsilon(at_high, width, in.log_delta, in.epsilon, wanted, swapped, &profile, &steepness);
    double error = wanted;
    if (truncated && profile.worst > -HUGE_VAL) {
      const Profile b = pair_profile(at_high, width, epsilon, Accuracy::approximate, swapped);
      at_low.count = gaussian_pair(*low, 0.0, 0.0, at_low.e, at_low.d2, &at_low.rest, rest_of_scratch);
      const Profile a = pair_profile(at_low, width, epsilon, Accuracy::approximate, swapped);
      // at epsilon = 0 there is nothing to be relative to: the answer stands if the shorter space agrees on delta
      const double change = magnitude(a.worst - b.worst);
      error += resolved(epsilon > 0.0 ? change / magnitude(steepness) / epsilon : change);
    }
    store(out, i, 0.0, epsilon, profile, error, high.rank);
    return !(error > in.tolerance);
  }
  if (!can_unlearn) {
    store(out, i, HUGE_VAL, HUGE_VAL, end, 0.0, high.rank);
    return true;
  }
  const double start = unknown == Unknown::steps ? 0.0 : (in.noise_std > 0.0 ? log(in.noise_std) : 0.0);
  double gradient;
  // the stand-in is off by about the same factor everywhere, so calibrate it at the end of learning
  const double log_mu = log(in.mu);
  const double reached = equivalent_log_mu(end.worst, in.epsilon, log_mu);
  const double off = surrogate_log_mu(high, 0.0, 0.0, rest_of_scratch) - reached;
  const double aim = log_mu + (magnitude(off) < 3.0 ? off : 0.0);
  const double guess = surrogate_guess(high, unknown, known, aim, start, &gradient, rest_of_scratch);
  const double slope = gradient * gdp_log_slope(target);
  Solution answer = solve(high, unknown, known, target, guess, slope, &at_high, work.scratch);
  double n_steps = known, variance = answer.value * answer.value;
  if (in.solve_steps && answer.value < HUGE_VAL) {
    // delta falls in a real number of steps as well, so the answer is the next integer
    n_steps = ceil(answer.value);
    variance = known * known;
    if (answer.value < 9e15) {
      for (int side = 0; side < 2; ++side) {
        const double candidate_steps = n_steps - 1.0 + side;
        if (side == 0 && answer.value - candidate_steps > 1e-6 * answer.value) continue;
        at_high.count =
            gaussian_pair(high, candidate_steps, variance, at_high.e, at_high.d2, &at_high.rest, rest_of_scratch);
        const Profile profile = pair_profile(at_high, width, in.epsilon, Accuracy::exact, swapped);
        if (profile.worst <= in.log_delta || side == 1) {
          answer.profile = profile;
          n_steps = candidate_steps;
          break;
        }
      }
    }
  }
  if (answer.value < HUGE_VAL) complete_profile(at_high, width, in.epsilon, swapped, &answer.profile);
  double error = 0.0;
  if (truncated && answer.value < HUGE_VAL) {
    at_low.count = gaussian_pair(*low, n_steps, variance, at_low.e, at_low.d2, &at_low.rest, rest_of_scratch);
    const Profile a = pair_profile(at_low, width, in.epsilon, Accuracy::approximate, swapped);
    const Profile b = pair_profile(at_high, width, in.epsilon, Accuracy::approximate, swapped);
    error = resolved(magnitude(a.worst - b.worst) / magnitude(answer.slope));
  }
  // the solve and the rounding of delta itself; no rank removes them
  const double floor_error = wanted + 1e-11 / magnitude(answer.slope);
  store(out, i, in.solve_steps && answer.value < HUGE_VAL ? n_steps : answer.value, in.epsilon, answer.profile,
        error + floor_error, high.rank);
  const double room = in.tolerance - floor_error;
  return !(error > (room > 0.5 * in.tolerance ? room : 0.5 * in.tolerance));
}

// Spectra that an answer at these ranks takes, as jacobi_spectra counts them.
EXPUNGE_HD static inline int spectra_needed(Ranks ranks, long p) { return ranks.high < p ? 4 : 2; }

// Spectra begin..end-1 of those, by this lane alone and at most `Runs`; false if one could not be found.
template <int Runs>
EXPUNGE_HD static bool record_spectra(Ranks ranks, int begin, int end, const RecordWork& work) {
  const long both[2] = {ranks.high, ranks.low};
  const Spectrum spectra[2] = {place_spectrum(work.spectrum[0], ranks.high),
                               place_spectrum(work.spectrum[1], ranks.low)};
  return jacobi_spectra<Runs>(work.diagonal, work.squares, both, begin, end, spectra);
}

// Reduces one record at the given ranks and answers it. `solved`: its spectra were found.
EXPUNGE_HD EXPUNGE_OUTLINE static bool quote_record(const QuoteInput& in, const QuoteOutput& out, long i, Ranks ranks,
                                                    bool solved, RecordWork& work) {
  if (!solved) {
    store_failure(out, i, ranks.high);
    return true;
  }
  const Learning learning = {in.step_size, in.n_steps, in.noise_std * in.noise_std};
  const bool truncated = ranks.high < in.p;
  const double* residuals = in.residuals + i * static_cast<long>(in.n_steps) * in.q;
  Reduced high = place_reduced(work.reduced[0], ranks.high, in.q);
  Reduced low = place_reduced(work.reduced[1], ranks.low, in.q);
  const double mass = work.squares[0];
  reduce(learning, place_spectrum(work.spectrum[0], ranks.high), mass, residuals, &high, work.scratch);
  if (truncated) reduce(learning, place_spectrum(work.spectrum[1], ranks.low), mass, residuals, &low, work.scratch);
  return answer_record(in, out, i, high, truncated ? &low : nullptr, work);
}

// The pair of record i from the spectra in `work`, if they were found; the rest of the rows is zero.
EXPUNGE_HD static void store_pair(const QuoteInput& in, double* e, double* d2, double* rest, long* count, long i,
                                  bool solved, RecordWork& work) {
  const Learning learning = {in.step_size, in.n_steps, in.noise_std * in.noise_std};
  const long r = in.rank;
  long found = 0;
  double unresolved = 0.0;
  if (work.squares[0] != 0.0) {
    if (solved) {
      Reduced reduced = place_reduced(work.reduced[0], r, in.q);
      const double* residuals = in.residuals + i * static_cast<long>(in.n_steps) * in.q;
      reduce(learning, place_spectrum(work.spectrum[0], r), work.squares[0], residuals, &reduced, work.scratch);
      found = gaussian_pair(reduced, in.unlearn_steps, in.unlearn_noise_std * in.unlearn_noise_std, e + i * r,
                            d2 + i * r, &unresolved, work.scratch);
    } else {
      found = -1;
    }
  }
  for (long j = (found > 0 ? found : 0) + team::lane(); j < r; j += team::size) e[i * r + j] = d2[i * r + j] = 0.0;
  if (team::leads()) {
    rest[i] = unresolved;
    count[i] = found;
  }
}

// Answers entry 0 of `out` for a space reduced elsewhere.
EXPUNGE_HD static void quote_reduced(const QuoteInput& in, const ReducedInput& space, const QuoteOutput& out,
                                     RecordWork& work) {
  const double variance = in.noise_std * in.noise_std;
  const long r = space.r;
  Reduced reduced = place_reduced(work.reduced[0], r, in.q);
  for (long j = team::lane(); j < r; j += team::size) {
    reduced.maps[j] = step_factor(space.eigenvalues[j], in.step_size);
    reduced.covariances[j] = variance * geometric_sum(reduced.maps[j], in.n_steps);
  }
  for (long j = team::lane(); j < r * r; j += team::size) reduced.difference[j] = space.difference[j];
  for (long j = team::lane(); j < r * in.q; j += team::size) reduced.shift[j] = space.shift[j];
  team::sync();
  answer_record(in, out, 0, reduced, nullptr, work);
}

}  // namespace
}  // namespace expunge::ridge
