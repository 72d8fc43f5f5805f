// Interface of the ridge kernels: serial over a range of items; callers split ranges over threads.
#pragma once

#include "common/isa.hpp"

namespace expunge::ridge {

// Records to quote, in the eigenbasis of H = X^T X + alpha I.
struct QuoteInput {
  const double* eigenvalues;  // (p)
  const double* projected;    // (n, p) records
  const double* residuals;    // (n, n_steps, q) mean residuals x^T M_k - y along learning
  long p, q;
  double step_size;
  double n_steps;    // of learning, an integer
  double noise_std;  // of learning, per step
  double unlearn_steps;      // given when the noise is solved for
  double unlearn_noise_std;  // given when the steps are solved for
  bool solve_steps;
  double epsilon;
  double log_delta;
  double mu;         // Gaussian mechanism that just meets (epsilon, delta)
  double tolerance;  // accepted relative truncation error
  long rank;         // of the Krylov space; 0: chosen per record
};

struct QuoteOutput {
  double* value;  // noise_std or number of steps, (n)
  double* epsilon;
  double* log_delta_pq;
  double* log_delta_qp;
  double* error;  // estimated, relative
  long* rank;
};

// One record (or group) already reduced to the eigenbasis of H'.
struct ReducedInput {
  const double* eigenvalues;  // (r) of H'
  const double* difference;   // (r, r)
  const double* shift;        // (r, q)
  long r;
};

struct ShiftedInput {
  const double* sensitivity;  // (n, n_steps) of the learning steps
  const double* contraction;  // (n)
  long n_steps;
  double noise_std;
  double unlearn_steps;
  double unlearn_noise_std;
  bool solve_steps;
  double mu;  // to stay below
};

struct Table {
  long (*quote_workspace)(long rank, long q);  // doubles
  void (*exact_quotes)(const QuoteInput& in, const QuoteOutput& out, long begin, long end, double* workspace);
  // Pair of each record at the given unlearning: e, d2 (n, rank), the rest of d2 and the count (n).
  void (*gaussian_pairs)(const QuoteInput& in, double* e, double* d2, double* rest, long* count, long begin, long end,
                         double* workspace);
  // The solve alone, for a space reduced elsewhere: `in` gives everything but records.
  void (*solve_reduced)(const QuoteInput& in, const ReducedInput& space, const QuoteOutput& out, double* workspace);
  long (*shifted_quotes_workspace)(const ShiftedInput& in);  // doubles
  // value (noise_std or steps; 0 where learning suffices, infinite where nothing does) and mu, both rounded up.
  void (*shifted_quotes)(const ShiftedInput& in, double* value, double* mu, long begin, long end, double* workspace);
  // A lower bound, not below `floor`, on the smallest eigenvalue of H - x x^T.
  void (*smallest_eigenvalues)(const double* eigenvalues, const double* projected, long p, double floor, double slack,
                               double* out, long begin, long end);
};

EXPUNGE_ISA_TABLE(Table, table)

}  // namespace expunge::ridge
