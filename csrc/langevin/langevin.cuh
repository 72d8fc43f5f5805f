// Interface of the langevin kernels on a GPU: what langevin.hpp says, on device memory, in the order of a stream.
// Nothing here allocates or waits; the error of the launch comes back.
#pragma once

#include "common/gpu.cuh"
#include "langevin/langevin.hpp"

namespace expunge::langevin::device {

cudaError_t random_words(uint32_t* out, long blocks, uint64_t seed, uint64_t chain, uint32_t step, cudaStream_t stream);

template <class T>
cudaError_t standard_normals(T* out, long count, uint64_t seed, uint64_t chain, uint32_t step, cudaStream_t stream);

}  // namespace expunge::langevin::device
