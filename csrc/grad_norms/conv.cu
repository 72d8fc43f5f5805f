// Convolutions by implicit im2col: every entry of a patch is looked up where it lies in the image.
#include "grad_norms/grad_norms.cuh"
#include "grad_norms/tile_launches.cuh"

namespace expunge::grad_norms::device {
namespace {

constexpr long kThin = 2;        // output channels of a group up to which the sums of a tile would be mostly padding
constexpr int kThinFeatures = 9;  // kernel entries that one warp sums at once: a 3 x 3 kernel

template <class T>
struct Shape {
  long source_plane, padded_plane, in_channels, out_channels;  // channels of one group
  explicit Shape(const ConvNorms<T>& call)
      : source_plane(call.source[0] * call.source[1] * call.source[2]),
        padded_plane(call.padded[0] * call.padded[1] * call.padded[2]),
        in_channels(call.channels / call.groups),
        out_channels(call.out_channels / call.groups) {}
};

// Which pixel of a group's image every pixel of its padded image is: -1 for zero, -2 for a bad map.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    fill_table(ConvNorms<T> call, long source_plane, long padded_plane, long entries, int* table) {
  const long place = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= entries) return;
  const long channel = place / padded_plane, in_plane = place % padded_plane;
  const long at[3] = {in_plane / (call.padded[1] * call.padded[2]), in_plane / call.padded[2] % call.padded[1],
                      in_plane % call.padded[2]};
  long source = 0;
  bool zero = false, bad = false;
  for (int axis = 0; axis < 3; ++axis) {
    const long index = call.pad_map[axis] != nullptr ? call.pad_map[axis][at[axis]] : at[axis];
    zero |= index == -1;
    bad |= index < -1 || index >= call.source[axis];
    source = source * call.source[axis] + index;
  }
  table[place] = bad ? -2 : zero ? -1 : static_cast<int>(channel * source_plane + source);
}

template <class T>
struct ConvProblem {
  ConvNorms<T> call;
  const int* table;
  const double *squares_in, *squares_out;  // of the columns of the Gram form's factors
  long in_channels, out_channels, source_plane;
  unsigned limit;

  ConvProblem(const ConvNorms<T>& call_, const Shape<T>& shape, const int* table_, const double* squares_in_,
              const double* squares_out_)
      : call(call_),
        table(table_),
        squares_in(squares_in_),
        squares_out(squares_out_),
        in_channels(shape.in_channels),
        out_channels(shape.out_channels),
        source_plane(shape.source_plane),
        limit(static_cast<unsigned>(shape.in_channels * shape.padded_plane)) {}

  // Groups of an example follow one another, so item * (channels of a group) counts channels.
  __device__ __forceinline__ Patches<T> patches(long item) const {
    return {call.images + item * in_channels * source_plane,
            table,
            call.feature_offsets,
            call.position_offsets,
            limit,
            static_cast<int>(call.features),
            static_cast<int>(call.positions)};
  }
  __device__ __forceinline__ const T* grads(long item) const {
    return call.output_grads + item * out_channels * call.positions;
  }
};

template <class T>
struct ConvProduct : ConvProblem<T> {
  using ConvProblem<T>::ConvProblem;
  __device__ __forceinline__ int rows() const { return static_cast<int>(this->call.features); }
  __device__ __forceinline__ int columns() const { return static_cast<int>(this->out_channels); }
  __device__ __forceinline__ PatchesAlongTerms<T> left(long item) const { return {this->patches(item)}; }
  __device__ __forceinline__ AlongRows<T> right(long item) const {
    return {this->grads(item), this->call.positions, static_cast<int>(this->call.positions),
            static_cast<int>(this->out_channels)};
  }
};

template <class T>
struct ConvGram : ConvProblem<T> {
  using ConvProblem<T>::ConvProblem;
  __device__ __forceinline__ int rows() const { return static_cast<int>(this->call.positions); }
  __device__ __forceinline__ int columns() const { return static_cast<int>(this->call.positions); }
  __device__ __forceinline__ int terms() const { return static_cast<int>(this->call.features); }
  __device__ __forceinline__ int second_terms() const { return static_cast<int>(this->out_channels); }
  __device__ __forceinline__ PatchesAcrossTerms<T> left(long item) const { return {this->patches(item)}; }
  __device__ __forceinline__ PatchesAcrossTerms<T> right(long item) const { return {this->patches(item)}; }
  __device__ __forceinline__ AcrossRows<T> second_left(long item) const {
    return {this->grads(item), this->call.positions, static_cast<int>(this->out_channels),
            static_cast<int>(this->call.positions)};
  }
  __device__ __forceinline__ AcrossRows<T> second_right(long item) const { return second_left(item); }
  __device__ __forceinline__ double left_squares(long item, int p) const {
    return this->squares_in[item * this->call.positions + p];
  }
  __device__ __forceinline__ double right_squares(long item, int p) const { return left_squares(item, p); }
  __device__ __forceinline__ double second_left_squares(long item, int p) const {
    return this->squares_out[item * this->call.positions + p];
  }
  __device__ __forceinline__ double second_right_squares(long item, int p) const {
    return second_left_squares(item, p);
  }
};

// Squares of a patch, and of the gradients, at every position: one thread a position.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    squares_of_positions(ConvGram<T> problem, long items, double* inputs, double* outputs) {
  const long place = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= items * problem.call.positions) return;
  const long item = place / problem.call.positions;
  const int position = static_cast<int>(place % problem.call.positions);
  const Patches<T> patches = problem.patches(item);
  const int offset = patches.position_offsets[position];
  double total = 0;
  for (int f = 0; f < patches.features; ++f) {
    const double value = patches.template at<double>(patches.feature_offsets[f], offset);
    total += value * value;
  }
  inputs[place] = total;
  total = 0;
  const T* grads = problem.grads(item) + position;
  for (long c = 0; c < problem.out_channels; ++c) {
    const double value = static_cast<double>(grads[c * problem.call.positions]);
    total += value * value;
  }
  outputs[place] = total;
}

// Few output channels a group (depthwise): one warp an output channel, lanes along the positions.
template <class T>
__global__ void __launch_bounds__(kRowThreads) thin_squares(ConvProduct<T> problem, long channels, double* parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long channel = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (channel >= channels) return;
  const Patches<T> patches = problem.patches(channel / problem.out_channels);
  const T* grads = problem.call.output_grads + channel * problem.call.positions;
  double squares = 0;
  for (int first = 0; first < patches.features; first += kThinFeatures) {
    const int count = patches.features - first < kThinFeatures ? patches.features - first : kThinFeatures;
    int offsets[kThinFeatures];
    double totals[kThinFeatures];
    EXPUNGE_UNROLL(16)
    for (int f = 0; f < kThinFeatures; ++f) {
      offsets[f] = patches.feature_offsets[f < count ? first + f : first];  // sums past the end are not used
      totals[f] = 0;
    }
    for (int block = 0; block < patches.positions; block += kWarp * static_cast<int>(kBlock)) {
      const int end = block + kWarp * static_cast<int>(kBlock) < patches.positions
                          ? block + kWarp * static_cast<int>(kBlock)
                          : patches.positions;
      T sums[kThinFeatures] = {};
      for (int p = block + lane; p < end; p += kWarp) {
        const T grad = grads[p];
        const int offset = patches.position_offsets[p];
        EXPUNGE_UNROLL(16)
        for (int f = 0; f < kThinFeatures; ++f) sums[f] += patches.template at<T>(offsets[f], offset) * grad;
      }
      EXPUNGE_UNROLL(16)
      for (int f = 0; f < kThinFeatures; ++f) totals[f] += static_cast<double>(sums[f]);
    }
    EXPUNGE_UNROLL(16)
    for (int f = 0; f < kThinFeatures; ++f) {
      const double total = lanes_sum(totals[f]);
      if (f < count) squares += total * total;
    }
  }
  if (lane == 0) parts[channel] = squares;
}

// squares[row] = square of the sum of a row of a (rows, n) matrix: biases. One warp a row.
template <class T>
__global__ void __launch_bounds__(kRowThreads) squared_sums_of_rows(const T* x, long rows, long n, double* squares) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long row = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (row >= rows) return;
  double total = 0;
  over_row(x + row * n, n, lane, kWarp, [&](double value) { total += value; });
  total = lanes_sum(total);
  if (lane == 0) squares[row] = total * total;
}

template <class T>
struct ConvPlan {
  Shape<T> shape;
  bool gram, thin;
  long items, table_entries, tiles, pair_tiles_;
  TileShape tile;
  TileGrid product, pairs;
  int* table;
  double *parts, *bias, *values, *spreads, *squares_in, *squares_out, *sums;
  T* partial;
  int *settled, *list, *count;
  long bytes;

  ConvPlan(const ConvNorms<T>& call, long examples, char* workspace) : shape(call) {
    DeviceArena arena{workspace};
    gram = gram_is_cheaper(call.positions, call.positions, call.features, shape.out_channels);
    thin = shape.out_channels <= kThin;
    gram = gram && !thin;
    items = examples * call.groups;
    table_entries = shape.in_channels * shape.padded_plane;
    table = arena.take<int>(table_entries);
    tile = product_tile(call.features, shape.out_channels, gram ? kEnoughBlocks : items, largest_tile<T>(),
                        sizeof(T) == 4);
    product = product_grid(items, call.features, shape.out_channels, call.positions, tile, !gram);
    tiles = thin ? shape.out_channels : static_cast<long>(product.row_tiles) * product.column_tiles;
    parts = arena.take<double>(items * tiles);
    partial = arena.take<T>(product.splits > 1 && !thin ? items * tiles * product.splits * tile.entries() : 0);
    bias = arena.take<double>(call.bias ? examples * call.out_channels : 0);
    pairs = product_grid(items, call.positions, call.positions, call.features, TileShape{64, 64}, false);
    pair_tiles_ = static_cast<long>(pairs.row_tiles) * pairs.column_tiles;
    values = arena.take<double>(gram ? items * pair_tiles_ : 0);
    spreads = arena.take<double>(gram ? items * pair_tiles_ : 0);
    squares_in = arena.take<double>(gram ? items * call.positions : 0);
    squares_out = arena.take<double>(gram ? items * call.positions : 0);
    sums = arena.take<double>(gram ? items : 0);
    settled = arena.take<int>(gram ? items : 0);
    list = arena.take<int>(gram ? items : 0);
    count = arena.take<int>(1);
    if (gram) {
      product.list = list;
      product.count = count;
    }
    bytes = arena.used;
  }
};

template <class T>
cudaError_t conv_by_gram(const ConvNorms<T>& call, const ConvPlan<T>& plan, cudaStream_t stream) {
  const ConvGram<T> problem(call, plan.shape, plan.table, plan.squares_in, plan.squares_out);
  const auto kernel = &squares_of_positions<T>;
  EXPUNGE_LAUNCH(kernel, dim3(blocks_for(plan.items * call.positions, kRowThreads)), dim3(kRowThreads), 0, stream)
  (problem, plan.items, plan.squares_in, plan.squares_out);
  cudaError_t status = launched();
  if (status != cudaSuccess) return status;
  status = launch_gram<PairForm::symmetric_gram, T>(problem, plan.pairs, plan.values, plan.spreads, stream);
  if (status != cudaSuccess) return status;
  Settling settling{};
  settling.values = plan.values;
  settling.spreads = plan.spreads;
  settling.per_item = plan.pair_tiles_;
  settling.left_squares = plan.squares_in;
  settling.right_squares = plan.squares_out;
  settling.positions = call.positions;
  settling.limit = kGramLimit<T>;
  const long channels = call.out_channels / call.groups;
  settling.lost = lost_to_underflow<T>(call.positions, call.features > channels ? call.features : channels, 1.0);
  settling.items = plan.items;
  settling.sums = plan.sums;
  settling.settled = plan.settled;
  settling.list = plan.list;
  settling.count = plan.count;
  return launch_settle(settling, stream);
}

}  // namespace

template <class T>
long conv_norms_workspace(const ConvNorms<T>& call, long examples) {
  return ConvPlan<T>(call, examples, nullptr).bytes;
}

template <class T>
cudaError_t conv_norms(const ConvNorms<T>& call, long examples, char* workspace, cudaStream_t stream) {
  if (examples == 0) return cudaSuccess;
  const ConvPlan<T> plan(call, examples, workspace);
  Parts parts{};
  parts.parts = plan.parts;
  parts.items = static_cast<int>(call.groups);
  parts.per_item = static_cast<int>(plan.tiles);
  parts.bias_out = call.bias_out;
  if (call.positions == 0 || plan.shape.out_channels == 0) {
    parts.per_item = 0;
    return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
  }
  cudaError_t status = cudaSuccess;
  if (plan.table_entries > 0) {
    const auto kernel = &fill_table<T>;
    EXPUNGE_LAUNCH(kernel, dim3(blocks_for(plan.table_entries, kRowThreads)), dim3(kRowThreads), 0, stream)
    (call, plan.shape.source_plane, plan.shape.padded_plane, plan.table_entries, plan.table);
    status = launched();
    if (status != cudaSuccess) return status;
  }
  if (plan.gram) {
    status = conv_by_gram(call, plan, stream);
    if (status != cudaSuccess) return status;
    parts.settled = plan.settled;
    parts.values = plan.sums;
  }
  const ConvProduct<T> problem(call, plan.shape, plan.table, nullptr, nullptr);
  if (plan.thin) {
    const auto kernel = &thin_squares<T>;
    const long channels = examples * call.out_channels;
    EXPUNGE_LAUNCH(kernel, dim3(blocks_for(channels, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
    (problem, channels, plan.parts);
    status = launched();
  } else {
    status = launch_squares<T, largest_tile<T>()>(problem, plan.product, plan.tile, call.features,
                                                  plan.shape.out_channels, plan.parts, plan.partial, stream);
  }
  if (status != cudaSuccess) return status;
  if (call.bias) {
    const auto kernel = &squared_sums_of_rows<T>;
    const long rows = examples * call.out_channels;
    EXPUNGE_LAUNCH(kernel, dim3(blocks_for(rows, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
    (call.output_grads, rows, call.positions, plan.bias);
    status = launched();
    if (status != cudaSuccess) return status;
    parts.bias = plan.bias;
    parts.biases = static_cast<int>(call.out_channels);
  }
  return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
}

template long conv_norms_workspace(const ConvNorms<float>&, long);
template long conv_norms_workspace(const ConvNorms<double>&, long);
template cudaError_t conv_norms(const ConvNorms<float>&, long, char*, cudaStream_t);
template cudaError_t conv_norms(const ConvNorms<double>&, long, char*, cudaStream_t);

}  // namespace expunge::grad_norms::device
