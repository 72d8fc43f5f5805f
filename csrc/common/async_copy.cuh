// Copies from global to shared memory that go on while a thread does something else, in groups that end in commit().
//
// async_copy::copy(to, from, bytes);   // 16 bytes to shared memory, zeros behind the first `bytes`; both ends aligned
//   async_copy::copy_one(to, from);      // one float or double
//   async_copy::commit();
//   async_copy::wait<2>();               // all of this thread's groups have landed, but for the latest two
//
// What has landed is this thread's to see; others see it after a barrier. In the emulator a copy lands as late as it
// may, its target is garbage until then, and a thread that ends before its copies have landed is an error.
#pragma once

#include "common/gpu.cuh"

namespace expunge {
namespace {
namespace async_copy {

constexpr int kBytes = 16;

#if defined(EXPUNGE_CUDA_EMULATION)

inline void copy(void* to, const void* from, int bytes) {
  emulator::async_copy(to, from, kBytes, static_cast<size_t>(bytes));
}
template <class T>
void copy_one(T* to, const T* from) {
  emulator::async_copy(to, from, sizeof(T), sizeof(T));
}
inline void commit() { emulator::async_commit(); }
template <int Left>
void wait() {
  emulator::async_wait(Left);
}

#elif defined(__CUDACC__)

__device__ __forceinline__ void copy(void* to, const void* from, int bytes) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(__cvta_generic_to_global(from)),
               "r"(bytes)
               : "memory");
}
template <class T>
__device__ __forceinline__ void copy_one(T* to, const T* from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what cp.async copies");
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(__cvta_generic_to_global(from)),
               "n"(sizeof(T))
               : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Left>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

#endif

}  // namespace async_copy
}  // namespace
}  // namespace expunge
