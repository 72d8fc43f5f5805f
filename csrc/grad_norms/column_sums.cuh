// Sums down the columns of (positions, width) matrices, one an example: biases, and affine parameters along the width.
#pragma once

#include "grad_norms/operands.cuh"

namespace expunge::grad_norms::device {
namespace {

constexpr int kStripColumns = 128;  // of one block: four adjacent ones a thread, eight rows at a time

struct ColumnSums {
  const double *means, *scales;  // of every row, or null for 0 and 1
  long positions, width;
  bool weight, bias;
};

// weights[example, strip] = squares of sum_p (x_p - mean_p) scale_p g_p, biases[example, strip] = those of sum_p g_p.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    column_squares(const T* x, const T* grads, ColumnSums given, int strips, double* weight_parts, double* bias_parts) {
  constexpr int rows = kRowThreads / kWarp;
  EXPUNGE_SHARED(double, sums, [rows][kStripColumns]);
  const long example = blockIdx.x / static_cast<unsigned>(strips);
  const int strip = static_cast<int>(blockIdx.x % static_cast<unsigned>(strips));
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = static_cast<int>(threadIdx.x) / kWarp;
  const int width = static_cast<int>(given.width), positions = static_cast<int>(given.positions);
  const int column = strip * kStripColumns + lane * 4;
  const AcrossRows<T> g(grads + example * given.positions * given.width, given.width, positions, width);
  const AcrossRows<T> a(x + example * given.positions * given.width, given.width, positions, width);
  double weights[4] = {}, biases[4] = {};
  for (int p = row; p < positions; p += rows) {
    double grad[4], value[4];
    g.load(p, column, grad);
    if (given.weight) {
      a.load(p, column, value);
      const double mean = given.means != nullptr ? given.means[example * given.positions + p] : 0.0;
      const double scale = given.scales != nullptr ? given.scales[example * given.positions + p] : 1.0;
      EXPUNGE_UNROLL(16)
      for (int i = 0; i < 4; ++i)
        if (column + i < width) weights[i] += (value[i] - mean) * scale * grad[i];
    }
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < 4; ++i) biases[i] += grad[i];
  }
  for (int which = 0; which < 2; ++which) {
    if (which == 0 ? !given.weight : !given.bias) continue;
    double squares = 0;
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < 4; ++i) sums[row][lane * 4 + i] = which == 0 ? weights[i] : biases[i];
    __syncthreads();
    if (threadIdx.x < kStripColumns) {
      double total = 0;
      for (int r = 0; r < rows; ++r) total += sums[r][threadIdx.x];
      squares = total * total;
    }
    __syncthreads();
    squares = block_sum(squares, &sums[0][0]);
    if (threadIdx.x == 0) (which == 0 ? weight_parts : bias_parts)[blockIdx.x] = squares;
    __syncthreads();
  }
}

inline long column_strips(long width) { return (width + kStripColumns - 1) / kStripColumns; }

template <class T>
cudaError_t launch_column_squares(const T* x, const T* grads, const ColumnSums& given, long examples,
                                  double* weight_parts, double* bias_parts, cudaStream_t stream) {
  const long strips = column_strips(given.width);
  if (examples * strips == 0) return cudaSuccess;
  const auto kernel = &column_squares<T>;
  EXPUNGE_LAUNCH(kernel, grid_of(examples * strips), dim3(kRowThreads), 0, stream)
  (x, grads, given, static_cast<int>(strips), weight_parts, bias_parts);
  return launched();
}

}  // namespace
}  // namespace expunge::grad_norms::device
