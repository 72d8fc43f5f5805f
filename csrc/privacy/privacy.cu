// Compiled with --fmad=false: every operation is rounded as the outward margins assume. One item per thread where an
// item is a few numbers, one pair of Gaussians per warp.
#include "privacy/privacy.cuh"

#include "common/cuda_check.cuh"
#include "privacy/privacy_math.hpp"
#include "privacy/sampled_gaussian_math.hpp"

namespace expunge::privacy {
namespace {

constexpr int kThreads = 128;
constexpr long kMostThreads = 1L << 18;  // with a workspace each
constexpr long kMostWarps = 1L << 13;

__device__ long first_item() { return static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ long all_threads() { return static_cast<long>(gridDim.x) * blockDim.x; }

__global__ void __launch_bounds__(kThreads)
    gdp_delta_kernel(const double* mu, const double* epsilon, double* delta, long n) {
  for (long i = first_item(); i < n; i += all_threads()) gdp_delta(mu, epsilon, delta, i, i + 1);
}

__global__ void __launch_bounds__(kThreads)
    gdp_epsilon_kernel(const double* mu, const double* delta, double* epsilon, long n) {
  for (long i = first_item(); i < n; i += all_threads()) gdp_epsilon(mu, delta, epsilon, i, i + 1);
}

__global__ void __launch_bounds__(kThreads)
    gdp_mu_kernel(const double* epsilon, const double* delta, double* mu, long n) {
  for (long i = first_item(); i < n; i += all_threads()) gdp_mu(epsilon, delta, mu, i, i + 1);
}

__global__ void __launch_bounds__(kThreads)
    shifted_kernel(const double* sensitivity, const double* contraction, const double* noise_std, long rows, long steps,
                   double* mu, double* workspace) {
  double* const mine = workspace + first_item() * 3 * steps;
  for (long row = first_item(); row < rows; row += all_threads()) {
    const long at = row * steps;
    mu[row] = shifted_row(sensitivity + at, contraction + at, noise_std + at, steps, mine);
  }
}

__global__ void __launch_bounds__(kThreads)
    sampled_gaussian_kernel(const double* order, const double* noise_multiplier, const double* probability,
                            bool reverse, double* out, long n) {
  for (long i = first_item(); i < n; i += all_threads())
    out[i] = sampled_rdp(reverse, order[i], noise_multiplier[i], probability[i]);
}

// Calls body(row, pair) for the rows of this warp, all lanes together.
template <class Body>
__device__ void for_pairs(const Pairs& pairs, bool swapped, double* workspace, long n, Body body) {
  const long warp = first_item() / kWarp, warps = all_threads() / kWarp;
  ProfilePair pair{};
  for (long row = warp; row < n; row += warps) {
    if (row == warp || pairs.stride != 0) pair = row_pair(pairs, row, swapped, workspace + 2 * pairs.m * warp);
    body(row, pair);
  }
}

__global__ void __launch_bounds__(kThreads)
    pair_delta_kernel(Pairs pairs, const double* epsilon, bool swapped, double* delta, double* error, double* converged,
                      long n, double* workspace) {
  for_pairs(pairs, swapped, workspace, n, [&](long row, const ProfilePair& pair) {
    const ProfileResult result = profile_at(pair, epsilon[row], kTolerance, 0);
    if (!team::leads()) return;
    delta[row] = round_up(result);
    error[row] = result.relative_error;
    converged[row] = delta[row] == delta[row] ? result.converged : NAN;
  });
}

__global__ void __launch_bounds__(kThreads)
    pair_epsilon_kernel(Pairs pairs, const double* delta, bool swapped, double* epsilon, long n, double* workspace) {
  for_pairs(pairs, swapped, workspace, n, [&](long row, const ProfilePair& pair) {
    const double value = solve_epsilon(pair, delta[row]);
    if (team::leads()) epsilon[row] = value;
  });
}

__global__ void __launch_bounds__(kThreads)
    pair_renyi_kernel(Pairs pairs, const double* order, bool swapped, double* divergence, long n, double* workspace) {
  for_pairs(pairs, swapped, workspace, n, [&](long row, const ProfilePair& pair) {
    double error = 0.0;
    const double value = gaussian_renyi(pair, order[row], &error);
    if (team::leads()) divergence[row] = value + error;
  });
}

unsigned thread_blocks(long n) { return blocks_for(n, kThreads, 1L << 20); }
unsigned warp_blocks(long n) { return blocks_for(n, kThreads / kWarp, kMostWarps / (kThreads / kWarp)); }
unsigned shifted_blocks(long n) { return blocks_for(n, kThreads, kMostThreads / kThreads); }

}  // namespace

namespace device {

cudaError_t gdp_delta(const double* mu, const double* epsilon, double* delta, long n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(gdp_delta_kernel, thread_blocks(n), kThreads, 0, stream)(mu, epsilon, delta, n);
  return launched();
}

cudaError_t gdp_epsilon(const double* mu, const double* delta, double* epsilon, long n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(gdp_epsilon_kernel, thread_blocks(n), kThreads, 0, stream)(mu, delta, epsilon, n);
  return launched();
}

cudaError_t gdp_mu(const double* epsilon, const double* delta, double* mu, long n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(gdp_mu_kernel, thread_blocks(n), kThreads, 0, stream)(epsilon, delta, mu, n);
  return launched();
}

long shifted_workspace(long rows, long steps) {
  return rows == 0 ? 0 : static_cast<long>(shifted_blocks(rows)) * kThreads * 3 * steps;
}

cudaError_t shifted_mu(const double* sensitivity, const double* contraction, const double* noise_std, long rows,
                       long steps, double* mu, double* workspace, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(shifted_kernel, shifted_blocks(rows), kThreads, 0, stream)
  (sensitivity, contraction, noise_std, rows, steps, mu, workspace);
  return launched();
}

long pair_workspace(long n, long m) {
  return n == 0 ? 0 : static_cast<long>(warp_blocks(n)) * (kThreads / kWarp) * 2 * m;
}

cudaError_t pair_delta(const Pairs& pairs, const double* epsilon, bool swapped, double* delta, double* error,
                       double* converged, long n, double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(pair_delta_kernel, warp_blocks(n), kThreads, 0, stream)
  (pairs, epsilon, swapped, delta, error, converged, n, workspace);
  return launched();
}

cudaError_t pair_epsilon(const Pairs& pairs, const double* delta, bool swapped, double* epsilon, long n,
                         double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(pair_epsilon_kernel, warp_blocks(n), kThreads, 0, stream)
  (pairs, delta, swapped, epsilon, n, workspace);
  return launched();
}

cudaError_t pair_renyi(const Pairs& pairs, const double* order, bool swapped, double* divergence, long n,
                       double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(pair_renyi_kernel, warp_blocks(n), kThreads, 0, stream)
  (pairs, order, swapped, divergence, n, workspace);
  return launched();
}

cudaError_t sampled_gaussian_rdp(const double* order, const double* noise_multiplier, const double* probability,
                                 bool reverse, double* out, long n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(sampled_gaussian_kernel, thread_blocks(n), kThreads, 0, stream)
  (order, noise_multiplier, probability, reverse, out, n);
  return launched();
}

}  // namespace device
}  // namespace expunge::privacy
