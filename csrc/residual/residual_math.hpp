// Residuals, losses and errors of a few rows side by side, one to a lane. Header with bodies: include only from sources
// compiled once per instruction set, or from a GPU's. Internal linkage.
#pragma once

#include <math.h>

#include "common/vector_math.hpp"
#include "residual/residual.hpp"

namespace expunge::residual {
namespace {

constexpr double kUnit = 1.1102230246251565e-16;  // 2^-53
constexpr double kFaint = 4.4501477170144028e-308;  // 2^-1021: more than exp's flush to 0 below -708 loses

// Of a softmax or a logistic residual, relative to it or to 1: section 3's 8 and q + 12, and 2 for the weight.
// Softmax: 4 of the power, 4 of those in the sum, q of the sum, 2 of its reciprocal and the product, 1 of the rest.
constexpr double kLogisticUnits = 10.0, kSoftmaxUnits = 14.0, kSquaredUnits = 4.0;

// log(1 + t) for 0 <= t <= 1: what 1 + t rounds away comes back.
EXPUNGE_INLINE F64 log1p(F64 t) {
  const F64 w = 1.0 + t;
  return vm::log(w) + (t - (w - 1.0)) / w;
}

EXPUNGE_INLINE F64 load(const double* from) { return Lanes<double>::load(from); }
EXPUNGE_INLINE void store(double* to, F64 x) { Lanes<double>::store(to, x); }

struct Rows {
  F64 square;  // of the row's norm, as summed
  F64 weight;  // 0 for lanes without a row
  F64 label;  // class number
};

// At least the square root of a computed sum of `terms` squares, whatever was rounded away or underflowed.
EXPUNGE_INLINE double norm_above(double square, long terms) {
  const double count = static_cast<double>(terms);
  return ::sqrt(square + count * 1e-323) * (1.0 + 2.0 * (count + 4.0) * kUnit);
}

// At least the error of a computed sum of `terms` products, relative to the product of the two norms.
EXPUNGE_INLINE double product_error(long terms) {
  const double count = static_cast<double>(terms) + 1.0;
  return count * kUnit / (1.0 - 2.0 * count * kUnit);
}

// What a set of rows adds to the sums.
struct RowSums {
  F64 error, size, loss, right;
};

// The derivative of log(1 + exp(-margin)) by -margin, without cancellation.
EXPUNGE_INLINE F64 sigmoid_of_minus(F64 margin, F64* t) {
  *t = vm::exp(-vm::abs(margin));
  return select(margin >= 0.0, *t, splat(1.0)) / (1.0 + *t);
}

// u: logits in, weighted residuals out, output c at u + c * stride; targets of squared loss likewise. theta_norm and
// gamma are upper bounds of |theta| and of the relative error of a sum of p products.
EXPUNGE_INLINE RowSums residuals_of(Loss loss, long q, long p, double theta_norm, double gamma, const Rows& rows,
                                    double* u, long stride, const double* target, long target_stride) {
  const F64 zero = splat(0.0), one = splat(1.0);
  const F64 norm = sqrt_lanes(rows.square + static_cast<double>(p) * 1e-323);
  // Of the logits together; products that underflow add less than the second term.
  const F64 logit_error = gamma * norm * theta_norm + static_cast<double>(p) * 1e-323;
  F64 square = zero, value = zero, right = zero, error, last = zero;
  // Squares that underflow are below what is added; one residual alone is its own norm.
  const auto size = [&] { return q == 1 ? vm::abs(last) : sqrt_lanes(square + static_cast<double>(q) * 1e-323); };
  if (loss == Loss::squared) {
    for (long c = 0; c < q; ++c) {
      const F64 r = load(u + c * stride) - load(target + c * target_stride);
      last = r;
      square += r * r;
      store(u + c * stride, rows.weight * r);
    }
    value = 0.5 * square;
    error = logit_error + kSquaredUnits * kUnit * size();
  } else if (loss == Loss::logistic) {
    F64 best = load(u), at = zero;
    for (long c = 0; c < q; ++c) {
      const F64 logit = load(u + c * stride);
      const I64 higher = logit > best;
      best = select(higher, logit, best);
      at = select(higher, splat(static_cast<double>(c)), at);
      const I64 positive = rows.label == (q == 1 ? 1.0 : static_cast<double>(c));
      const F64 margin = select(positive, logit, -logit);
      F64 t;
      const F64 r = sigmoid_of_minus(margin, &t);
      value += log1p(t) + select(margin < 0.0, -margin, zero);
      last = r;
      square += r * r;
      store(u + c * stride, rows.weight * select(positive, -r, r));
    }
    if (q == 1) at = select(best > 0.0, one, zero);
    right = select(at == rows.label, one, zero);
    error = 0.25 * logit_error + kLogisticUnits * kUnit * size();
  } else {
    F64 best = load(u), at = zero, true_logit = zero;
    for (long c = 1; c < q; ++c) {
      const I64 higher = load(u + c * stride) > best;
      best = select(higher, load(u + c * stride), best);
      at = select(higher, splat(static_cast<double>(c)), at);
    }
    F64 sum = zero;
    for (long c = 0; c < q; ++c) {
      true_logit = select(rows.label == static_cast<double>(c), load(u + c * stride), true_logit);
      store(u + c * stride, vm::exp(load(u + c * stride) - best));
      sum += load(u + c * stride);
    }
    const F64 share = 1.0 / sum;
    for (long c = 0; c < q; ++c) {
      const F64 probability = load(u + c * stride) * share;
      const F64 r = select(rows.label == static_cast<double>(c), probability - 1.0, probability);
      last = r;
      square += r * r;
      store(u + c * stride, rows.weight * r);
    }
    value = vm::log(sum) + (best - true_logit);
    right = select(at == rows.label, one, zero);
    error = 0.5 * logit_error + (static_cast<double>(q) + kSoftmaxUnits) * kUnit;
  }
  // Last, what products with the weight lose where they are subnormal.
  error = rows.weight * (error + static_cast<double>(q) * kFaint) + static_cast<double>(q) * 1e-323;
  return {norm * error, norm * (rows.weight * size() + error), rows.weight * value,
          select(rows.weight > 0.0, right, zero)};
}

}  // namespace
}  // namespace expunge::residual
