// Interface of the langevin kernels: serial over a range of items; callers split ranges over threads.
// Inside a kernel parameters lie column after column: number c * p + j is theta[j, c], and so is its normal.
#pragma once

#include <stdint.h>

#include "common/isa.hpp"
#include "common/losses.hpp"

namespace expunge::langevin {

// Columns of a Gram matrix are padded to this many, so that rows of it can be taken in whole blocks.
constexpr long kGramBlock = 8;

template <class T>
struct Chains {
  const T* X;              // (n, p)
  const T* targets;        // (n, q): ridge targets, 0/1 labels, or one-hot rows
  const T* gram;           // (p, padded p): X^T X + alpha I, or null for the loop over records
  const T* moment;         // (q, p): (X^T targets)^T, with gram only
  const T* row_norm;       // (n,), with clip only
  const T* step_size;      // (n_steps,)
  const T* noise_std;      // (n_steps,)
  const T* theta0;         // (p, q) for all chains, or (n_chains, p, q)
  const int64_t* record;   // increasing numbers of steps taken, in [0, n_steps]
  T* out;                  // (n_record, n_chains, p, q)
  long n, p, q, n_steps, n_chains, n_record;
  Loss loss;
  bool theta0_per_chain;
  T alpha;
  bool poisson;            // a record enters where its word < threshold; its gradient counts `weight` times
  uint32_t threshold;
  T weight;
  T clip;                  // 0: no clipping
  T radius;                // 0: no projection
  uint64_t seed, first_chain;
  uint32_t first_step;
};

template <class T>
struct Tail {
  T* theta;                // (n_chains, q, p), updated in place
  const T* gradient;       // (n_chains, q, p)
  const T* moment;         // (q, p), subtracted from the gradient, or null
  long p, q;
  T alpha, step_size, noise_std, radius;
  uint64_t seed, first_chain;
  uint32_t step;
};

template <class T>
struct Residuals {
  T* linear;               // (n_chains, q, n): X theta, turned into residuals in place
  const T* targets;        // (q, n)
  const T* row_norm;       // (n,), with clip only
  long n, q;
  Loss loss;
  T clip;
};

template <class T>
struct Kernels {
  long lanes;  // chains advanced together
  void (*normals)(T* out, uint64_t first, long count, uint64_t seed, uint64_t chain, uint32_t step);
  long (*chains_workspace)(const Chains<T>& problem);  // in elements of T, for any number of chains
  void (*chains)(const Chains<T>& problem, T* workspace, long begin_chain, long end_chain);
  void (*tail)(const Tail<T>& problem, long begin_chain, long end_chain);
  void (*residuals)(const Residuals<T>& problem, long begin_chain, long end_chain);
  long (*gram_workspace)(long p, long q);  // in doubles, for any number of rows
  // Rows [begin, end) of the Gram matrix and of the moment; summed in float64.
  void (*gram)(const T* X, const T* targets, long n, long p, long q, double alpha, T* gram, T* moment,
               double* workspace, long begin, long end);
  void (*row_norms)(const T* X, long p, T* out, long begin, long end);
};

struct Table {
  Kernels<double> f64;
  Kernels<float> f32;
  void (*words)(uint32_t* out, uint64_t first_block, long blocks, uint64_t seed, uint64_t chain, uint32_t step);
};

EXPUNGE_ISA_TABLE(Table, table)

}  // namespace expunge::langevin
