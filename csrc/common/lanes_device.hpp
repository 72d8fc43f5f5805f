// The vectors of lanes.hpp on a GPU: one number each. Included by lanes.hpp alone.
#pragma once

#include "common/gpu.cuh"

namespace expunge {
namespace {

constexpr int kGroups = 1;  // other threads hide the latency

typedef double F64;
typedef uint64_t U64;
typedef int64_t I64;
typedef float F32;
typedef uint32_t U32;
typedef int32_t I32;

// Correctly rounded, as every operation here: no fast-math flag, no fused multiply-add.
EXPUNGE_INLINE F64 sqrt_lanes(F64 x) { return ::sqrt(x); }
EXPUNGE_INLINE F32 sqrt_lanes(F32 x) { return ::sqrtf(x); }
EXPUNGE_INLINE F32 to_float(I32 x) { return static_cast<F32>(x); }
EXPUNGE_INLINE bool any_bit(U64 x) { return x != 0; }

EXPUNGE_INLINE F64 lane_of(F64 x, int) { return x; }
EXPUNGE_INLINE I64 lane_of(I64 x, int) { return x; }
EXPUNGE_INLINE void set_lane(F64* x, int, double value) { *x = value; }
EXPUNGE_INLINE void set_lane(I64* x, int, int64_t value) { *x = value; }

}  // namespace
}  // namespace expunge
