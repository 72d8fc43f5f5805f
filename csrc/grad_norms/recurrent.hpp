// One step of the cells of recurrent layers, for vector lanes and for single numbers alike. Internal linkage only: CPU
// sources are built once a level.
//
// F has V, what is computed with, one(), sigmoid(V), tanh(V), ramp(V), the positive part, and step(V), the ramp's slope
// at what it gave; a NaN stays one.
// `sums[g]` is the input's part of gate g on the way in, the gate on the way out; `parts[g]` the state's part.
#pragma once

#include "grad_norms/grad_norms.hpp"
#include "grad_norms/grad_norms_math.hpp"

namespace expunge::grad_norms {
namespace {

// Gates i, f, g, o of the new cell c = f c' + i g and the new state o tanh c.
template <class F>
struct LstmCell {
  typedef typename F::V V;
  static constexpr int gates = 4;
  static constexpr bool separate = false;  // whether the gradients of a gate's two parts differ

  // `kept` comes as the cells before the step, and leaves as those after it.
  EXPUNGE_INLINE static V forward(V (&sums)[gates], const V (&parts)[gates], const V&, V& kept) {
    sums[0] = F::sigmoid(sums[0] + parts[0]);
    sums[1] = F::sigmoid(sums[1] + parts[1]);
    sums[2] = F::tanh(sums[2] + parts[2]);
    sums[3] = F::sigmoid(sums[3] + parts[3]);
    kept = sums[1] * kept + sums[0] * sums[2];
    return sums[3] * F::tanh(kept);
  }

  // From the gradient of the new state (and of the new cells, which leaves as that of the cells before) to those of the
  // sums; returns what reaches the state before beside them.
  EXPUNGE_INLINE static V backward(const V (&gate)[gates], const V&, const V& cell_before, const V& cell, const V& grad,
                                   V& cell_grad, V (&grads)[gates], V (&)[gates]) {
    const V bent = F::tanh(cell);
    const V whole = cell_grad + grad * gate[3] * (F::one() - bent * bent);
    grads[0] = whole * gate[2] * (gate[0] * (F::one() - gate[0]));
    grads[1] = whole * cell_before * (gate[1] * (F::one() - gate[1]));
    grads[2] = whole * gate[0] * (F::one() - gate[2] * gate[2]);
    grads[3] = grad * bent * (gate[3] * (F::one() - gate[3]));
    cell_grad = whole * gate[1];
    return V{};
  }
};

// Gates r, z, n, where the state's part of n goes through r; the new state n + z (h' - n).
template <class F>
struct GruCell {
  typedef typename F::V V;
  static constexpr int gates = 3;
  static constexpr bool separate = true;

  EXPUNGE_INLINE static V forward(V (&sums)[gates], const V (&parts)[gates], const V& before, V& kept) {
    sums[0] = F::sigmoid(sums[0] + parts[0]);
    sums[1] = F::sigmoid(sums[1] + parts[1]);
    sums[2] = F::tanh(sums[2] + sums[0] * parts[2]);
    kept = parts[2];
    return sums[2] + sums[1] * (before - sums[2]);
  }

  EXPUNGE_INLINE static V backward(const V (&gate)[gates], const V& before, const V&, const V& part, const V& grad, V&,
                                   V (&grads)[gates], V (&state_grads)[gates]) {
    const V r = gate[0], z = gate[1], n = gate[2];
    grads[2] = grad * (F::one() - z) * (F::one() - n * n);
    grads[0] = state_grads[0] = grads[2] * part * (r * (F::one() - r));
    grads[1] = state_grads[1] = grad * (before - n) * (z * (F::one() - z));
    state_grads[2] = grads[2] * r;
    return grad * z;
  }
};

template <class F>
struct TanhCell {
  typedef typename F::V V;
  static constexpr int gates = 1;
  static constexpr bool separate = false;

  EXPUNGE_INLINE static V forward(V (&sums)[gates], const V (&parts)[gates], const V&, V&) {
    return sums[0] = F::tanh(sums[0] + parts[0]);
  }

  EXPUNGE_INLINE static V backward(const V (&gate)[gates], const V&, const V&, const V&, const V& grad, V&,
                                   V (&grads)[gates], V (&)[gates]) {
    grads[0] = grad * (F::one() - gate[0] * gate[0]);
    return V{};
  }
};

template <class F>
struct ReluCell {
  typedef typename F::V V;
  static constexpr int gates = 1;
  static constexpr bool separate = false;

  EXPUNGE_INLINE static V forward(V (&sums)[gates], const V (&parts)[gates], const V&, V&) {
    return sums[0] = F::ramp(sums[0] + parts[0]);
  }

  EXPUNGE_INLINE static V backward(const V (&gate)[gates], const V&, const V&, const V&, const V& grad, V&,
                                   V (&grads)[gates], V (&)[gates]) {
    grads[0] = grad * F::step(gate[0]);
    return V{};
  }
};

}  // namespace
}  // namespace expunge::grad_norms
