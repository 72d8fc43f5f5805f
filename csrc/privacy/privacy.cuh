// Interface of the privacy kernels on a GPU: what privacy.hpp and sampled_gaussian.hpp say, on device memory, in the
// order of a stream. Nothing here allocates or waits; the error of the launch comes back. Workspaces count doubles.
#pragma once

#include "common/gpu.cuh"
#include "privacy/privacy.hpp"

namespace expunge::privacy::device {

cudaError_t gdp_delta(const double* mu, const double* epsilon, double* delta, long n, cudaStream_t stream);
cudaError_t gdp_epsilon(const double* mu, const double* delta, double* epsilon, long n, cudaStream_t stream);
cudaError_t gdp_mu(const double* epsilon, const double* delta, double* mu, long n, cudaStream_t stream);

long shifted_workspace(long rows, long steps);
cudaError_t shifted_mu(const double* sensitivity, const double* contraction, const double* noise_std, long rows,
                       long steps, double* mu, double* workspace, cudaStream_t stream);

long pair_workspace(long n, long m);
cudaError_t pair_delta(const Pairs& pairs, const double* epsilon, bool swapped, double* delta, double* error,
                       double* converged, long n, double* workspace, cudaStream_t stream);
cudaError_t pair_epsilon(const Pairs& pairs, const double* delta, bool swapped, double* epsilon, long n,
                         double* workspace, cudaStream_t stream);
cudaError_t pair_renyi(const Pairs& pairs, const double* order, bool swapped, double* divergence, long n,
                       double* workspace, cudaStream_t stream);

cudaError_t sampled_gaussian_rdp(const double* order, const double* noise_multiplier, const double* probability,
                                 bool reverse, double* out, long n, cudaStream_t stream);

}  // namespace expunge::privacy::device
