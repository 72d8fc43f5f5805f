// The lanes that work on one item together: a warp in CUDA sources, a single lane elsewhere. Every lane runs the same
// code and holds the same scalars; vectors are split, `for (long j = team::lane(); j < n; j += team::size)`. What one
// lane writes the others may read after team::sync(). Internal linkage.
#pragma once

#include "common/isa.hpp"

#if defined(EXPUNGE_DEVICE_CODE)
#include "common/gpu.cuh"
#endif

namespace expunge {
namespace {
namespace team {

#if defined(EXPUNGE_DEVICE_CODE)

constexpr long size = 32;

// Host passes of the CUDA compiler see these as well, and never run them.
#if defined(__CUDA_ARCH__) || defined(EXPUNGE_CUDA_EMULATION)
#define EXPUNGE_ON_WARP(expression, alone) expression
#else
#define EXPUNGE_ON_WARP(expression, alone) alone
#endif

EXPUNGE_HD static inline long lane() { return EXPUNGE_ON_WARP(static_cast<long>(threadIdx.x % 32), 0); }
EXPUNGE_HD static inline void sync() { EXPUNGE_ON_WARP(__syncwarp(0xffffffffu), (void)0); }
EXPUNGE_HD static inline double exchanged(double x, int distance) {
  return EXPUNGE_ON_WARP(__shfl_xor_sync(0xffffffffu, x, distance), (void(distance), x));
}
// The value of the lane before; the first lane keeps its own.
EXPUNGE_HD static inline double from_previous(double x) {
  return EXPUNGE_ON_WARP(__shfl_up_sync(0xffffffffu, x, 1), x);
}
EXPUNGE_HD static inline double from_lane(double x, int source) {
  return EXPUNGE_ON_WARP(__shfl_sync(0xffffffffu, x, source), (void(source), x));
}
EXPUNGE_HD static inline bool any(bool x) { return EXPUNGE_ON_WARP(__ballot_sync(0xffffffffu, x) != 0u, x); }

#else

constexpr long size = 1;

static inline long lane() { return 0; }
static inline void sync() {}
static inline double exchanged(double x, int) { return x; }
static inline double from_previous(double x) { return x; }
static inline double from_lane(double x, int) { return x; }
static inline bool any(bool x) { return x; }

#endif

EXPUNGE_HD static inline bool leads() { return lane() == 0; }

// The same bits in every lane: both partners of an exchange add the same two numbers.
EXPUNGE_HD static inline double sum(double x) {
  for (int distance = size / 2; distance > 0; distance /= 2) x += exchanged(x, distance);
  return x;
}

// Of numbers that are not NaN.
EXPUNGE_HD static inline double largest(double x) {
  for (int distance = size / 2; distance > 0; distance /= 2) {
    const double other = exchanged(x, distance);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace team
}  // namespace
}  // namespace expunge
