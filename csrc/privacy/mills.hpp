// The normal law's tail: Mills' ratio and its slope. Header with bodies: include only from sources
// compiled once per instruction set, or from a GPU's. Internal linkage.
#pragma once

#include "common/vector_math.hpp"

namespace expunge::privacy {
namespace {

// Chebyshev coefficients in t = (x - 4.5) / (x + 4.5) of (1 + x) R(x) and (1 + x)^2 (1 - x R(x)) on [0, inf), where
// R(x) = Phi(-x) / phi(x) = int_0^inf exp(-x t - t^2 / 2) dt is Mills' ratio and 1 - x R(x) = -R'(x).
EXPUNGE_TABLE double kMills[25] = {
    1.1622890943668537423,      -0.16244622078463712568,    -0.020442087834082800323,   0.031538326336854548588,
    -0.014396293456628504448,   0.0041743557391115824349,   -0.00079865916092940631433, 0.000079098278112087190956,
    4.83999844554852865e-6,     -2.6875369141045505465e-6,  1.8469327970966854557e-7,   6.0651187770460671256e-8,
    -1.0348101767189742774e-8,  -1.3782705896431843921e-9,  4.1438506799746545663e-10,  3.8212921114738197191e-11,
    -1.6081662082563119426e-11, -1.4793610582723637219e-12, 6.3417104736859764938e-13,  7.6382292940798801941e-14,
    -2.484719714545441657e-14,  -4.489973208614983626e-15,  8.9773402184804237919e-16,  2.6763696237508087591e-16,
    -2.4120044880240294824e-17};
EXPUNGE_TABLE double kMillsSlope[28] = {
    1.1812555166320684113,     -0.093156674011200464486,   -0.15877984376921441695,    0.09302845313621393046,
    -0.024477792144596209552,  0.00089458359379877742857,  0.0018695566650479779697,   -0.00076559623479477086315,
    0.00013703866287620805761, -1.3721903785825983838e-6,  -4.5793116965948523086e-6,  6.371828566911349989e-7,
    1.0545513218864960808e-7,  -3.2858277641371776104e-8,  -2.2455116141871263323e-9,  1.4425951456429116868e-9,
    5.8516301731409753867e-11, -6.3574843341040473458e-11, -2.81946474922911847e-12,   2.8881256164092383155e-12,
    2.1309533110481967929e-13, -1.3185538093558249607e-13, -1.7078273229783894292e-14, 5.6865214657828191983e-15,
    1.2770622367184168717e-15, -2.020638152895525715e-16,  -8.6467850940315873417e-17, 2.9526212123249677953e-18};

EXPUNGE_INLINE F64 chebyshev(const double* coefficients, int count, F64 t) {
  const F64 twice = 2.0 * t;
  F64 older = F64{};
  F64 newer = splat(coefficients[count - 1]);
  for (int k = count - 2; k >= 1; --k) {
    const F64 next = twice * newer - older + coefficients[k];
    older = newer;
    newer = next;
  }
  return t * newer - older + coefficients[0];
}

// R(x) = Phi(-x) / phi(x) for 0 <= x < 1e300.
EXPUNGE_INLINE F64 mills(F64 x) { return chebyshev(kMills, 25, (x - 4.5) / (x + 4.5)) / (1.0 + x); }

// -R'(x) = 1 - x R(x) for 0 <= x < 1e150, without the cancellation.
EXPUNGE_INLINE F64 mills_slope(F64 x) {
  return chebyshev(kMillsSlope, 28, (x - 4.5) / (x + 4.5)) / ((1.0 + x) * (1.0 + x));
}

}  // namespace
}  // namespace expunge::privacy
