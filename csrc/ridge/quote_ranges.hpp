// Quotes of ranges of records on a CPU. Exact: Jacobi matrices in batches, one per vector lane, then one at a time.
#pragma once

#include "ridge/jacobi_lanes.hpp"
#include "ridge/quote.hpp"
#include "ridge/shifted_bound.hpp"

namespace expunge::ridge {
namespace {

static inline long lane_doubles(long r) { return 2 * kBatch * r; }

// Spectra of one record that take turns: all it has.
constexpr int kRuns = 4;

static RecordWork place_all(double* at, long limit, long width) {
  RecordWork work = place_record(at + spectra_doubles(limit), limit, width);
  place_spectra(at, limit, &work);
  return work;
}

// Workspace of one range: lanes of Jacobi matrices, aligned for vectors, and one record.
static inline long quote_workspace(long rank, long width) {
  return lane_doubles(rank) + spectra_doubles(rank) + record_doubles(rank, width) + 8;
}

static void exact_quotes(const QuoteInput& in, const QuoteOutput& out, long begin, long end, double* workspace) {
  const long limit = in.rank > 0 ? in.rank : in.p;
  workspace += (64 - reinterpret_cast<unsigned long>(workspace) % 64) % 64 / sizeof(double);
  Batch* lane_diagonal = reinterpret_cast<Batch*>(workspace);
  Batch* lane_squares = lane_diagonal + limit;
  RecordWork work = place_all(workspace + lane_doubles(limit), limit, in.q);
  for (long first = begin; first < end; first += kBatch) {
    const double* rows[kBatch];
    for (long lane = 0; lane < kBatch; ++lane) {
      const long i = first + lane < end ? first + lane : end - 1;
      rows[lane] = in.projected + i * in.p;
    }
    const Ranks initial = first_ranks(in);
    jacobi_matrices(in.eigenvalues, rows, in.p, initial.high, lane_diagonal, lane_squares);
    for (long lane = 0; lane < kBatch && first + lane < end; ++lane) {
      const long i = first + lane;
      for (long k = 0; k < initial.high; ++k) {
        work.diagonal[k] = entry_of(lane_diagonal[k], lane);
        work.squares[k] = entry_of(lane_squares[k], lane);
      }
      if (work.squares[0] == 0.0) {
        store_nothing_to_forget(out, i);
        continue;
      }
      Ranks ranks = initial;
      for (;;) {
        const bool solved = record_spectra<kRuns>(ranks, 0, spectra_needed(ranks, in.p), work);
        if (quote_record(in, out, i, ranks, solved, work)) break;
        if (in.rank > 0 || ranks.high == in.p) break;
        ranks = more_ranks(ranks, in.p);
        jacobi_matrix(in.eigenvalues, rows[lane], in.p, ranks.high, work.diagonal, work.squares);
      }
    }
  }
}

static void gaussian_pairs(const QuoteInput& in, double* e, double* d2, double* rest, long* count, long begin, long end,
                           double* workspace) {
  RecordWork work = place_all(workspace, in.rank, in.q);
  const Ranks ranks = {in.rank, in.rank};
  for (long i = begin; i < end; ++i) {
    jacobi_matrix(in.eigenvalues, in.projected + i * in.p, in.p, in.rank, work.diagonal, work.squares);
    const bool solved = record_spectra<kRuns>(ranks, 0, 2, work);
    store_pair(in, e, d2, rest, count, i, solved, work);
  }
}

static void solve_reduced(const QuoteInput& in, const ReducedInput& space, const QuoteOutput& out, double* workspace) {
  RecordWork work = place_record(workspace, space.r, in.q);
  quote_reduced(in, space, out, work);
}

// Of blocks: a spread, a shift and what comes before each; one more where there are none.
static long shifted_quotes_workspace(const ShiftedInput& in) { return 3 * in.n_steps + 1; }

static void shifted_quotes(const ShiftedInput& in, double* value, double* mu, long begin, long end, double* workspace) {
  for (long i = begin; i < end; ++i)
    shifted_quote(in, in.sensitivity + i * in.n_steps, in.contraction[i], value + i, mu + i, workspace);
}

static void smallest_eigenvalues(const double* eigenvalues, const double* projected, long p, double floor_value,
                                 double slack, double* out, long begin, long end) {
  for (long i = begin; i < end; ++i) out[i] = lowest_root(eigenvalues, projected + i * p, p, floor_value, slack);
}

}  // namespace
}  // namespace expunge::ridge
