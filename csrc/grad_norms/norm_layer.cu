// The affine parameters of normalising layers: how each call is done, and sums along the channels.
#include "grad_norms/column_sums.cuh"
#include "grad_norms/grad_norms.cuh"
#include "grad_norms/norm_rows.cuh"

namespace expunge::grad_norms::device {
namespace {

constexpr long kRowsABlock = 32;  // positions below which an example is not split further over blocks

// --- parameters along the channels -----------------------------------------------------------------

// Sums over the positions of one channel, about a pivot: the first element of its group, which is at most the root of
// the group's size in standard deviations from its mean.
struct ChannelSums {
  double x, squares, products, grads;
};

// A group of `lanes` lanes a channel.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    channel_sums(NormLayerNorms<T> call, long channels, int lanes, ChannelSums* sums) {
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
__global__ void __launch_bounds__(kRowThreads)
    group_squares(NormLayerNorms<T> call, const ChannelSums* sums, long groups, long group_channels,
                  double* weight_parts, double* bias_parts) {
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
    } else if (call.width <= kMostColumns * kRowThreads && RowTile<T>::bytes(1, call.width) <= kSharedBytes) {
      way = in_shared;
      rows_a_tile = kMostRows;
      while (RowTile<T>::bytes(rows_a_tile, call.width) > kSharedBytes) --rows_a_tile;
      if (rows_a_tile > kRowWarps && rows_a_tile < kMostRows) rows_a_tile = kRowWarps;  // every warp has its row
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
    const auto kernel = &standard_rows<T>;
    EXPUNGE_LAUNCH(kernel, grid_of(examples * plan.blocks), dim3(kRowThreads),
                   static_cast<std::size_t>(RowTile<T>::bytes(plan.rows_a_tile, call.width)), stream)
    (call, static_cast<int>(plan.rows_a_tile), static_cast<int>(plan.rows_a_block), static_cast<int>(plan.blocks),
     plan.parts);
    status = launched();
    if (status != cudaSuccess || plan.blocks == 1) return status;
    EXPUNGE_LAUNCH(sum_blocks, grid_of(examples), dim3(kRowThreads), 0, stream)
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
      const bool centre = call.kind == NormKind::layer;
      const long row_bytes = call.width * static_cast<long>(sizeof(double));
      const bool kept = centre && row_bytes <= kSharedBytes;
      EXPUNGE_LAUNCH(kernel, grid_of(examples * call.positions), dim3(kRowThreads),
                     static_cast<std::size_t>(kept ? row_bytes : 0), stream)
      (call.activations, call.width, centre, kept, call.eps, plan.means, plan.scales);
      status = launched();
      if (status != cudaSuccess) return status;
    }
    const ColumnSums sums{plan.means, plan.scales, call.positions, call.width, call.weight, call.bias};
    status =
        launch_column_squares(call.activations, call.output_grads, sums, examples, plan.parts, plan.bias_parts, stream);
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
