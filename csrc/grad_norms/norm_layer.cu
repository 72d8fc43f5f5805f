// The affine parameters of normalising layers: each element is read once wherever a row fits in shared memory.
#include "grad_norms/column_sums.cuh"
#include "grad_norms/grad_norms.cuh"

namespace expunge::grad_norms::device {
namespace {

constexpr long kSharedBytes = 47 * 1024;  // of the rows of one tile; statistics and sums beside them stay below 48 KiB
constexpr int kMostRows = 16;             // of one tile
constexpr int kMostColumns = 8;           // of one thread
constexpr long kRowsABlock = 32;          // positions below which an example is not split further over blocks

// --- parameters along the width -------------------------------------------------------------------

// Copies n adjacent values, 16 bytes at a time where both ends allow.
template <class T>
__device__ __forceinline__ void copy_to_shared(const T* from, T* to, int n) {
  constexpr int width = 16 / static_cast<int>(sizeof(T));
  int done = 0;
  if (aligned(from, 16)) {
    const Pack<T, width>* packed = reinterpret_cast<const Pack<T, width>*>(from);
    Pack<T, width>* packed_to = reinterpret_cast<Pack<T, width>*>(to);
    for (int p = static_cast<int>(threadIdx.x); p < n / width; p += static_cast<int>(blockDim.x))
      packed_to[p] = packed[p];
    done = n / width * width;
  }
  for (int k = done + static_cast<int>(threadIdx.x); k < n; k += static_cast<int>(blockDim.x)) to[k] = from[k];
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

// One block takes `rows_a_block` positions of an example, a tile of rows at a time: statistics by one warp a row, then
// sums by one thread a column. With one block an example its squares, else the sums, go to `parts`.
template <class T>
__global__ void __launch_bounds__(kRowThreads) standard_rows(NormLayerNorms<T> call, int rows_a_tile, int rows_a_block,
                                                             int blocks, double* parts) {
  EXPUNGE_DYNAMIC_SHARED(T, tile);
  EXPUNGE_SHARED(double, means, [kMostRows]);
  EXPUNGE_SHARED(double, scales, [kMostRows]);
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  const int width = static_cast<int>(call.width), positions = static_cast<int>(call.positions);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const long example = blockIdx.x / static_cast<unsigned>(blocks);
  const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks));
  const int last = (block + 1) * rows_a_block < positions ? (block + 1) * rows_a_block : positions;
  const T* x = call.activations + example * call.positions * call.width;
  const T* grads = call.output_grads + example * call.positions * call.width;
  constexpr int align = 16 / static_cast<int>(sizeof(T));
  T* const grad_tile = tile + (rows_a_tile * width + align - 1) / align * align;
  double weights[kMostColumns] = {}, biases[kMostColumns] = {};
  for (int first = block * rows_a_block; first < last; first += rows_a_tile) {
    const int rows = last - first < rows_a_tile ? last - first : rows_a_tile;
    copy_to_shared(x + static_cast<long>(first) * width, tile, rows * width);
    copy_to_shared(grads + static_cast<long>(first) * width, grad_tile, rows * width);
    __syncthreads();
    for (int r = warp; r < rows; r += kRowThreads / kWarp) {
      const T* row = tile + r * width;
      double mean = 0, squares = 0;
      if (call.kind == NormKind::layer) {
        for (int k = lane; k < width; k += kWarp) mean += static_cast<double>(row[k]);
        mean = lanes_sum(mean) / width;
      }
      for (int k = lane; k < width; k += kWarp) {
        const double centred = static_cast<double>(row[k]) - mean;
        squares += centred * centred;
      }
      squares = lanes_sum(squares);
      if (lane == 0) {
        means[r] = mean;
        scales[r] = 1.0 / sqrt(squares / width + call.eps);
      }
    }
    __syncthreads();
    for (int r = 0; r < rows; ++r) {
      const double mean = means[r], scale = scales[r];
      EXPUNGE_UNROLL(16)
      for (int c = 0; c < kMostColumns; ++c) {
        const int column = thread + c * kRowThreads;
        if (column >= width) break;
        const double grad = static_cast<double>(grad_tile[r * width + column]);
        weights[c] += (static_cast<double>(tile[r * width + column]) - mean) * scale * grad;
        biases[c] += grad;
      }
    }
    __syncthreads();
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

// Mean and scale of long rows, one block a row, for column_squares: such rows are read twice.
template <class T>
__global__ void __launch_bounds__(kRowThreads) row_statistics(const T* x, long width, bool centre, double eps,
                                                              double* means, double* scales) {
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  EXPUNGE_SHARED(double, shared_mean, [1]);
  const T* row = x + static_cast<long>(blockIdx.x) * width;
  const int thread = static_cast<int>(threadIdx.x);
  double mean = 0;
  if (centre) {
    double total = 0;
    over_row(row, width, thread, kRowThreads, [&](double value) { total += value; });
    total = block_sum(total, scratch);
    if (thread == 0) shared_mean[0] = total / static_cast<double>(width);
    __syncthreads();
    mean = shared_mean[0];
  }
  double squares = 0;
  over_row(row, width, thread, kRowThreads, [&](double value) { squares += (value - mean) * (value - mean); });
  squares = block_sum(squares, scratch);
  if (thread == 0) {
    means[blockIdx.x] = mean;
    scales[blockIdx.x] = 1.0 / sqrt(squares / static_cast<double>(width) + eps);
  }
}

// --- parameters along the channels -----------------------------------------------------------------

// Sums over the positions of one channel, about a pivot: the first element of its group, which is at most the root of
// the group's size in standard deviations from its mean.
struct ChannelSums {
  double x, squares, products, grads;
};

// A group of `lanes` lanes a channel.
template <class T>
__global__ void __launch_bounds__(kRowThreads) channel_sums(NormLayerNorms<T> call, long channels, int lanes,
                                                            ChannelSums* sums) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const long channel = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
  double x = 0, squares = 0, products = 0, grads = 0;
  if (channel < channels) {
    const long group_channels = call.normalized ? call.width : call.width / call.n_groups;
    const long group = channel / group_channels * group_channels;
    const T* grad = call.output_grads + channel * call.positions;
    if (call.weight) {
      const T* row = call.activations + channel * call.positions;
      const double pivot = call.normalized ? 0.0 : static_cast<double>(call.activations[group * call.positions]);
      EXPUNGE_UNROLL(2)
      for (long k = lane; k < call.positions; k += lanes) {
        const double value = static_cast<double>(row[k]) - pivot, g = static_cast<double>(grad[k]);
        x += value;
        squares += value * value;
        products += value * g;
        grads += g;
      }
    } else {
      over_row(grad, call.positions, lane, lanes, [&](double g) { grads += g; });
    }
  }
  x = lanes_sum(x, lanes);
  squares = lanes_sum(squares, lanes);
  products = lanes_sum(products, lanes);
  grads = lanes_sum(grads, lanes);
  if (lane == 0 && channel < channels) sums[channel] = {x, squares, products, grads};
}

// One warp a group of channels: its statistics, then the squares of its channels' parameters.
template <class T>
__global__ void __launch_bounds__(kRowThreads) group_squares(NormLayerNorms<T> call, const ChannelSums* sums,
                                                             long groups, long group_channels, double* weight_parts,
                                                             double* bias_parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long group = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (group >= groups) return;
  const ChannelSums* channel = sums + group * group_channels;
  double mean = 0, scale = 1;
  if (!call.normalized && call.weight) {
    double total = 0, squares = 0;
    for (long c = lane; c < group_channels; c += kWarp) {
      total += channel[c].x;
      squares += channel[c].squares;
    }
    const double count = static_cast<double>(group_channels * call.positions);
    mean = lanes_sum(total) / count;
    const double variance = lanes_sum(squares) / count - mean * mean;
    scale = 1.0 / sqrt((variance < 0 ? 0.0 : variance) + call.eps);
  }
  double of_weight = 0, of_bias = 0;
  for (long c = lane; c < group_channels; c += kWarp) {
    const double weight = scale * (channel[c].products - mean * channel[c].grads);
    if (call.weight) of_weight += weight * weight;
    if (call.bias) of_bias += channel[c].grads * channel[c].grads;
  }
  of_weight = lanes_sum(of_weight);
  of_bias = lanes_sum(of_bias);
  if (lane != 0) return;
  weight_parts[group] = of_weight;
  bias_parts[group] = of_bias;
}

template <class T>
struct NormLayerPlan {
  enum Way { in_shared, twice, columns, channels } way;
  long rows_a_tile, rows_a_block, blocks, strips, groups;
  double *parts, *bias_parts, *means, *scales;
  ChannelSums* sums;
  long bytes;

  NormLayerPlan(const NormLayerNorms<T>& call, long examples, char* workspace) {
    DeviceArena arena{workspace};
    rows_a_tile = rows_a_block = blocks = strips = groups = 0;
    means = scales = bias_parts = nullptr;
    sums = nullptr;
    const long row_bytes = 2 * call.width * static_cast<long>(sizeof(T)) + 32;
    if (call.kind == NormKind::group) {
      way = channels;
      groups = call.normalized || !call.weight ? 1 : call.n_groups;
      sums = arena.take<ChannelSums>(examples * call.width);
      parts = arena.take<double>(examples * groups);
      bias_parts = arena.take<double>(examples * groups);
    } else if (call.normalized || !call.weight) {
      way = columns;
      strips = column_strips(call.width);
      parts = arena.take<double>(examples * strips);
      bias_parts = arena.take<double>(examples * strips);
    } else if (call.width <= kMostColumns * kRowThreads && row_bytes <= kSharedBytes) {
      way = in_shared;
      rows_a_tile = kSharedBytes / 2 / row_bytes;  // two blocks' tiles at least in what one could have
      if (rows_a_tile < 1) rows_a_tile = 1;
      if (rows_a_tile > kMostRows) rows_a_tile = kMostRows;
      blocks = examples < 2 * kEnoughBlocks ? (2 * kEnoughBlocks + examples - 1) / (examples < 1 ? 1 : examples) : 1;
      if (blocks > call.positions / kRowsABlock) blocks = call.positions / kRowsABlock;
      if (blocks < 1) blocks = 1;
      rows_a_block = (call.positions + blocks - 1) / blocks;
      if (rows_a_block < 1) rows_a_block = 1;
      blocks = (call.positions + rows_a_block - 1) / rows_a_block;
      if (blocks < 1) blocks = 1;
      parts = arena.take<double>(blocks > 1 ? examples * blocks * 2 * call.width : 0);
    } else {
      way = twice;
      strips = column_strips(call.width);
      means = arena.take<double>(examples * call.positions);
      scales = arena.take<double>(examples * call.positions);
      parts = arena.take<double>(examples * strips);
      bias_parts = arena.take<double>(examples * strips);
    }
    bytes = arena.used;
  }
};

template <class T>
cudaError_t along_channels(const NormLayerNorms<T>& call, const NormLayerPlan<T>& plan, long examples,
                           cudaStream_t stream) {
  int lanes = 1;
  while (lanes < kWarp && 4 * lanes < call.positions) lanes *= 2;
  const long channels = examples * call.width;
  const auto kernel = &channel_sums<T>;
  EXPUNGE_LAUNCH(kernel, dim3(blocks_for(channels, kRowThreads / lanes)), dim3(kRowThreads), 0, stream)
  (call, channels, lanes, plan.sums);
  const cudaError_t status = launched();
  if (status != cudaSuccess) return status;
  const auto second = &group_squares<T>;
  const long groups = examples * plan.groups;
  EXPUNGE_LAUNCH(second, dim3(blocks_for(groups, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
  (call, plan.sums, groups, call.width / plan.groups, plan.parts, plan.bias_parts);
  return launched();
}

}  // namespace

template <class T>
long norm_layer_norms_workspace(const NormLayerNorms<T>& call, long examples) {
  return NormLayerPlan<T>(call, examples, nullptr).bytes;
}

template <class T>
cudaError_t norm_layer_norms(const NormLayerNorms<T>& call, long examples, char* workspace, cudaStream_t stream) {
  if (examples == 0) return cudaSuccess;
  using Plan = NormLayerPlan<T>;
  const Plan plan(call, examples, workspace);
  Parts parts{};
  parts.parts = plan.parts;
  parts.items = 1;
  parts.bias_out = call.bias_out;
  if (call.positions == 0 || call.width == 0 || !(call.weight || call.bias))
    return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
  cudaError_t status = cudaSuccess;
  if (plan.way == Plan::in_shared) {
    constexpr long align = 16 / static_cast<long>(sizeof(T));
    const long half = (plan.rows_a_tile * call.width + align - 1) / align * align;
    const auto kernel = &standard_rows<T>;
    EXPUNGE_LAUNCH(kernel, dim3(static_cast<unsigned>(examples * plan.blocks)), dim3(kRowThreads),
                   static_cast<std::size_t>(2 * half) * sizeof(T), stream)
    (call, static_cast<int>(plan.rows_a_tile), static_cast<int>(plan.rows_a_block), static_cast<int>(plan.blocks),
     plan.parts);
    status = launched();
    if (status != cudaSuccess || plan.blocks == 1) return status;
    EXPUNGE_LAUNCH(sum_blocks, dim3(static_cast<unsigned>(examples)), dim3(kRowThreads), 0, stream)
    (plan.parts, static_cast<int>(plan.blocks), static_cast<int>(call.width), call.weight, call.bias, call.squared,
     call.out, call.bias_out);
    return launched();
  }
  if (plan.way == Plan::channels) {
    status = along_channels(call, plan, examples, stream);
    parts.per_item = call.weight ? static_cast<int>(plan.groups) : 0;
    parts.biases = static_cast<int>(plan.groups);
  } else {
    if (plan.way == Plan::twice) {
      const auto kernel = &row_statistics<T>;
      EXPUNGE_LAUNCH(kernel, dim3(static_cast<unsigned>(examples * call.positions)), dim3(kRowThreads), 0, stream)
      (call.activations, call.width, call.kind == NormKind::layer, call.eps, plan.means, plan.scales);
      status = launched();
      if (status != cudaSuccess) return status;
    }
    const ColumnSums sums{plan.means, plan.scales, call.positions, call.width, call.weight, call.bias};
    status = launch_column_squares(call.activations, call.output_grads, sums, examples, plan.parts, plan.bias_parts,
                                   stream);
    parts.per_item = call.weight ? static_cast<int>(plan.strips) : 0;
    parts.biases = static_cast<int>(plan.strips);
  }
  if (status != cudaSuccess) return status;
  parts.bias = call.bias ? plan.bias_parts : nullptr;
  return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
}

template long norm_layer_norms_workspace(const NormLayerNorms<float>&, long);
template long norm_layer_norms_workspace(const NormLayerNorms<double>&, long);
template cudaError_t norm_layer_norms(const NormLayerNorms<float>&, long, char*, cudaStream_t);
template cudaError_t norm_layer_norms(const NormLayerNorms<double>&, long, char*, cudaStream_t);

}  // namespace expunge::grad_norms::device
