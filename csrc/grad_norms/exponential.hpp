// exp and square root on vectors of float64. Internal linkage only.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "grad_norms/tiles.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

typedef Simd<double>::Mask Bits;
typedef std::uint64_t Unsigned __attribute__((vector_size(kVectorBytes)));

EXPUNGE_INLINE Vd select(const Bits& where, const Vd& yes, const Vd& no) { return where ? yes : no; }

EXPUNGE_INLINE Vd root(const Vd& x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, x);  // the same instruction; the plain form makes GCC 12 warn about its own header
#elif defined(__AVX2__)
  return _mm256_sqrt_pd(x);
#elif defined(__SSE2__)
  return _mm_sqrt_pd(x);
#else
  Vd out;
  for (int lane = 0; lane < Simd<double>::lanes; ++lane) out[lane] = __builtin_sqrt(x[lane]);
  return out;
#endif
}

// For arguments <= 0 only, as softmax needs them, to the precision of T (5e-9 relative for float32); NaN in, garbage
// out (callers carry NaN themselves).
template <class T>
EXPUNGE_INLINE Vd exp_nonpositive(const Vd& argument) {
  const Vd lowest = Vd{} - 708.0;
  const Bits stays = argument >= lowest;
  const Vd x = stays ? argument : lowest;
  const double shifter = 6755399441055744.0;  // 1.5 * 2^52: the sum holds the nearest integer in its low bits
  const Vd shifted = x * 1.4426950408889634 + shifter;
  const Vd n = shifted - shifter;
  const Vd r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;  // ln 2 in two parts
  Vd p = Vd{} + 1.0 / 5040.0;
  if (sizeof(T) == 8) {
    p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
  }
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const Unsigned one = Unsigned{} + 0x3FF0000000000000ULL;
  const Vd scaled = p * reinterpret_cast<Vd>((reinterpret_cast<Unsigned>(shifted) << 52) + one);
  return reinterpret_cast<Vd>(stays & reinterpret_cast<Bits>(scaled));
}

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
