// Own log, sine and cosine of random bits, and Box-Muller normals on Philox words: integer operations, +, -, *, /, sqrt
// in one fixed order, so every instruction set gives the same bits. Polynomials: fdlibm (float64), Cephes (float32).
#pragma once

#include "common/philox.hpp"

namespace expunge {
namespace {

// -2 log(u), u = (64 random bits | 1) / 2^64, rounded to a double: normals reach 9.4 standard deviations.
EXPUNGE_INLINE F64 minus_two_log(U64 low, U64 high) {
  const U64 low_bits = (low & uint64_t(0xffffffff)) | uint64_t(0x4330000000000001);
  const U64 high_bits = (high & uint64_t(0xffffffff)) | uint64_t(0x4530000000000000);
  const F64 u = (bits_as<F64>(high_bits) - 0x1.00000001p84) + bits_as<F64>(low_bits);
  const U64 x = bits_as<U64>(u) + (uint64_t(0x3ff0000000000000) - uint64_t(0x3fe6a09e00000000));
  const F64 k = bits_as<F64>((x >> 52) | uint64_t(0x4330000000000000)) - (0x1p52 + 1023 + 64);
  const F64 f = bits_as<F64>((x & uint64_t(0x000fffffffffffff)) + uint64_t(0x3fe6a09e00000000)) - 1.0;  // [-0.29, 0.42)
  const F64 s = f / (f + 2.0), z = s * s, w = z * z;
  const F64 t1 = w * (w * (w * 1.531383769920937332e-01 + 2.222219843214978396e-01) + 3.999999999940941908e-01);
  const F64 t2 = z * (w * (w * (w * 1.479819860511658591e-01 + 1.818357216161805012e-01) + 2.857142874366239149e-01) +
                      6.666666666666735130e-01);
  const F64 half = f * f * 0.5;
  const F64 log =
      k * 6.93147180369123816490e-01 - ((half - (s * (half + (t1 + t2)) + k * 1.90821492927058770002e-10)) - f);
  return log * -2.0;
}

// cos and sin of 2 pi v / 2^64: the quadrant is taken from the integer, so the reduction is exact.
EXPUNGE_INLINE void cos_sin_turn(U64 low, U64 high, F64* cosine, F64* sine) {
  const U64 v = ((high << 32) | (low & uint64_t(0xffffffff))) + (uint64_t(1) << 61);
  const U64 within = ((v & ((uint64_t(1) << 62) - 1)) >> 10) | uint64_t(0x4330000000000000);
  const F64 x = (bits_as<F64>(within) - (0x1p52 + 0x1p51)) * (6.283185307179586477 * 0x1p-54);
  const F64 z = x * x;
  const F64 sp =
      z * (z * (z * (z * (z * 1.58969099521155010221e-10 - 2.50507602534068634195e-08) + 2.75573137070700676789e-06) -
                1.98412698298579493134e-04) +
           8.33333333332248946124e-03) -
      1.66666666666666324348e-01;
  const F64 s = x + x * z * sp;
  const F64 cp =
      z * (z * (z * (z * (z * -1.13596475577881948265e-11 + 2.08757232129817482790e-09) - 2.75573143513906633035e-07) +
                2.48015872894767294178e-05) -
           1.38888888888741095749e-03) +
      4.16666666666666019037e-02;
  const F64 c = (z * z * cp - z * 0.5) + 1.0;
  // Odd quadrants exchange the two; exclusive or does it without a 64-bit comparison, which SSE2 lacks.
  const U64 odd = U64{} - ((v >> 62) & uint64_t(1));
  const U64 exchange = (bits_as<U64>(s) ^ bits_as<U64>(c)) & odd;
  const U64 sign = U64{} + (uint64_t(1) << 63);
  *cosine = bits_as<F64>(bits_as<U64>(c) ^ exchange ^ ((v + (uint64_t(1) << 62)) & sign));
  *sine = bits_as<F64>(bits_as<U64>(s) ^ exchange ^ (v & sign));
}

// The same in float32 with 32 bits: u = (word + 1/2) / 2^32 reaches 6.7 standard deviations.
EXPUNGE_INLINE F32 minus_two_log(U32 word) {
  const F32 high = to_float(bits_as<I32>(word >> 16));
  const F32 low = to_float(bits_as<I32>(word & uint32_t(0xffff)));
  const F32 u = high * 65536.0f + (low + 0.5f);
  const U32 x = bits_as<U32>(u) + (uint32_t(0x3f800000) - uint32_t(0x3f3504f3));
  const F32 k = to_float(bits_as<I32>(x >> 23) - int32_t(127 + 32));
  const F32 f = bits_as<F32>((x & uint32_t(0x007fffff)) + uint32_t(0x3f3504f3)) - 1.0f;
  const F32 z = f * f;
  F32 y = f * 7.0376836292e-2f - 1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f - 1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f - 1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f - 2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  y = y * f * z + k * -2.12194440e-4f - z * 0.5f;
  return ((f + y) + k * 0.693359375f) * -2.0f;
}

EXPUNGE_INLINE void cos_sin_turn(U32 word, F32* cosine, F32* sine) {
  const U32 v = word + (uint32_t(1) << 29);
  const I32 within = bits_as<I32>(v & ((uint32_t(1) << 30) - 1)) - int32_t(1 << 29);
  const F32 x = to_float(within) * (6.283185307179586477f * 0x1p-32f);
  const F32 z = x * x;
  const F32 s = x + x * z * (z * (z * -1.9515295891e-4f + 8.3321608736e-3f) - 1.6666654611e-1f);
  const F32 c =
      (z * z * (z * (z * 2.443315711809948e-5f - 1.388731625493765e-3f) + 4.166664568298827e-2f) - z * 0.5f) + 1.0f;
  const U32 odd = U32{} - ((v >> 30) & uint32_t(1));
  const U32 exchange = (bits_as<U32>(s) ^ bits_as<U32>(c)) & odd;
  const U32 sign = U32{} + (uint32_t(1) << 31);
  *cosine = bits_as<F32>(bits_as<U32>(c) ^ exchange ^ ((v + (uint32_t(1) << 30)) & sign));
  *sine = bits_as<F32>(bits_as<U32>(s) ^ exchange ^ (v & sign));
}

// The normals of one Philox block in every lane: 2 in float64, 4 in float32, in this order; and blocks taken at once.
template <class T>
struct Normals;

template <>
struct Normals<double> {
  static constexpr int per_block = 2, groups = kGroups;
  F64 z[2];
  EXPUNGE_INLINE static Normals of(const Words<double, groups>& words, int g) {
    Normals out;
    const F64 r = sqrt_lanes(minus_two_log(words.w[0][g], words.w[1][g]));
    F64 c, s;
    cos_sin_turn(words.w[2][g], words.w[3][g], &c, &s);
    out.z[0] = r * c;
    out.z[1] = r * s;
    return out;
  }
#if !defined(EXPUNGE_DEVICE_CODE)
  // Lane by lane: 2 normals of lane 0, of lane 1, ...
  EXPUNGE_INLINE static void store(double* out, const Normals& n) {
    Lanes<double>::store(out, zip_low(n.z[0], n.z[1]));
    Lanes<double>::store(out + Lanes<double>::W, zip_high(n.z[0], n.z[1]));
  }
#endif
};

template <>
struct Normals<float> {
  static constexpr int per_block = 4, groups = kGroups;
  F32 z[4];
  EXPUNGE_INLINE static Normals of(const Words<float, groups>& words, int g) {
    Normals out;
    for (int half = 0; half < 2; ++half) {
      const F32 r = sqrt_lanes(minus_two_log(words.w[2 * half][g]));
      F32 c, s;
      cos_sin_turn(words.w[2 * half + 1][g], &c, &s);
      out.z[2 * half] = r * c;
      out.z[2 * half + 1] = r * s;
    }
    return out;
  }
#if !defined(EXPUNGE_DEVICE_CODE)
  EXPUNGE_INLINE static void store(float* out, const Normals& n) {
    constexpr long W = Lanes<float>::W;
    const F64 a = bits_as<F64>(zip_low(n.z[0], n.z[1])), b = bits_as<F64>(zip_low(n.z[2], n.z[3]));
    const F64 c = bits_as<F64>(zip_high(n.z[0], n.z[1])), d = bits_as<F64>(zip_high(n.z[2], n.z[3]));
    Lanes<float>::store(out, bits_as<F32>(zip_low(a, b)));
    Lanes<float>::store(out + W, bits_as<F32>(zip_high(a, b)));
    Lanes<float>::store(out + 2 * W, bits_as<F32>(zip_low(c, d)));
    Lanes<float>::store(out + 3 * W, bits_as<F32>(zip_high(c, d)));
  }
#endif
};

#if !defined(EXPUNGE_DEVICE_CODE)
template <class T>
EXPUNGE_INLINE void normals_of_blocks(T* out, uint64_t block, uint64_t seed, uint64_t chain, uint32_t step) {
  constexpr int groups = Normals<T>::groups;
  const auto words = Words<T, groups>::template of<LanesAre::blocks>(seed, block, step, chain, kNormals);
  EXPUNGE_UNROLL(2)
  for (int g = 0; g < groups; ++g)
    Normals<T>::store(out + g * Normals<T>::per_block * Lanes<T>::W, Normals<T>::of(words, g));
}
#endif

// Normals number per_block * block and following, of the chains in the lanes; groups * per_block vectors of them.
template <class T>
EXPUNGE_INLINE void normals_of_chains(typename Lanes<T>::F* z, uint64_t block, uint64_t seed, uint64_t chain,
                                      uint32_t step) {
  constexpr int groups = Normals<T>::groups, per = Normals<T>::per_block;
  const auto words = Words<T, groups>::template of<LanesAre::chains>(seed, block, step, chain, kNormals);
  EXPUNGE_UNROLL(2)
  for (int g = 0; g < groups; ++g) {
    const Normals<T> n = Normals<T>::of(words, g);
    for (int r = 0; r < per; ++r) z[g * per + r] = n.z[r];
  }
}

#if !defined(EXPUNGE_DEVICE_CODE)
// count normals of (seed, chain, step), from number `first` (a multiple of per_block).
template <class T>
EXPUNGE_INLINE void fill_normals(T* out, uint64_t first, long count, uint64_t seed, uint64_t chain, uint32_t step) {
  constexpr long per = Normals<T>::per_block, wide = per * Lanes<T>::W * Normals<T>::groups;
  uint64_t block = first / static_cast<uint64_t>(per);
  long done = 0;
  for (; done + wide <= count; done += wide, block += static_cast<uint64_t>(wide / per))
    normals_of_blocks(out + done, block, seed, chain, step);
  if (done == count) return;
  T rest[wide];
  normals_of_blocks(rest, block, seed, chain, step);
  for (long i = done; i < count; ++i) out[i] = rest[i - done];
}
#endif

}  // namespace
}  // namespace expunge
