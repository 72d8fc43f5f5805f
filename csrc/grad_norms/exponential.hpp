// exp on vectors of float64: at most 1 ulp or so off for arguments in [-708, 709]; 0 below. Internal linkage only.
#pragma once

#include "grad_norms/tiles.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

typedef Simd<double>::Mask Bits;
typedef std::uint64_t Unsigned __attribute__((vector_size(kVectorBytes)));

EXPUNGE_INLINE Vd select(const Bits& where, const Vd& yes, const Vd& no) {
  return reinterpret_cast<Vd>((where & reinterpret_cast<Bits>(yes)) | (~where & reinterpret_cast<Bits>(no)));
}

// For arguments <= 0 only, as softmax needs them; NaN in, garbage out (callers carry NaN themselves).
EXPUNGE_INLINE Vd exp_nonpositive(const Vd& argument) {
  const Vd lowest = Vd{} - 708.0;
  const Bits vanishes = ~(argument >= lowest);
  const Vd x = select(vanishes, lowest, argument);
  const double shifter = 6755399441055744.0;  // 1.5 * 2^52: the sum holds the nearest integer in its low bits
  const Vd shifted = x * 1.4426950408889634 + shifter;
  const Vd n = shifted - shifter;
  const Vd r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;  // ln 2 in two parts
  Vd p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const Unsigned one = Unsigned{} + 0x3FF0000000000000ULL;
  const Vd scale = reinterpret_cast<Vd>((reinterpret_cast<Unsigned>(shifted) << 52) + one);
  return select(vanishes, Vd{}, p * scale);
}

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
