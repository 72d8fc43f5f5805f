// Rules and bodies that the kernels share on every device. Internal linkage only: CPU sources are built once a level.
#pragma once

#include "common/isa.hpp"

namespace expunge::grad_norms {
namespace {

// Terms summed in registers before they go to a wider or second sum; on the CPU they fit L1.
constexpr long kBlock = 256;

// The form with fewer operations; ties go to the product, which never cancels.
EXPUNGE_INLINE bool gram_is_cheaper(long left, long right, long d_in, long d_out) {
  return static_cast<double>(left) * static_cast<double>(right) * static_cast<double>(d_in + d_out) <
         0.5 * static_cast<double>(left + right) * static_cast<double>(d_in) * static_cast<double>(d_out);
}

// What the Gram form found, and how far rounding may have moved it.
struct GramSum {
  double value = 0;   // sum_ij (a_i . b_j) (g_i . h_j)
  double spread = 0;  // root sum square over the pairs of what the rounding of a dot product is relative to
  double trace = 0;   // sum_i |a_i|^2 |g_i|^2, nonzero however small the entries are
  double lost = 0;    // what underflow may have taken, in rounding units of a dot product

  // `limit` times the rounding unit of a dot product is what a relative error may be. False for a NaN.
  EXPUNGE_INLINE bool trustworthy(double limit) const {
    return __builtin_sqrt(spread) + trace + lost <= limit * __builtin_fabs(value);
  }
};

// GramSum::lost where `squares` is the sum of all |a_i|^2 and |g_i|^2: an entry of one matrix loses at most a subnormal
// for each term, and the entry it is multiplied by is no larger than that.
template <class T>
EXPUNGE_INLINE double lost_to_underflow(long positions, long terms, double squares) {
  const double smallest_in_units = sizeof(T) == 8 ? 0x1p-1021 : 0x1p-125;
  const double pairs = static_cast<double>(positions) * static_cast<double>(positions);
  return pairs * static_cast<double>(terms) * smallest_in_units * squares;
}

template <class T>
constexpr double kGramLimit = sizeof(T) == 8 ? 256.0 : 8.0;

// A NaN stays a NaN; rounding just below zero becomes zero.
EXPUNGE_INLINE double finish(double squares, bool squared) {
  const double kept = squares < 0 ? 0.0 : squares;
  return squared ? kept : __builtin_sqrt(kept);
}

}  // namespace
}  // namespace expunge::grad_norms
