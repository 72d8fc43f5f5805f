// Bodies shared by the kernels, over a pack P of lanes.
#pragma once

#include "common/losses.hpp"
#include "common/normal.hpp"
#include "common/vector_math.hpp"
#include "langevin/langevin.hpp"

namespace expunge::langevin {
namespace {

// Columns of a Gram matrix with p of them, padding included.
EXPUNGE_INLINE long padded_columns(long p) { return (p + kGramBlock - 1) / kGramBlock * kGramBlock; }

// Turns linear[c * stride], c < q, into d loss / d linear. target(c) is the pack of targets of output c.
template <class P, class Target>
EXPUNGE_INLINE void residual(Loss loss, typename P::T* linear, long stride, long q, Target target) {
  using F = typename P::F;
  if (loss == Loss::squared) {
    for (long c = 0; c < q; ++c) P::store(linear + c * stride, P::load(linear + c * stride) - target(c));
  } else if (loss == Loss::logistic) {
    const F one = P::splat(1);
    P::store(linear, one / (one + vm::exp_clamped<P>(-P::load(linear))) - target(0));
  } else {
    F top = P::load(linear);
    for (long c = 1; c < q; ++c) {
      const F u = P::load(linear + c * stride);
      top = P::where_less(top, u, u, top);
    }
    F total = P::splat(0);
    for (long c = 0; c < q; ++c) {
      const F e = vm::exp_clamped<P>(P::load(linear + c * stride) - top);
      P::store(linear + c * stride, e);
      total = total + e;
    }
    const F share = P::splat(1) / total;
    for (long c = 0; c < q; ++c) P::store(linear + c * stride, P::load(linear + c * stride) * share - target(c));
  }
}

// min(1, bound / norm), the factor that brings a vector of this norm inside the bound; NaN for a norm that is NaN.
template <class P>
EXPUNGE_INLINE typename P::F shrink(typename P::F norm, typename P::T bound) {
  const typename P::F limit = P::splat(bound);
  return P::where_less(norm, limit, P::splat(1), limit / norm);
}

// Clips the data gradient of one record, residual x^T: its norm is ||residual|| ||x||.
template <class P>
EXPUNGE_INLINE void clip_residual(typename P::T* values, long stride, long q, typename P::F row_norm,
                                  typename P::T clip) {
  using F = typename P::F;
  F square = P::splat(0);
  for (long c = 0; c < q; ++c) {
    const F r = P::load(values + c * stride);
    square = square + r * r;
  }
  const F scale = shrink<P>(P::sqrt(square) * row_norm, clip);
  for (long c = 0; c < q; ++c) P::store(values + c * stride, P::load(values + c * stride) * scale);
}

}  // namespace
}  // namespace expunge::langevin
