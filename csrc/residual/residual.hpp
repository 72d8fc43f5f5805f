// Interface of the residual kernels: one pass over rows gives a gradient, what rounding may have done to it, the loss
// and the number of right answers; another gives the products of rows with their solutions of a linear system. Serial
// over a range of rows; callers split rows over threads.
#pragma once

#include <stdint.h>

#include "common/isa.hpp"
#include "common/losses.hpp"

namespace expunge::residual {

constexpr long kBlock = 64;        // rows whose gradients are added before they join their range's
constexpr long kRangeRows = 512;   // rows of a range at least
constexpr long kRanges = 256;      // ranges of a call at most
constexpr long kMostPartial = 1 << 23;  // doubles that the gradients of all ranges may take, beyond two ranges

// A pass's sums over rows: |x| e, |x| (|r| + e), loss, right answers, in this order. e bounds the error of r.
constexpr int kSums = 4;

// n rows of p features, q outputs. Labels are 0 or 1 for one output, else the number of a class.
struct Pass {
  const double* x;        // (n, p)
  const double* targets;  // (n, q), squared loss
  const int64_t* labels;  // (n), the other losses
  const double* weights;  // (n) or null: 1
  const double* theta;    // (q, p)
  double* residuals;      // (n, q) or null: weight times the loss's derivative by the logits
  long n, p, q;
  Loss loss;
};

// The number of ranges depends on the shape alone, and with it every rounding.
EXPUNGE_HD inline long ranges(long n, long p, long q) {
  const long by_rows = n / kRangeRows, by_memory = kMostPartial / (p * q + 1);
  long count = by_rows < kRanges ? by_rows : kRanges;
  if (count > by_memory) count = by_memory;
  return count < 1 ? 1 : count;
}
// First row of a range: a whole number of blocks.
EXPUNGE_HD inline long range_begin(long range, long count, long n) {
  const long blocks = (n + kBlock - 1) / kBlock, begin = blocks / count * range + blocks % count * range / count;
  return begin * kBlock < n ? begin * kBlock : n;
}
// Most additions that any number of the gradient goes through.
inline long depth(long n, long p, long q) {
  const long count = ranges(n, p, q), blocks = (n + kBlock - 1) / kBlock;
  long levels = 0;
  while ((1L << levels) < count) ++levels;
  return kBlock + (blocks + count - 1) / count + levels;
}

// gradient[0] += gradient[1], gradient[2] += gradient[3], ..., then pairs of these: cells [begin, end) of `count`
// gradients of `size` numbers. The sum ends in the first.
EXPUNGE_HD inline void add_ranges(double* gradients, long count, long size, long begin, long end) {
  for (long step = 1; step < count; step *= 2)
    for (long range = 0; range + step < count; range += 2 * step) {
      double* to = gradients + range * size;
      const double* from = gradients + (range + step) * size;
      for (long cell = begin; cell < end; ++cell) to[cell] += from[cell];
    }
}

struct Table {
  // Rows [begin, end): gradient (q, p) and sums (kSums) are overwritten. workspace: `workspace` doubles.
  void (*pass)(const Pass& call, long begin, long end, double* gradient, double* sums, double* workspace);
  long (*workspace)(long p, long q);
};

EXPUNGE_ISA_TABLE(Table, table)

// n rows x of p features, and for each of q outputs a solution K_c of q blocks of p features: the columns of H^-1 times
// the row in that output's place.
struct Leverages {
  const double* x;    // (n, p)
  const double* k;    // (n, q, q, p)
  double* leverages;  // (n, q, q): x times block a of K_c at (c, a)
  double* squares;    // (n, q, q): K_c times K_d
  double* norms;      // (n): |x|^2
  long n, p, q;
};

struct LeverageTable {
  void (*leverages)(const Leverages& call, long begin, long end);
};

EXPUNGE_ISA_TABLE(LeverageTable, leverage_table)

}  // namespace expunge::residual
