// Leverages: compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include <string.h>

#include "common/lanes.hpp"
#include "residual/residual.hpp"

namespace expunge::residual::EXPUNGE_ISA_NS {
namespace {

EXPUNGE_INLINE F64 load(const double* from) { return Lanes<double>::load(from); }

// What is left of a row behind its last whole vector, and zeros.
EXPUNGE_INLINE F64 rest(const double* from, long count) {
  F64 x = splat(0.0);
  for (long lane = 0; lane < count; ++lane) x[lane] = from[lane];
  return x;
}

EXPUNGE_INLINE double total(F64 x) {
  double sum = 0.0;
  for (int lane = 0; lane < kLanes; ++lane) sum += x[lane];
  return sum;
}

// One output: x k, k k and x x, each row and solution read once. Two sums of each hide the latency of additions.
EXPUNGE_INLINE void three_products(const double* x, const double* k, long p, double* xk, double* kk, double* xx) {
  F64 mixed[2] = {}, solved[2] = {}, own[2] = {};
  const auto add = [&](F64 a, F64 b, int at) __attribute__((always_inline)) {
    mixed[at] += a * b;
    solved[at] += b * b;
    own[at] += a * a;
  };
  long j = 0;
  for (; j + 2 * kLanes <= p; j += 2 * kLanes) {
    add(load(x + j), load(k + j), 0);
    add(load(x + j + kLanes), load(k + j + kLanes), 1);
  }
  if (j + kLanes <= p) {
    add(load(x + j), load(k + j), 0);
    j += kLanes;
  }
  if (j < p) add(rest(x + j, p - j), rest(k + j, p - j), 1);
  *xk = total(mixed[0] + mixed[1]);
  *kk = total(solved[0] + solved[1]);
  *xx = total(own[0] + own[1]);
}

// The products of a vector with `count` others, which lie `stride` apart.
template <int count>
EXPUNGE_INLINE void products(const double* a, const double* others, long stride, long size, double* out) {
  F64 sum[count] = {};
  long j = 0;
  for (; j + kLanes <= size; j += kLanes) {
    const F64 value = load(a + j);
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < count; ++i) sum[i] += value * load(others + i * stride + j);
  }
  if (j < size) {
    const F64 value = rest(a + j, size - j);
    for (int i = 0; i < count; ++i) sum[i] += value * rest(others + i * stride + j, size - j);
  }
  for (int i = 0; i < count; ++i) out[i] = total(sum[i]);
}

EXPUNGE_INLINE void all_products(const double* a, const double* others, long stride, long size, long count,
                                 double* out) {
  long i = 0;
  for (; i + 4 <= count; i += 4) products<4>(a, others + i * stride, stride, size, out + i);
  for (; i < count; ++i) products<1>(a, others + i * stride, stride, size, out + i);
}

void leverages(const Leverages& call, long begin, long end) {
  const long p = call.p, q = call.q, size = q * p;
  for (long row = begin; row < end; ++row) {
    const double* x = call.x + row * p;
    const double* k = call.k + row * q * size;
    double* levers = call.leverages + row * q * q;
    double* squares = call.squares + row * q * q;
    if (q == 1) {
      three_products(x, k, p, levers, squares, call.norms + row);
      continue;
    }
    products<1>(x, x, 0, p, call.norms + row);
    for (long c = 0; c < q; ++c) {
      all_products(x, k + c * size, p, p, q, levers + c * q);
      all_products(k + c * size, k + c * size, size, size, q - c, squares + c * q + c);
      for (long d = 0; d < c; ++d) squares[c * q + d] = squares[d * q + c];
    }
  }
}

}  // namespace

extern const LeverageTable leverage_table = {leverages};

}  // namespace expunge::residual::EXPUNGE_ISA_NS
