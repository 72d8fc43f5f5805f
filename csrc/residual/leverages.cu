// Leverages on a GPU: a warp per row.
#include "common/cuda_check.cuh"
#include "residual/residual.cuh"

namespace expunge::residual {
namespace {

constexpr unsigned kThreads = 256;
constexpr long kWarps = kThreads / kWarp;

// In every lane, the same bits: both partners of an exchange add the same two numbers.
__device__ double product_of_warp(const double* a, const double* b, long size, int lane) {
  double sum = 0.0;
  for (long j = lane; j < size; j += kWarp) sum += a[j] * b[j];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
  return sum;
}

__global__ void __launch_bounds__(kThreads) leverages_kernel(Leverages call) {
  const long p = call.p, q = call.q, size = q * p, stride = static_cast<long>(gridDim.x) * kWarps;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (long row = static_cast<long>(blockIdx.x) * kWarps + threadIdx.x / kWarp; row < call.n; row += stride) {
    const double* x = call.x + row * p;
    const double* k = call.k + row * q * size;
    const double norm = product_of_warp(x, x, p, lane);
    if (lane == 0) call.norms[row] = norm;
    for (long pair = 0; pair < q * q; ++pair) {
      const long c = pair / q, d = pair % q, at = row * q * q;
      const double leverage = product_of_warp(x, k + c * size + d * p, p, lane);
      const double square = product_of_warp(k + (c < d ? c : d) * size, k + (c < d ? d : c) * size, size, lane);
      if (lane == 0) {
        call.leverages[at + pair] = leverage;
        call.squares[at + pair] = square;
      }
    }
  }
}

}  // namespace

namespace device {

cudaError_t leverages(const Leverages& call, cudaStream_t stream) {
  EXPUNGE_LAUNCH(leverages_kernel, blocks_for(call.n, kWarps), kThreads, 0, stream)(call);
  return launched();
}

}  // namespace device
}  // namespace expunge::residual
