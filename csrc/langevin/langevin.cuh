// Interface of the langevin kernels on a GPU: what langevin.hpp says, on device memory, in the order of a stream.
// Nothing here allocates or waits; the error of the launch comes back. The bits are those of the CPU.
#pragma once

#include "common/gpu.cuh"
#include "langevin/langevin.hpp"

namespace expunge::langevin::device {

cudaError_t random_words(uint32_t* out, long blocks, uint64_t seed, uint64_t chain, uint32_t step, cudaStream_t stream);

template <class T>
cudaError_t standard_normals(T* out, long count, uint64_t seed, uint64_t chain, uint32_t step, cudaStream_t stream);

template <class T>
cudaError_t gram(const T* X, const T* targets, long n, long p, long q, double alpha, T* gram, T* moment,
                 cudaStream_t stream);

template <class T>
cudaError_t row_norms(const T* X, long n, long p, T* out, cudaStream_t stream);

// Elements of T. `gram`: whether the problem comes with a Gram matrix.
long chains_workspace(long n_chains, long p, long q, bool gram, long element_bytes);

// `record` is not checked: rows of `out` from the first number on that does not increase within [0, n_steps] are NaN.
template <class T>
cudaError_t chains(const Chains<T>& problem, T* workspace, cudaStream_t stream);

template <class T>
cudaError_t tail(const Tail<T>& problem, long n_chains, cudaStream_t stream);

template <class T>
cudaError_t residuals(const Residuals<T>& problem, long n_chains, cudaStream_t stream);

}  // namespace expunge::langevin::device
