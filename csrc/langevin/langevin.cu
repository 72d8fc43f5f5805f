// Compiled with --fmad=false: random words, normals and chains have the bits of the CPU.
#include "langevin/langevin.cuh"

#include "common/cuda_check.cuh"
#include "langevin/langevin_math.hpp"

namespace expunge::langevin {
namespace {

constexpr unsigned kThreads = 256;

__global__ void words_kernel(uint32_t* out, long blocks, uint64_t seed, uint64_t chain, uint32_t step) {
  const long stride = static_cast<long>(gridDim.x) * blockDim.x;
  for (long block = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; block < blocks; block += stride) {
    uint32_t w[4];
    philox(seed, static_cast<uint64_t>(block), step, chain, kNormals, w);
    for (int k = 0; k < 4; ++k) out[4 * block + k] = w[k];
  }
}

// A thread makes the normals of one Philox block: 4 in float32, 2 in float64.
template <class T>
__global__ void normals_kernel(T* out, long count, uint64_t seed, uint64_t chain, uint32_t step) {
  constexpr int per = Normals<T>::per_block;
  const long stride = static_cast<long>(gridDim.x) * blockDim.x, blocks = (count + per - 1) / per;
  for (long block = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; block < blocks; block += stride) {
    const auto words =
        Words<T, 1>::template of<LanesAre::blocks>(seed, static_cast<uint64_t>(block), step, chain, kNormals);
    const Normals<T> normals = Normals<T>::of(words, 0);
    EXPUNGE_UNROLL(4)
    for (int r = 0; r < per; ++r)
      if (block * per + r < count) out[block * per + r] = normals.z[r];
  }
}

}  // namespace

namespace device {

cudaError_t random_words(uint32_t* out, long blocks, uint64_t seed, uint64_t chain, uint32_t step,
                         cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(words_kernel, blocks_for(blocks, kThreads, 1L << 20), kThreads, 0, stream)
  (out, blocks, seed, chain, step);
  return launched();
}

template <class T>
cudaError_t standard_normals(T* out, long count, uint64_t seed, uint64_t chain, uint32_t step, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned grid = blocks_for(count, static_cast<long>(kThreads) * Normals<T>::per_block, 1L << 20);
  EXPUNGE_LAUNCH(normals_kernel<T>, grid, kThreads, 0, stream)(out, count, seed, chain, step);
  return launched();
}

template cudaError_t standard_normals<double>(double*, long, uint64_t, uint64_t, uint32_t, cudaStream_t);
template cudaError_t standard_normals<float>(float*, long, uint64_t, uint64_t, uint32_t, cudaStream_t);

}  // namespace device
}  // namespace expunge::langevin
