// Affine parameters along the width of a row, as kernels: rows that fit in shared memory are read and converted once.
#pragma once

#include "common/async_copy.cuh"
#include "grad_norms/reductions.cuh"

namespace expunge::grad_norms::device {
namespace {

constexpr long kSharedBytes = 47 * 1024;  // of one tile; statistics and sums beside it stay below 48 KiB
constexpr int kMostRows = 16;             // of one tile
constexpr int kMostColumns = 8;           // of one thread
constexpr int kRowWarps = kRowThreads / kWarp;

// A tile in shared memory: its activations as doubles, and as they come, with the gradients, from asynchronous copies.
template <class T>
struct RowTile {
  // Elements of each of the three parts, so that all begin at 16 bytes.
  __host__ __device__ static constexpr long elements(long rows, long width) { return (rows * width + 3) / 4 * 4; }
  __host__ __device__ static constexpr long bytes(long rows, long width) {
    return elements(rows, width) * static_cast<long>(sizeof(double) + 2 * sizeof(T));
  }
};

// Begins to copy n adjacent values to shared memory: 16 bytes at a time where both ends allow, else one by one.
template <class T>
__device__ __forceinline__ void begin_copy(const T* from, T* to, int n) {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  int done = 0;
  if (aligned(from, 16)) {
    done = n / width * width;
    for (int k = static_cast<int>(threadIdx.x) * width; k < done; k += static_cast<int>(blockDim.x) * width)
      async_copy::copy(to + k, from + k, 16);
  }
  for (int k = done + static_cast<int>(threadIdx.x); k < n; k += static_cast<int>(blockDim.x))
    async_copy::copy_one(to + k, from + k);
  async_copy::commit();
}

// Adds up a block's squares and writes the norms of weight and bias: together, or apart if there is a `bias_out`.
__device__ __forceinline__ void write_norms(double of_weight, double of_bias, bool squared, double* scratch,
                                            double* out, double* bias_out) {
  if (bias_out != nullptr) {
    const double biases = block_sum(of_bias, scratch);
    if (threadIdx.x == 0) *bias_out = finish(biases, squared);
    __syncthreads();
    of_bias = 0;
  }
  const double total = block_sum(of_weight + of_bias, scratch);
  if (threadIdx.x == 0) *out = finish(total, squared);
}

// One block takes `rows_a_block` positions of an example, a tile of rows at a time: statistics by a few warps a row,
// then sums by one thread a column. A tile's gradients are on their way during its statistics, the next tile's
// activations during its sums. With one block an example its squares, else the sums, go to `parts`.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    standard_rows(NormLayerNorms<T> call, int rows_a_tile, int rows_a_block, int blocks, double* parts) {
  EXPUNGE_DYNAMIC_SHARED(double, tile);
  EXPUNGE_SHARED(double, totals, [kMostRows]);
  EXPUNGE_SHARED(double, squares, [kMostRows]);
  EXPUNGE_SHARED(double, means, [kMostRows]);
  EXPUNGE_SHARED(double, scales, [kMostRows]);
  EXPUNGE_SHARED(double, scratch, [kRowWarps]);
  const int width = static_cast<int>(call.width), positions = static_cast<int>(call.positions);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const long example = blockIdx.x / static_cast<unsigned>(blocks);
  const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks));
  const int last = (block + 1) * rows_a_block < positions ? (block + 1) * rows_a_block : positions;
  const T* x = call.activations + example * call.positions * call.width;
  const T* grads = call.output_grads + example * call.positions * call.width;
  const long elements = RowTile<T>::elements(rows_a_tile, width);
  T* const coming = reinterpret_cast<T*>(tile + elements);
  T* const grad_tile = coming + elements;
  const int warps_a_row = rows_a_tile < kRowWarps ? kRowWarps / rows_a_tile : 1;
  const int first_row = warp / warps_a_row, row_step = kRowWarps / warps_a_row;  // one row a warp if it shares it
  const int part = warp % warps_a_row, strand = part * kWarp + lane, strands = warps_a_row * kWarp;
  // A barrier for the warps of a row: of the block where there are several, in all of its threads alike.
  const auto meet = [&] {
    if (warps_a_row > 1)
      __syncthreads();
    else
      __syncwarp();
  };
  const auto rows_from = [&](int first) { return last - first < rows_a_tile ? last - first : rows_a_tile; };
  double weights[kMostColumns] = {}, biases[kMostColumns] = {};
  int first = block * rows_a_block;
  if (first < last) begin_copy(x + static_cast<long>(first) * width, coming, rows_from(first) * width);
  for (; first < last; first += rows_a_tile) {
    const int rows = rows_from(first);
    async_copy::wait<0>();
    __syncthreads();  // `coming` is there; all are done with the tile, statistics and gradients of the one before
    begin_copy(grads + static_cast<long>(first) * width, grad_tile, rows * width);
    for (int r = first_row; r < rows; r += row_step) {
      double total = 0;
      for (int k = strand; k < width; k += strands) {
        const double value = static_cast<double>(coming[r * width + k]);
        tile[r * width + k] = value;
        total += value;
      }
      total = lanes_sum(total);
      if (lane == 0) totals[r * warps_a_row + part] = total;
    }
    meet();  // totals
    for (int r = first_row; r < rows; r += row_step) {
      double mean = 0, square = 0;
      if (call.kind == NormKind::layer) {
        for (int w = 0; w < warps_a_row; ++w) mean += totals[r * warps_a_row + w];
        mean /= width;
      }
      for (int k = strand; k < width; k += strands) {  // what this thread itself wrote
        const double centred = tile[r * width + k] - mean;
        square += centred * centred;
      }
      square = lanes_sum(square);
      if (lane == 0) {
        squares[r * warps_a_row + part] = square;
        if (part == 0) means[r] = mean;
      }
    }
    meet();  // squares
    if (part == 0 && lane == 0)
      for (int r = first_row; r < rows; r += row_step) {
        double square = 0;
        for (int w = 0; w < warps_a_row; ++w) square += squares[r * warps_a_row + w];
        scales[r] = 1.0 / sqrt(square / width + call.eps);
      }
    async_copy::wait<0>();
    __syncthreads();  // tile, statistics and gradients are there; all are done with `coming`
    const int next = first + rows_a_tile;
    if (next < last) begin_copy(x + static_cast<long>(next) * width, coming, rows_from(next) * width);
    for (int r = 0; r < rows; ++r) {
      const double mean = means[r], scale = scales[r];
      EXPUNGE_UNROLL(16)
      for (int c = 0; c < kMostColumns; ++c) {
        const int column = thread + c * kRowThreads;
        if (column >= width) break;
        const double grad = static_cast<double>(grad_tile[r * width + column]);
        weights[c] += (tile[r * width + column] - mean) * scale * grad;
        biases[c] += grad;
      }
    }
  }
  if (blocks > 1) {
    double* to = parts + static_cast<long>(blockIdx.x) * 2 * width;
    EXPUNGE_UNROLL(16)
    for (int c = 0; c < kMostColumns; ++c) {
      const int column = thread + c * kRowThreads;
      if (column >= width) break;
      to[column] = weights[c];
      to[width + column] = biases[c];
    }
    return;
  }
  double of_weight = 0, of_bias = 0;
  EXPUNGE_UNROLL(16)
  for (int c = 0; c < kMostColumns; ++c) {
    if (call.weight) of_weight += weights[c] * weights[c];
    if (call.bias) of_bias += biases[c] * biases[c];
  }
  write_norms(of_weight, of_bias, call.squared, scratch, call.out + example,
              call.bias_out == nullptr ? nullptr : call.bias_out + example);
}

// Adds up what the blocks of an example found and squares: one block an example.
__global__ void __launch_bounds__(kRowThreads) sum_blocks(const double* parts, int blocks, int width, bool weight,
                                                          bool bias, bool squared, double* out, double* bias_out) {
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  const double* from = parts + static_cast<long>(blockIdx.x) * blocks * 2 * width;
  double of_weight = 0, of_bias = 0;
  for (int k = static_cast<int>(threadIdx.x); k < 2 * width; k += static_cast<int>(blockDim.x)) {
    if (k < width ? !weight : !bias) continue;
    double sum = 0;
    for (int b = 0; b < blocks; ++b) sum += from[static_cast<long>(b) * 2 * width + k];
    (k < width ? of_weight : of_bias) += sum * sum;
  }
  write_norms(of_weight, of_bias, squared, scratch, out + blockIdx.x,
              bias_out == nullptr ? nullptr : bias_out + blockIdx.x);
}

// Mean and scale of rows too long for a tile, one block a row, for column_squares: such rows are read twice. `kept`
// says that the row's doubles fit in shared memory; else a row that is centred is read and converted once more.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    row_statistics(const T* x, long width, bool centre, bool kept, double eps, double* means, double* scales) {
  EXPUNGE_DYNAMIC_SHARED(double, values);
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  EXPUNGE_SHARED(double, shared_mean, [1]);
  const T* row = x + static_cast<long>(blockIdx.x) * width;
  const int thread = static_cast<int>(threadIdx.x);
  double mean = 0, total = 0, squares = 0;
  if (kept) {
    EXPUNGE_UNROLL(4)
    for (long k = thread; k < width; k += kRowThreads) {
      const double value = static_cast<double>(row[k]);
      values[k] = value;
      total += value;
    }
  } else if (centre) {
    over_row(row, width, thread, kRowThreads, [&](double value) { total += value; });
  }
  if (centre) {
    total = block_sum(total, scratch);
    if (thread == 0) shared_mean[0] = total / static_cast<double>(width);
    __syncthreads();  // the mean is there, and `scratch` is free
    mean = shared_mean[0];
  }
  const auto add = [&](double value) { squares += (value - mean) * (value - mean); };
  if (kept) {
    for (long k = thread; k < width; k += kRowThreads) add(values[k]);  // what this thread itself wrote
  } else {
    over_row(row, width, thread, kRowThreads, add);
  }
  squares = block_sum(squares, scratch);
  if (thread == 0) {
    means[blockIdx.x] = mean;
    scales[blockIdx.x] = 1.0 / sqrt(squares / static_cast<double>(width) + eps);
  }
}

}  // namespace
}  // namespace expunge::grad_norms::device
