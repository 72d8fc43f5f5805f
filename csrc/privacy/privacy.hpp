// Interface of the privacy kernels: serial over a range of items; callers split ranges over threads.
#pragma once

#include "common/isa.hpp"

namespace expunge::privacy {

// Gaussian pairs Q = N(0, I), P = N(d, I + diag e), one row of length m per pair. A stride of 0 repeats one pair.
struct Pairs {
  const double* excess;         // e, each > -1
  const double* squared_shift;  // |d_j|^2 over the columns
  long m;
  long stride;
  double columns;  // q
};

struct Table {
  // delta(mu, epsilon), rounded up; never above 1.
  void (*gdp_delta)(const double* mu, const double* epsilon, double* delta, long begin, long end);
  // Smallest epsilon found with gdp_delta(mu, epsilon) <= delta: rounded up, 0 where gdp_delta(mu, 0) <= delta.
  void (*gdp_epsilon)(const double* mu, const double* delta, double* epsilon, long begin, long end);
  // Largest mu found with gdp_delta(mu, epsilon) <= delta: rounded down.
  void (*gdp_mu)(const double* epsilon, const double* delta, double* mu, long begin, long end);
  // Rows [begin, end) of (rows, steps) arrays; mu rounded up. The workspace's length is in doubles.
  long (*shifted_mu_workspace)(long steps);
  void (*shifted_mu)(const double* sensitivity, const double* contraction, const double* noise_std, long steps,
                     double* mu, double* workspace, long begin, long end);
  // delta(P | Q) rounded up (swapped: delta(Q | P)), its relative error, and 1 if it is exact to that error or 0 if it
  // is the Chernoff-type upper bound. The workspace's length, of this and the next two, is in doubles.
  long (*pair_workspace)(const Pairs& pairs);
  void (*pair_delta)(const Pairs& pairs, const double* epsilon, bool swapped, double* delta, double* error,
                     double* converged, double* workspace, long begin, long end);
  // Smallest epsilon found whose delta, rounded up, is at most `delta`; +inf for delta = 0 and unbounded losses.
  void (*pair_epsilon)(const Pairs& pairs, const double* delta, bool swapped, double* epsilon, double* workspace,
                       long begin, long end);
  // Renyi divergence, rounded up; +inf where it diverges.
  void (*pair_renyi)(const Pairs& pairs, const double* order, bool swapped, double* divergence, double* workspace,
                     long begin, long end);
};

EXPUNGE_ISA_TABLE(Table, table)

}  // namespace expunge::privacy
