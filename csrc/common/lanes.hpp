// Vectors of the instruction set being compiled for: the one set of types and packs that every family is written over.
// Only per-ISA sources and a GPU's may include this (internal linkage). Width differs between instruction sets; every
// lane does the same IEEE operations, so results do not. On a GPU a lane is a thread and a vector is one number.
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/isa.hpp"

namespace expunge {
namespace {

template <class To, class From>
EXPUNGE_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace
}  // namespace expunge

#if defined(EXPUNGE_DEVICE_CODE)
#include "common/lanes_device.hpp"
#else

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define EXPUNGE_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define EXPUNGE_VECTOR_BYTES 32
#else
#define EXPUNGE_VECTOR_BYTES 16
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Vectors never cross the boundary of a compiled function, so their passing convention does not matter.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace expunge {
namespace {

constexpr int kGroups = 2;  // Philox blocks taken at once: their rounds are interleaved

typedef double F64 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES)));
typedef uint64_t U64 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES)));
typedef int64_t I64 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES)));
typedef float F32 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES)));
typedef uint32_t U32 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES)));
typedef int32_t I32 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES)));

// The zero-masked 512-bit forms are the same instructions; the plain ones make GCC 12 warn about its own headers.
EXPUNGE_INLINE F64 sqrt_lanes(F64 x) {
#if EXPUNGE_VECTOR_BYTES == 64
  return bits_as<F64>(_mm512_maskz_sqrt_pd(0xff, bits_as<__m512d>(x)));
#elif EXPUNGE_VECTOR_BYTES == 32
  return bits_as<F64>(_mm256_sqrt_pd(bits_as<__m256d>(x)));
#elif defined(__SSE2__)
  return bits_as<F64>(_mm_sqrt_pd(bits_as<__m128d>(x)));
#else
  for (unsigned i = 0; i < sizeof(F64) / 8; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

EXPUNGE_INLINE F32 sqrt_lanes(F32 x) {
#if EXPUNGE_VECTOR_BYTES == 64
  return bits_as<F32>(_mm512_maskz_sqrt_ps(0xffff, bits_as<__m512>(x)));
#elif EXPUNGE_VECTOR_BYTES == 32
  return bits_as<F32>(_mm256_sqrt_ps(bits_as<__m256>(x)));
#elif defined(__SSE2__)
  return bits_as<F32>(_mm_sqrt_ps(bits_as<__m128>(x)));
#else
  for (unsigned i = 0; i < sizeof(F32) / 4; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

EXPUNGE_INLINE F32 to_float(I32 x) { return __builtin_convertvector(x, F32); }

// Product of the low halves; the high halves of a and b may hold anything. GCC does not find this instruction itself.
EXPUNGE_INLINE U64 multiply_low_halves(U64 a, U64 b) {
#if EXPUNGE_VECTOR_BYTES == 64
  return bits_as<U64>(_mm512_maskz_mul_epu32(0xff, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif EXPUNGE_VECTOR_BYTES == 32
  return bits_as<U64>(_mm256_mul_epu32(bits_as<__m256i>(a), bits_as<__m256i>(b)));
#elif defined(__SSE2__)
  return bits_as<U64>(_mm_mul_epu32(bits_as<__m128i>(a), bits_as<__m128i>(b)));
#else
  return (a & uint64_t(0xffffffff)) * (b & uint64_t(0xffffffff));
#endif
}

EXPUNGE_INLINE bool any_bit(U64 x) {
#if EXPUNGE_VECTOR_BYTES == 64
  return _mm512_test_epi64_mask(bits_as<__m512i>(x), bits_as<__m512i>(x)) != 0;
#elif EXPUNGE_VECTOR_BYTES == 32
  return !_mm256_testz_si256(bits_as<__m256i>(x), bits_as<__m256i>(x));
#else
  uint64_t all = 0;
  for (unsigned i = 0; i < sizeof(U64) / 8; ++i) all |= x[i];
  return all != 0;
#endif
}

// a0 b0 a1 b1 ... from the lower half of the lanes, then from the upper half.
#if EXPUNGE_VECTOR_BYTES == 64
EXPUNGE_INLINE F64 zip_low(F64 a, F64 b) { return EXPUNGE_SHUFFLE(I64, a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
EXPUNGE_INLINE F64 zip_high(F64 a, F64 b) { return EXPUNGE_SHUFFLE(I64, a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
EXPUNGE_INLINE F32 zip_low(F32 a, F32 b) {
  return EXPUNGE_SHUFFLE(I32, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
EXPUNGE_INLINE F32 zip_high(F32 a, F32 b) {
  return EXPUNGE_SHUFFLE(I32, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
EXPUNGE_INLINE U64 lane_numbers() { return U64{0, 1, 2, 3, 4, 5, 6, 7}; }
#elif EXPUNGE_VECTOR_BYTES == 32
EXPUNGE_INLINE F64 zip_low(F64 a, F64 b) { return EXPUNGE_SHUFFLE(I64, a, b, 0, 4, 1, 5); }
EXPUNGE_INLINE F64 zip_high(F64 a, F64 b) { return EXPUNGE_SHUFFLE(I64, a, b, 2, 6, 3, 7); }
EXPUNGE_INLINE F32 zip_low(F32 a, F32 b) { return EXPUNGE_SHUFFLE(I32, a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
EXPUNGE_INLINE F32 zip_high(F32 a, F32 b) { return EXPUNGE_SHUFFLE(I32, a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
EXPUNGE_INLINE U64 lane_numbers() { return U64{0, 1, 2, 3}; }
#else
EXPUNGE_INLINE F64 zip_low(F64 a, F64 b) { return EXPUNGE_SHUFFLE(I64, a, b, 0, 2); }
EXPUNGE_INLINE F64 zip_high(F64 a, F64 b) { return EXPUNGE_SHUFFLE(I64, a, b, 1, 3); }
EXPUNGE_INLINE F32 zip_low(F32 a, F32 b) { return EXPUNGE_SHUFFLE(I32, a, b, 0, 4, 1, 5); }
EXPUNGE_INLINE F32 zip_high(F32 a, F32 b) { return EXPUNGE_SHUFFLE(I32, a, b, 2, 6, 3, 7); }
EXPUNGE_INLINE U64 lane_numbers() { return U64{0, 1}; }
#endif

EXPUNGE_INLINE double sqrt_lanes(double x) { return __builtin_sqrt(x); }
EXPUNGE_INLINE float sqrt_lanes(float x) { return __builtin_sqrtf(x); }

EXPUNGE_INLINE double lane_of(F64 x, int lane) { return x[lane]; }
EXPUNGE_INLINE int64_t lane_of(I64 x, int lane) { return x[lane]; }
EXPUNGE_INLINE void set_lane(F64* x, int lane, double value) { (*x)[lane] = value; }
EXPUNGE_INLINE void set_lane(I64* x, int lane, int64_t value) { (*x)[lane] = value; }

}  // namespace
}  // namespace expunge

#endif  // EXPUNGE_DEVICE_CODE

namespace expunge {
namespace {

// A pack is what the mathematics here and the kernels are written over: vector lanes, or one scalar.
template <class T_, class F_, class U_, class I_>
struct Pack {
  using T = T_;
  using F = F_;
  using U = U_;
  using I = I_;
  static constexpr long W = sizeof(F) / sizeof(T);
  EXPUNGE_INLINE static F splat(T x) { return x - F{}; }  // also of -0, and free: x + 0 is neither
  EXPUNGE_INLINE static F load(const T* from) {
    if constexpr (W == 1) {
      return *from;
    } else {
      F x;
      memcpy(&x, from, sizeof x);
      return x;
    }
  }
  EXPUNGE_INLINE static void store(T* to, F x) {
    if constexpr (W == 1)
      *to = x;
    else
      memcpy(to, &x, sizeof x);
  }
  EXPUNGE_INLINE static F sqrt(F x) { return sqrt_lanes(x); }
  EXPUNGE_INLINE static F where_less(F a, F b, F yes, F no) { return a < b ? yes : no; }
  EXPUNGE_INLINE static F where_bits(I mask, F yes, F no) { return mask ? yes : no; }
};

template <class T>
struct Lanes;
template <>
struct Lanes<double> : Pack<double, F64, U64, I64> {};
template <>
struct Lanes<float> : Pack<float, F32, U32, I32> {};

constexpr int kLanes = Lanes<double>::W;

// One lane, for the remainder of a loop: the same operations, hence the same bits.
template <class T>
struct One;
template <>
struct One<double> : Pack<double, double, uint64_t, int64_t> {};
template <>
struct One<float> : Pack<float, float, uint32_t, int32_t> {};

EXPUNGE_INLINE F64 splat(double x) { return Lanes<double>::splat(x); }

// Masks have all bits of a lane set, or none.
EXPUNGE_INLINE F64 select(I64 mask, F64 yes, F64 no) { return mask ? yes : no; }
EXPUNGE_INLINE bool any(I64 mask) { return any_bit(bits_as<U64>(mask)); }

}  // namespace
}  // namespace expunge
