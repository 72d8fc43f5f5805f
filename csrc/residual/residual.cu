// The residual kernels on a GPU: a block per range of rows, then the ranges' gradients in a fixed tree.
#include "residual/residual.cuh"

#include "common/cuda_check.cuh"
#include "residual/residual_math.hpp"

namespace expunge::residual {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

struct Space {
  double* gradients;  // (ranges, q, p)
  double* logits;     // (ranges, q, kBlock), then residuals
  double* sums;       // (ranges, kSums)
};

Space space_of(double* workspace, const Pass& call, long count) {
  double* logits = workspace + count * call.p * call.q;
  return {workspace, logits, logits + count * call.q * kBlock};
}

__device__ double sum_of_warp(double x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

__device__ double product_of_warp(const double* a, const double* b, long size, int lane) {
  double sum = 0.0;
  for (long j = lane; j < size; j += kWarp) sum += a[j] * b[j];
  return sum_of_warp(sum);
}

__global__ void __launch_bounds__(kThreads) pass_kernel(Pass call, Space space, long count) {
  EXPUNGE_SHARED(double, squares, [kBlock]);
  EXPUNGE_SHARED(double, found, [kBlock][kSums]);
  EXPUNGE_SHARED(double, theta_square, [1]);
  const long p = call.p, q = call.q, range = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  double* gradient = space.gradients + range * p * q;
  double* logits = space.logits + range * q * kBlock;
  if (warp == 0) {
    const double square = product_of_warp(call.theta, call.theta, p * q, lane);
    if (lane == 0) theta_square[0] = square;
  }
  if (threadIdx.x < kBlock)
    for (int k = 0; k < kSums; ++k) found[threadIdx.x][k] = 0.0;
  for (long cell = threadIdx.x; cell < p * q; cell += kThreads) gradient[cell] = 0.0;
  __syncthreads();
  const double theta_norm = norm_above(theta_square[0], p * q), gamma = product_error(p);
  const long end = range_begin(range + 1, count, call.n);
  for (long begin = range_begin(range, count, call.n); begin < end; begin += kBlock) {
    const long rows = end - begin < kBlock ? end - begin : kBlock;
    for (long row = warp; row < rows; row += kWarps) {
      const double* x = call.x + (begin + row) * p;
      const double square = product_of_warp(x, x, p, lane);
      if (lane == 0) squares[row] = square;
      for (long c = 0; c < q; ++c) {
        const double logit = product_of_warp(x, call.theta + c * p, p, lane);
        if (lane == 0) logits[c * kBlock + row] = logit;
      }
    }
    __syncthreads();
    if (threadIdx.x < rows) {
      const long row = begin + threadIdx.x;
      const Rows one = {squares[threadIdx.x], call.weights == nullptr ? 1.0 : call.weights[row],
                        call.labels == nullptr ? 0.0 : static_cast<double>(call.labels[row])};
      const double* targets = call.targets == nullptr ? nullptr : call.targets + row * q;
      double* u = logits + threadIdx.x;
      const RowSums sums = residuals_of(call.loss, q, p, theta_norm, gamma, one, u, kBlock, targets, 1);
      found[threadIdx.x][0] += sums.error;
      found[threadIdx.x][1] += sums.size;
      found[threadIdx.x][2] += sums.loss;
      found[threadIdx.x][3] += sums.right;
      if (call.residuals != nullptr)
        for (long c = 0; c < q; ++c) call.residuals[row * q + c] = u[c * kBlock];
    }
    __syncthreads();
    for (long cell = threadIdx.x; cell < p * q; cell += kThreads) {
      const double* r = logits + cell / p * kBlock;
      const double* x = call.x + begin * p + cell % p;
      double sum = 0.0;
      for (long row = 0; row < rows; ++row) sum += r[row] * x[row * p];
      gradient[cell] += sum;
    }
    __syncthreads();
  }
  if (threadIdx.x < kSums) {
    double sum = 0.0;
    for (long row = 0; row < kBlock; ++row) sum += found[row][threadIdx.x];
    space.sums[range * kSums + threadIdx.x] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    join_kernel(Space space, long count, long size, double* gradient, double* sums) {
  const long stride = static_cast<long>(gridDim.x) * kThreads,
             first = static_cast<long>(blockIdx.x) * kThreads + threadIdx.x;
  for (long cell = first; cell < size; cell += stride) {
    add_ranges(space.gradients, count, size, cell, cell + 1);
    gradient[cell] = space.gradients[cell];
  }
  if (first < kSums) {
    double sum = 0.0;
    for (long range = 0; range < count; ++range) sum += space.sums[range * kSums + first];
    sums[first] = sum;
  }
}

}  // namespace

namespace device {

long pass_workspace(const Pass& call) {
  return ranges(call.n, call.p, call.q) * (call.p * call.q + call.q * kBlock + kSums);
}

cudaError_t pass(const Pass& call, double* gradient, double* sums, double* workspace, cudaStream_t stream) {
  const long count = ranges(call.n, call.p, call.q), size = call.p * call.q;
  const Space space = space_of(workspace, call, count);
  EXPUNGE_LAUNCH(pass_kernel, grid_of(count), kThreads, 0, stream)(call, space, count);
  if (const cudaError_t error = launched(); error != cudaSuccess) return error;
  EXPUNGE_LAUNCH(join_kernel, blocks_for(size, kThreads), kThreads, 0, stream)(space, count, size, gradient, sums);
  return launched();
}

}  // namespace device
}  // namespace expunge::residual
