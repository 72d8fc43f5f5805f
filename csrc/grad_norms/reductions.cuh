// Reading rows and adding numbers up in a fixed order: the same bits on every run and device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cuda_check.cuh"
#include "grad_norms/grad_norms.cuh"
#include "grad_norms/grad_norms_math.hpp"

namespace expunge::grad_norms::device {
namespace {

constexpr int kRowThreads = 256;  // block of the kernels that stream rows: enough of them stay resident
constexpr long kEnoughBlocks = 264;  // two for each multiprocessor of an H100; a constant, so that bits never depend on
                                     // the device

template <class A>
__device__ __forceinline__ A widened(float x) {
  return static_cast<A>(x);
}
template <class A>
__device__ __forceinline__ A widened(double x) {
  return static_cast<A>(x);
}
template <class A>
__device__ __forceinline__ A widened(bfloat16 x) {
  return static_cast<A>(to_float(x));
}

// Values moved by one load or store.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

template <class T>
__device__ __forceinline__ bool aligned(const T* p, int bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(bytes) == 0;
}

// Sum over the lanes of each aligned group of `width` lanes, in all of them.
__device__ __forceinline__ double lanes_sum(double x, int width = kWarp) {
  for (int offset = width / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

// Sum over a block of whole warps, in thread 0; `scratch` holds a value a warp and may be used again after a barrier.
__device__ __forceinline__ double block_sum(double x, double* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = lanes_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < warps; ++w) total += scratch[w];
  return total;
}

// Calls body(value) for x[0..n), dealt to `lanes` threads of which this is number `lane`: 16 bytes at a time, in one
// load where x is aligned. Who gets what never depends on where x lies, so the bits of a sum do not either.
template <class T, class Body>
__device__ __forceinline__ void over_row(const T* x, long n, int lane, int lanes, const Body& body) {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  const long packs = n / width;
  if (aligned(x, 16)) {
    const Pack<T, width>* packed = reinterpret_cast<const Pack<T, width>*>(x);
    EXPUNGE_UNROLL(4)
    for (long p = lane; p < packs; p += lanes) {
      const Pack<T, width> values = packed[p];
      EXPUNGE_UNROLL(16)
      for (int i = 0; i < width; ++i) body(widened<double>(values.v[i]));
    }
  } else {
    EXPUNGE_UNROLL(4)
    for (long p = lane; p < packs; p += lanes) {
      EXPUNGE_UNROLL(16)
      for (int i = 0; i < width; ++i) body(widened<double>(x[p * width + i]));
    }
  }
  for (long k = packs * width + lane; k < n; k += lanes) body(widened<double>(x[k]));
}

template <class T>
__device__ __forceinline__ double row_squares(const T* x, long n, int lane, int lanes) {
  double total = 0;
  over_row(x, n, lane, lanes, [&](double value) { total += value * value; });
  return total;
}

// Hands out 256-byte aligned pieces of one workspace; with base null it only counts.
struct DeviceArena {
  char* base;
  long used = 0;
  template <class T>
  T* take(long count) {
    T* piece = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += (count * static_cast<long>(sizeof(T)) + 255) / 256 * 256;
    return piece;
  }
};

// What the squared norm of an example is made of.
struct Parts {
  const double* parts;  // (examples * items, per_item)
  int items, per_item;
  const int* settled;  // null, or whether an item's value is in `values` instead
  const double* values;  // (examples * items)
  const double* bias;  // null or (examples, biases)
  int biases;
  double* bias_out;  // null, or where norms of the biases go, apart from the others
};

enum class Result : int { norm, squared, sum };

inline Result norm_result(bool squared) { return squared ? Result::squared : Result::norm; }

// Sum of the parts of each example, by one warp.
__global__ void __launch_bounds__(kRowThreads) finish_examples(Parts given, long examples, Result result, double* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long i = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (i >= examples) return;
  double total = 0;
  if (given.settled == nullptr) {
    const long count = static_cast<long>(given.items) * given.per_item;
    for (long p = lane; p < count; p += kWarp) total += given.parts[i * count + p];
  } else {
    for (long item = i * given.items; item < (i + 1) * given.items; ++item) {
      if (given.settled[item] != 0) {
        if (lane == 0) total += given.values[item];
      } else {
        for (long p = lane; p < given.per_item; p += kWarp) total += given.parts[item * given.per_item + p];
      }
    }
  }
  double biases = 0;
  if (given.bias != nullptr)
    for (long c = lane; c < given.biases; c += kWarp) biases += given.bias[i * given.biases + c];
  if (given.bias_out == nullptr) {
    total += biases;
  } else {
    biases = lanes_sum(biases);
    if (lane == 0) given.bias_out[i] = finish(biases, result == Result::squared);
  }
  total = lanes_sum(total);
  if (lane == 0) out[i] = result == Result::sum ? total : finish(total, result == Result::squared);
}

inline cudaError_t launch_finish(const Parts& parts, long examples, Result result, double* out, cudaStream_t stream) {
  EXPUNGE_LAUNCH(finish_examples, dim3(blocks_for(examples, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
  (parts, examples, result, out);
  return launched();
}

}  // namespace
}  // namespace expunge::grad_norms::device
