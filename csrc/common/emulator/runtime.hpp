// CUDA C++ for a C++ compiler: the part of the language and of the runtime that our kernels use, on fibers.
// Threads of a block are fibers, blocks run one after another. Checked: barriers reached by all threads at the same
// place, warp operations by all lanes of their mask, lanes read that take part, launch limits. An error ends the launch
// and comes back from cudaGetLastError() with a text that names the kernel; it never hangs. Races are not seen.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorLaunchFailure = 719,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
typedef void* cudaStream_t;

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorString(cudaError_t error);
// Versions as CUDA writes them. EXPUNGE_EMULATED_DRIVER pretends another driver, for tests of what is said then.
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) {
  const char* pretended = getenv("EXPUNGE_EMULATED_DRIVER");
  return *version = pretended != nullptr ? atoi(pretended) : 13000, cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMaxThreadsPerBlock ? 1024 : attribute == cudaDevAttrMultiProcessorCount ? 2 : 232448;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return memset(to, value, bytes), cudaSuccess;
}

namespace expunge::emulator {

constexpr size_t kSharedBytes = 48 * 1024;  // without cudaFuncSetAttribute
constexpr size_t kMostSharedBytes = 227 * 1024;  // with it

cudaError_t allow_shared(const void* kernel, int bytes);

// Runs body(context) on every thread of every block; sets the last error.
void run(const char* kernel_name, const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
         void (*body)(const void* context), const void* context);

template <class... Parameters>
struct Launch {
  const char* name;
  void (*kernel)(Parameters...);
  dim3 grid, block;
  size_t shared_bytes;

  void operator()(std::common_type_t<Parameters>... arguments) const {
    const auto body = [&] { kernel(arguments...); };
    using Body = decltype(body);
    run(
        name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
        [](const void* context) { (*static_cast<Body*>(context))(); }, &body);
  }
};

template <class... Parameters>
Launch<Parameters...> launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                             size_t shared_bytes, cudaStream_t) {
  return {name, kernel, grid, block, shared_bytes};
}

void* dynamic_shared();
void* block_shared_bytes(const void* key, size_t bytes);

template <class T>
T* block_shared(const void* key) {
  return static_cast<T*>(block_shared_bytes(key, sizeof(T)));
}

enum class WarpOperation { sync, ballot, shuffle };

void block_barrier(const char* file, int line);
// Waits for the lanes of `mask`; returns the predicates of all as bits, or the value of lane `source`.
uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int source, const char* file, int line);
int lane_number();

template <class T>
T shuffle(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "shuffles move up to eight bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = warp_operation(WarpOperation::shuffle, mask, bits, source, file, line);
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline int shuffle_from(int source, int width) {  // __shfl_sync
  return (lane_number() & ~(width - 1)) + (source & (width - 1));
}
inline int shuffle_up(unsigned delta, int width) {
  const int lane = lane_number(), from = lane - static_cast<int>(delta);
  return from < (lane & ~(width - 1)) ? lane : from;
}
inline int shuffle_down(unsigned delta, int width) {
  const int lane = lane_number(), from = lane + static_cast<int>(delta);
  return from > (lane | (width - 1)) ? lane : from;
}
inline int shuffle_xor(int bits, int width) {
  const int lane = lane_number(), from = lane ^ bits;
  return from > (lane | (width - 1)) ? lane : from;
}

// Copies of the calling thread that have not landed: see common/async_copy.cuh. `bytes` of `width` come from memory.
void async_copy(void* to, const void* from, size_t width, size_t bytes);
void async_commit();
void async_wait(size_t groups_left);

// Optional last arguments.
inline int width_or(int width = 32) { return width; }
inline unsigned mask_or(unsigned mask = 0xffffffffu) { return mask; }

}  // namespace expunge::emulator

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return ::expunge::emulator::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

#define __syncthreads() ::expunge::emulator::block_barrier(__FILE__, __LINE__)
#define EXPUNGE_EMULATED_WARP(operation, mask, value) \
  ::expunge::emulator::warp_operation(::expunge::emulator::WarpOperation::operation, mask, value, 0, __FILE__, __LINE__)
#define __syncwarp(...) ((void)EXPUNGE_EMULATED_WARP(sync, ::expunge::emulator::mask_or(__VA_ARGS__), 0))
#define __ballot_sync(mask, predicate) static_cast<unsigned>(EXPUNGE_EMULATED_WARP(ballot, mask, (predicate) ? 1 : 0))
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0u)
#define __all_sync(mask, predicate) (__ballot_sync(mask, predicate) == (mask))
#define EXPUNGE_EMULATED_SHUFFLE(source, mask, value, argument, ...)                                              \
  ::expunge::emulator::shuffle(mask, value,                                                                       \
                               ::expunge::emulator::source(argument, ::expunge::emulator::width_or(__VA_ARGS__)), \
                               __FILE__, __LINE__)
#define __shfl_sync(mask, value, ...) EXPUNGE_EMULATED_SHUFFLE(shuffle_from, mask, value, __VA_ARGS__)
#define __shfl_up_sync(mask, value, ...) EXPUNGE_EMULATED_SHUFFLE(shuffle_up, mask, value, __VA_ARGS__)
#define __shfl_down_sync(mask, value, ...) EXPUNGE_EMULATED_SHUFFLE(shuffle_down, mask, value, __VA_ARGS__)
#define __shfl_xor_sync(mask, value, ...) EXPUNGE_EMULATED_SHUFFLE(shuffle_xor, mask, value, __VA_ARGS__)

// Threads take turns only at barriers and warp operations, so plain arithmetic is atomic.
template <class T>
T atomicAdd(T* at, std::common_type_t<T> value) {
  const T old = *at;
  *at = static_cast<T>(old + value);
  return old;
}
template <class T>
T atomicMax(T* at, std::common_type_t<T> value) {
  const T old = *at;
  *at = old < value ? value : old;
  return old;
}
template <class T>
T atomicMin(T* at, std::common_type_t<T> value) {
  const T old = *at;
  *at = value < old ? value : old;
  return old;
}
template <class T>
T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}
inline unsigned atomicOr(unsigned* at, unsigned value) {
  const unsigned old = *at;
  *at = old | value;
  return old;
}

template <class T>
T __ldg(const T* from) {
  return *from;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class To, class From>
To expunge_emulated_bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "same size");
  memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return expunge_emulated_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return expunge_emulated_bits<float>(x); }
inline int __float_as_int(float x) { return expunge_emulated_bits<int>(x); }
inline float __int_as_float(int x) { return expunge_emulated_bits<float>(x); }
inline long long __double_as_longlong(double x) { return expunge_emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return expunge_emulated_bits<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
