// Interface of the ridge kernels on a GPU: what ridge.hpp says, on device memory, in the order of a stream.
// Nothing here allocates or waits; the error of the launch comes back. Workspaces are counted in doubles.
#pragma once

#include "common/gpu.cuh"
#include "ridge/ridge.hpp"

namespace expunge::ridge::device {

long quote_workspace(long n, long p, long q, long rank);
cudaError_t exact_quotes(const QuoteInput& in, const QuoteOutput& out, long n, double* workspace, cudaStream_t stream);

long pair_workspace(long n, long q, long rank);
cudaError_t gaussian_pairs(const QuoteInput& in, double* e, double* d2, double* rest, long* count, long n,
                           double* workspace, cudaStream_t stream);

long reduced_workspace(long r, long q);
cudaError_t solve_reduced(const QuoteInput& in, const ReducedInput& space, const QuoteOutput& out, double* workspace,
                          cudaStream_t stream);

long shifted_workspace(long n, long n_steps);
cudaError_t shifted_quotes(const ShiftedInput& in, double* value, double* mu, long n, double* workspace,
                           cudaStream_t stream);

cudaError_t smallest_eigenvalues(const double* eigenvalues, const double* projected, long p, double floor, double slack,
                                 double* out, long n, cudaStream_t stream);

}  // namespace expunge::ridge::device
