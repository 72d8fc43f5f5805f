// What a .cu file may use: CUDA C++ under nvcc, or the fiber emulator where the same file is compiled as C++ with
// EXPUNGE_CUDA_EMULATION. Launches and shared memory go through the macros below, which mean the same in both.
//
//   EXPUNGE_LAUNCH(kernel, grid, block, shared_bytes, stream)(arguments...)   kernel<<<...>>>(...)
//   EXPUNGE_SHARED(float, tile, [32][33]);                                    __shared__ float tile[32][33];
//   EXPUNGE_DYNAMIC_SHARED(float, buffer);                                    the block's dynamic shared memory
//
// A kernel that is a template with commas is launched through `constexpr auto kernel = &name<A, B>;`.
// Shared memory starts as NaN or garbage in the emulator: write before you read. Bindings (plain .cpp) include this
// header for cudaStream_t and cudaError_t.
#pragma once

#include "common/isa.hpp"

#if defined(EXPUNGE_CUDA_EMULATION)
#include "common/emulator/runtime.hpp"
#elif defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include <cuda_runtime_api.h>
#endif

#if defined(EXPUNGE_CUDA_EMULATION)
#define EXPUNGE_LAUNCH(kernel, ...) ::expunge::emulator::launch(#kernel, kernel, __VA_ARGS__)
#define EXPUNGE_SHARED(T, name, ...)           \
  static const char expunge_key_of_##name = 0; \
  auto& name = *::expunge::emulator::block_shared<T __VA_ARGS__>(&expunge_key_of_##name)
#define EXPUNGE_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::expunge::emulator::dynamic_shared())
#elif defined(__CUDACC__)
#define EXPUNGE_LAUNCH(kernel, grid, block, shared_bytes, stream) kernel<<<(grid), (block), (shared_bytes), (stream)>>>
#define EXPUNGE_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define EXPUNGE_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char expunge_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(expunge_dynamic_shared)
#endif

namespace expunge {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// A grid of so many blocks. More than a launch can have stay too many, so that it fails: a cut number would leave some
// out.
inline dim3 grid_of(long blocks) { return dim3(blocks < 0xffffffffL ? static_cast<unsigned>(blocks) : 0xffffffffu); }

// Blocks for `items` with `per_block` each, at least one and at most `most` (kernels stride over the rest).
inline unsigned blocks_for(long items, long per_block, long most = 1L << 30) {
  const long blocks = (items + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

}  // namespace expunge
