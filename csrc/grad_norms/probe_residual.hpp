// From the logits of a linear probe to what is wanted of its residuals, lanes along rows. Internal linkage only.
#pragma once

#include "common/vector_math.hpp"
#include "grad_norms/probe_space.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

// exp for x <= 0, to about the precision of the features: nothing is clamped above.
template <class T>
EXPUNGE_INLINE F64 exp_nonpositive(F64 x) {
  const I64 tiny = x < -708.0;
  return select(tiny, F64{}, vm::exp_normal<Lanes<double>, sizeof(T) == 8 ? 13 : 7>(select(tiny, splat(-708.0), x)));
}

// What is wanted of the residual r of a row with logits z: |r|, sum_c r_c z_c, the probability of the true class, what
// its loss is made of, and a sum that is NaN if a logit is not finite.
struct Residual {
  F64 norm, along, own, base, odds, check;  // loss = base + log1p(odds)
};

EXPUNGE_INLINE F64 load_logits(const double* logits, long column) { return load(logits + column * kRows); }

// p_c for c != y keep their digits however small they are, and 1 - p_y is their sum.
template <class T, bool Along>
EXPUNGE_INLINE Residual softmax_residual(const double* logits, long classes, const I64& label) {
  const F64 minus_infinity = F64{} - __builtin_inf();
  F64 top = minus_infinity, check = {}, own = {};
  for (long c = 0; c < classes; ++c) {
    const F64 z = load_logits(logits, c);
    const I64 is_own = label == c;
    check += z * 0.0;
    own = select(is_own, z, own);
    const F64 other = select(is_own, minus_infinity, z);
    top = other > top ? other : top;
  }
  F64 total = {}, squares = {}, along = {};
  for (long c = 0; c < classes; ++c) {
    const F64 z = load_logits(logits, c);
    const F64 e = select(label == c, F64{}, exp_nonpositive<T>(z - top));
    total += e;
    squares += e * e;
    if (Along) along += e * (z - own);
  }
  // p_c = e_c * factor, with the larger of p_y and max p_c as the unit.
  const F64 gap = own - top;
  const I64 sure = gap > 0;
  const F64 one = F64{} + 1.0;
  const F64 small = exp_nonpositive<T>(sure ? -gap : gap);
  const F64 wrong = sure ? small * total : total;  // and the true class: 1 or small
  const F64 share = 1.0 / (wrong + (sure ? one : small));
  const F64 factor = (sure ? small : one) * share;
  return {factor * sqrt_lanes(squares + total * total),
          factor * along,
          (sure ? one : small) * share,
          sure ? F64{} : -gap,
          sure ? wrong : wrong - 1.0 + small,  // the largest of the others is 1
          check};
}

// |sigmoid(z) - y| = sigmoid(s), s = z or -z: no 1 - p.
template <class T>
EXPUNGE_INLINE Residual logistic_residual(const double* logits, const I64& label) {
  const F64 z = load(logits);
  const I64 positive = label != 0;
  const F64 s = positive ? -z : z;
  const I64 above = s > 0;
  const F64 one = F64{} + 1.0;
  const F64 small = exp_nonpositive<T>(above ? -s : s);
  const F64 share = 1.0 / (small + 1.0);
  const F64 norm = (above ? one : small) * share;
  return {norm, (positive ? -norm : norm) * z, (above ? small : one) * share, above ? s : F64{}, small, z * 0.0};
}

template <class T>
EXPUNGE_INLINE Residual squared_residual(const double* logits, long classes, const T* targets, long lanes) {
  F64 squares = {}, along = {};
  for (long c = 0; c < classes; ++c) {
    const F64 z = load_logits(logits, c);
    F64 target = {};
    for (long lane = 0; lane < lanes; ++lane) target[lane] = static_cast<double>(targets[lane * classes + c]);
    squares += (z - target) * (z - target);
    along += (z - target) * z;
  }
  return {sqrt_lanes(squares), along, squares * 0.0, 0.5 * squares, F64{}, F64{}};  // no class: 0, or NaN
}

// The residual itself, written to r[0..classes): for the rare record whose norm must be formed entry by entry.
template <class T>
void explicit_residual(const ProbeNorms<T>& call, const double* logits, long record, double* r, long stride) {
  if (call.loss == Loss::squared) {
    for (long c = 0; c < call.classes; ++c)
      r[c * stride] = logits[c * kRows] - static_cast<double>(call.targets[record * call.classes + c]);
    return;
  }
  if (call.loss == Loss::logistic) {
    const I64 label = I64{} + call.labels[record];
    double z[kLanes];
    for (double& value : z) value = logits[0];
    const Residual residual = logistic_residual<double>(z, label);
    r[0] = call.labels[record] != 0 ? -residual.norm[0] : residual.norm[0];
    return;
  }
  const long y = call.labels[record];
  double top = logits[0], total = 0, others = 0;
  for (long c = 1; c < call.classes; ++c) top = logits[c * kRows] > top ? logits[c * kRows] : top;
  for (long c = 0; c < call.classes; ++c) {
    const F64 e = exp_nonpositive<double>(F64{} + (logits[c * kRows] - top));
    r[c * stride] = e[0];
    total += e[0];
    if (c != y) others += e[0];
  }
  for (long c = 0; c < call.classes; ++c) r[c * stride] /= total;
  r[y * stride] = -others / total;
}

// ||x r^T + alpha W||^2 entry by entry, where its expansion cancels.
template <class T>
double direct_squares(const ProbeNorms<T>& call, const T* x, const T* weights, const double* r, long stride) {
  double squares = 0;
  for (long k = 0; k < call.d; ++k)
    for (long c = 0; c < call.classes; ++c) {
      const double entry =
          static_cast<double>(x[k]) * r[c * stride] + call.alpha * static_cast<double>(weights[k * call.classes + c]);
      squares += entry * entry;
    }
  return squares;
}

// ||x r^T + alpha W|| of one record; its logits are not needed again, the residual may replace them.
template <class T>
double decayed_norm(const ProbeNorms<T>& call, const T* x, long record, long checkpoint, double size, double along,
                    double* logits) {
  const double decay = call.alpha * call.alpha * call.weight_squares[checkpoint];
  double squares = size * size + 2 * call.alpha * along + decay;
  if (squares < 0.01 * (size * size + decay)) {
    const T* weights = call.weights + checkpoint * call.d * call.classes;
    explicit_residual(call, logits, record, logits, kRows);
    squares = direct_squares(call, x, weights, logits, kRows);
  }
  return finish(squares, false);
}

// el2n at one checkpoint, the sum of the true class's probabilities over all, the loss at the last.
template <class T>
EXPUNGE_INLINE void put_proxies(const ProbeNorms<T>& call, long record, long lanes, long checkpoint,
                                const Residual& residual) {
  for (long lane = 0; lane < lanes; ++lane) {
    double* proxies = call.proxies + (record + lane) * 3;
    if (checkpoint == call.early) proxies[0] = residual.norm[lane] + residual.check[lane];
    proxies[1] = (checkpoint == 0 ? 0.0 : proxies[1]) + residual.own[lane] + residual.check[lane];
    if (checkpoint == call.checkpoints - 1)
      proxies[2] = residual.base[lane] + __builtin_log1p(residual.odds[lane]) + residual.check[lane];
  }
}

// Norms of `rows` rows for one group of checkpoints, from their logits.
template <class T>
void group_norms(const ProbeNorms<T>& call, const T* x, long record, long rows, long first_checkpoint, long count,
                 const ProbeSpace<T>& space) {
  constexpr int dlanes = kLanes;
  for (long r = rows; r < round_up(rows, dlanes); ++r) {  // lanes that are not meant hold plain numbers
    space.row_squares[r] = 0;
    for (long j = 0; j < count * call.classes; ++j) space.logits[j * kRows + r] = 0;
  }
  for (long r0 = 0; r0 < rows; r0 += dlanes) {
    const long lanes = least(dlanes, rows - r0);
    I64 label = {};
    if (call.loss != Loss::squared)
      for (long lane = 0; lane < lanes; ++lane) label[lane] = call.labels[record + r0 + lane];
    const F64 row_norms = sqrt_lanes(load(space.row_squares + r0));
    F64 sums = {};
    for (long n = 0; n < count; ++n) {
      double* logits = space.logits + n * call.classes * kRows + r0;
      const long checkpoint = first_checkpoint + n;
      Residual residual;
      if (call.loss == Loss::softmax)
        residual = call.alpha != 0 ? softmax_residual<T, true>(logits, call.classes, label)
                                   : softmax_residual<T, false>(logits, call.classes, label);
      else if (call.loss == Loss::logistic)
        residual = logistic_residual<T>(logits, label);
      else
        residual = squared_residual(logits, call.classes, call.targets + (record + r0) * call.classes, lanes);
      if (call.proxies != nullptr) put_proxies(call, record + r0, lanes, checkpoint, residual);
      F64 norms = row_norms * (residual.norm + residual.check);
      if (call.alpha != 0)
        for (long lane = 0; lane < lanes; ++lane)
          norms[lane] = decayed_norm(call, x + (r0 + lane) * call.d, record + r0 + lane, checkpoint, norms[lane],
                                     residual.along[lane], logits + lane);
      if (call.checkpoint_weights != nullptr) {
        sums += call.checkpoint_weights[checkpoint] * (norms * norms);
        continue;
      }
      if (call.squared) norms *= norms;
      for (long lane = 0; lane < lanes; ++lane)
        call.out[(record + r0 + lane) * call.checkpoints + checkpoint] = norms[lane];
    }
    if (call.checkpoint_weights != nullptr)
      for (long lane = 0; lane < lanes; ++lane) call.out[record + r0 + lane] += sums[lane];
  }
}

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
