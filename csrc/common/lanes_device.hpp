// The lanes of lanes.hpp on a GPU: one number each. Included by lanes.hpp alone.
#pragma once

#include "common/gpu.cuh"

#define EXPUNGE_INLINE [[maybe_unused]] static EXPUNGE_HD __forceinline__

namespace expunge {
namespace {

constexpr int kGroups = 1;  // other threads hide the latency

typedef double F64;
typedef uint64_t U64;
typedef int64_t I64;
typedef float F32;
typedef uint32_t U32;
typedef int32_t I32;

template <class To, class From>
EXPUNGE_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Correctly rounded, as every operation here: no fast-math flag, no fused multiply-add.
EXPUNGE_INLINE F64 sqrt_lanes(F64 x) { return ::sqrt(x); }
EXPUNGE_INLINE F32 sqrt_lanes(F32 x) { return ::sqrtf(x); }
EXPUNGE_INLINE F32 to_float(I32 x) { return static_cast<F32>(x); }

template <class T>
struct Lanes;

template <>
struct Lanes<double> {
  using T = double;
  using F = F64;
  using U = U64;
  using I = I64;
  static constexpr long W = 1;
  EXPUNGE_INLINE F splat(T x) { return x; }
  EXPUNGE_INLINE F load(const T* from) { return *from; }
  EXPUNGE_INLINE void store(T* to, F x) { *to = x; }
  EXPUNGE_INLINE F sqrt(F x) { return sqrt_lanes(x); }
  EXPUNGE_INLINE F where_less(F a, F b, F yes, F no) { return a < b ? yes : no; }
};

template <>
struct Lanes<float> {
  using T = float;
  using F = F32;
  using U = U32;
  using I = I32;
  static constexpr long W = 1;
  EXPUNGE_INLINE F splat(T x) { return x; }
  EXPUNGE_INLINE F load(const T* from) { return *from; }
  EXPUNGE_INLINE void store(T* to, F x) { *to = x; }
  EXPUNGE_INLINE F sqrt(F x) { return sqrt_lanes(x); }
  EXPUNGE_INLINE F where_less(F a, F b, F yes, F no) { return a < b ? yes : no; }
};

}  // namespace
}  // namespace expunge
