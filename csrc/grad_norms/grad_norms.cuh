// Interface of the gradient-norm kernels on the GPU. The calls are those of grad_norms.hpp with device pointers; every
// function launches on `stream`, allocates nothing and waits for nothing. A workspace has as many bytes as its function
// says, aligned for doubles, and is free again once the stream has passed the call.
//
// What the CPU binding checks by reading arrays cannot be checked here without waiting for the device: an example whose
// tokens, labels or offsets lead outside an array reads nothing there, and its result is NaN.
#pragma once

#include "common/bfloat16.hpp"
#include "common/gpu.cuh"
#include "grad_norms/grad_norms.hpp"

namespace expunge::grad_norms::device {

// T is float, double or bfloat16.
template <class T>
long linear_norms_workspace(const LinearNorms<T>& call, long examples);
template <class T>
cudaError_t linear_norms(const LinearNorms<T>& call, long examples, char* workspace, cudaStream_t stream);

// T is float or double from here on.
template <class T>
long linear_dots_workspace(const LinearDots<T>& call, long examples);
template <class T>
cudaError_t linear_dots(const LinearDots<T>& call, long examples, char* workspace, cudaStream_t stream);

template <class T>
long embedding_linear_dots_workspace(const EmbeddingLinearDots<T>& call, long examples);
template <class T>
cudaError_t embedding_linear_dots(const EmbeddingLinearDots<T>& call, long examples, char* workspace,
                                  cudaStream_t stream);

template <class T>
long conv_norms_workspace(const ConvNorms<T>& call, long examples);
template <class T>
cudaError_t conv_norms(const ConvNorms<T>& call, long examples, char* workspace, cudaStream_t stream);

template <class T>
long embedding_norms_workspace(const EmbeddingNorms<T>& call, long examples);
template <class T>
cudaError_t embedding_norms(const EmbeddingNorms<T>& call, long examples, char* workspace, cudaStream_t stream);

template <class T>
long norm_layer_norms_workspace(const NormLayerNorms<T>& call, long examples);
template <class T>
cudaError_t norm_layer_norms(const NormLayerNorms<T>& call, long examples, char* workspace, cudaStream_t stream);

// `logits` (n, checkpoints, classes) is X times the weights, from the caller's matrix product; packed_weights and
// weight_squares of the call are not used.
template <class T>
long probe_norms_workspace(const ProbeNorms<T>& call, long records);
template <class T>
cudaError_t probe_norms(const ProbeNorms<T>& call, const T* logits, long records, char* workspace, cudaStream_t stream);

// `packed` of the calls is not used.
template <class T>
cudaError_t recurrent_states(const RecurrentStates<T>& call, long sequences, cudaStream_t stream);
template <class T>
cudaError_t recurrent_grads(const RecurrentGrads<T>& call, long sequences, cudaStream_t stream);

}  // namespace expunge::grad_norms::device
