// Interface of the residual kernels on a GPU: what residual.hpp says, on device memory, in the order of a stream.
// Nothing here allocates or waits; the error of the launch comes back.
#pragma once

#include "common/gpu.cuh"
#include "residual/residual.hpp"

namespace expunge::residual::device {

// Doubles. Ranges and additions are those of the CPU, the order of products within a row is not.
long pass_workspace(const Pass& call);
cudaError_t pass(const Pass& call, double* gradient, double* sums, double* workspace, cudaStream_t stream);
cudaError_t leverages(const Leverages& call, cudaStream_t stream);

}  // namespace expunge::residual::device
