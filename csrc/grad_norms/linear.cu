// Linear layers: norms, inner products, and an embedding tied to a linear layer.
#include "grad_norms/column_sums.cuh"
#include "grad_norms/grad_norms.cuh"
#include "grad_norms/tensor_tiles.cuh"
#include "grad_norms/tile_launches.cuh"

namespace expunge::grad_norms::device {
namespace {

template <class T>
struct SumOf {
  using type = float;  // bfloat16 too: its products are exact in float32
};
template <>
struct SumOf<double> {
  using type = double;
};

// --- one position: the norm of an outer product -------------------------------------------------

// One warp an example, or the whole block where rows are long and few.
template <class T>
__global__ void __launch_bounds__(kRowThreads) outer_norms(LinearNorms<T> call, long examples, bool block_a_row) {
  EXPUNGE_SHARED(double, scratch, [2][kRowThreads / kWarp]);
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = block_a_row ? kRowThreads : kWarp, lane = thread % lanes;
  const long i = static_cast<long>(blockIdx.x) * (kRowThreads / lanes) + thread / lanes;
  if (!block_a_row && i >= examples) return;
  double inputs = row_squares(call.activations + i * call.d_in, call.d_in, lane, lanes);
  double outputs = row_squares(call.output_grads + i * call.d_out, call.d_out, lane, lanes);
  if (block_a_row) {
    inputs = block_sum(inputs, scratch[0]);
    outputs = block_sum(outputs, scratch[1]);
  } else {
    inputs = lanes_sum(inputs);
    outputs = lanes_sum(outputs);
  }
  if (lane != 0) return;
  const double biases = call.bias ? outputs : 0.0;
  if (call.bias_out != nullptr) call.bias_out[i] = finish(biases, call.squared);
  call.out[i] = finish(inputs * outputs + (call.bias_out == nullptr ? biases : 0.0), call.squared);
}

// squares[row] of a (rows, n) matrix, one warp a row.
template <class T>
__global__ void __launch_bounds__(kRowThreads) squares_of_rows(const T* x, long rows, long n, double* squares) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long row = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (row >= rows) return;
  const double total = lanes_sum(row_squares(x + row * n, n, lane, kWarp));
  if (lane == 0) squares[row] = total;
}

template <class T>
cudaError_t launch_squares_of_rows(const T* x, long rows, long n, double* squares, cudaStream_t stream) {
  const auto kernel = &squares_of_rows<T>;
  EXPUNGE_LAUNCH(kernel, dim3(blocks_for(rows, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
  (x, rows, n, squares);
  return launched();
}

// --- many positions -------------------------------------------------------------------------------

template <class T>
struct ProductProblem {  // A_i^T G_i
  const T *inputs, *outputs;
  long positions, d_in, d_out;
  __device__ __forceinline__ int rows() const { return static_cast<int>(d_in); }
  __device__ __forceinline__ int columns() const { return static_cast<int>(d_out); }
  __device__ __forceinline__ AcrossRows<T> left(long item) const {
    return {inputs + item * positions * d_in, d_in, static_cast<int>(positions), static_cast<int>(d_in)};
  }
  __device__ __forceinline__ AcrossRows<T> right(long item) const {
    return {outputs + item * positions * d_out, d_out, static_cast<int>(positions), static_cast<int>(d_out)};
  }
};

template <class T>
struct GramProblem {  // A1_i A2_i^T and G1_i G2_i^T
  const T *inputs_1, *outputs_1, *inputs_2, *outputs_2;
  const double *squares_in_1, *squares_out_1, *squares_in_2, *squares_out_2;  // of the rows
  long positions_1, positions_2, d_in, d_out;
  __device__ __forceinline__ int rows() const { return static_cast<int>(positions_1); }
  __device__ __forceinline__ int columns() const { return static_cast<int>(positions_2); }
  __device__ __forceinline__ int terms() const { return static_cast<int>(d_in); }
  __device__ __forceinline__ int second_terms() const { return static_cast<int>(d_out); }
  __device__ __forceinline__ AlongRows<T> left(long item) const {
    return {inputs_1 + item * positions_1 * d_in, d_in, terms(), rows()};
  }
  __device__ __forceinline__ AlongRows<T> right(long item) const {
    return {inputs_2 + item * positions_2 * d_in, d_in, terms(), columns()};
  }
  __device__ __forceinline__ AlongRows<T> second_left(long item) const {
    return {outputs_1 + item * positions_1 * d_out, d_out, second_terms(), rows()};
  }
  __device__ __forceinline__ AlongRows<T> second_right(long item) const {
    return {outputs_2 + item * positions_2 * d_out, d_out, second_terms(), columns()};
  }
  __device__ __forceinline__ double left_squares(long item, int r) const {
    return squares_in_1[item * positions_1 + r];
  }
  __device__ __forceinline__ double right_squares(long item, int c) const {
    return squares_in_2[item * positions_2 + c];
  }
  __device__ __forceinline__ double second_left_squares(long item, int r) const {
    return squares_out_1[item * positions_1 + r];
  }
  __device__ __forceinline__ double second_right_squares(long item, int c) const {
    return squares_out_2[item * positions_2 + c];
  }
};

template <class T>
struct ProductPairProblem {  // A1_i^T G1_i and A2_i^T G2_i
  ProductProblem<T> first, second;
  __device__ __forceinline__ int rows() const { return first.rows(); }
  __device__ __forceinline__ int columns() const { return first.columns(); }
  __device__ __forceinline__ int terms() const { return static_cast<int>(first.positions); }
  __device__ __forceinline__ int second_terms() const { return static_cast<int>(second.positions); }
  __device__ __forceinline__ AcrossRows<T> left(long item) const { return first.left(item); }
  __device__ __forceinline__ AcrossRows<T> right(long item) const { return first.right(item); }
  __device__ __forceinline__ AcrossRows<T> second_left(long item) const { return second.left(item); }
  __device__ __forceinline__ AcrossRows<T> second_right(long item) const { return second.right(item); }
};

template <class T>
struct NormsPlan {
  using A = typename SumOf<T>::type;
  bool gram;
  TileShape shape;
  TileGrid product, pairs;
  long tiles, pair_tiles_;
  double *parts, *bias, *values, *spreads, *squares_in, *squares_out, *settled_values;
  A* partial;
  int *settled, *list, *count;
  long bytes;

  NormsPlan(const LinearNorms<T>& call, long examples, char* workspace) {
    DeviceArena arena{workspace};
    gram = gram_is_cheaper(call.positions, call.positions, call.d_in, call.d_out);
    shape = product_tile(call.d_in, call.d_out, gram ? kEnoughBlocks : examples, largest_tile<A>(), sizeof(T) == 4);
    product = product_grid(examples, call.d_in, call.d_out, call.positions, shape, !gram);
    tiles = static_cast<long>(product.row_tiles) * product.column_tiles;
    parts = arena.take<double>(examples * tiles);
    partial = arena.take<A>(product.splits > 1 ? examples * tiles * product.splits * shape.entries() : 0);
    bias = arena.take<double>(call.bias ? examples * column_strips(call.d_out) : 0);
    pairs = product_grid(examples, call.positions, call.positions, call.d_in, TileShape{64, 64}, false);
    pair_tiles_ = static_cast<long>(pairs.row_tiles) * pairs.column_tiles;
    values = arena.take<double>(gram ? examples * pair_tiles_ : 0);
    spreads = arena.take<double>(gram ? examples * pair_tiles_ : 0);
    squares_in = arena.take<double>(gram ? examples * call.positions : 0);
    squares_out = arena.take<double>(gram ? examples * call.positions : 0);
    settled_values = arena.take<double>(gram ? examples : 0);
    settled = arena.take<int>(gram ? examples : 0);
    list = arena.take<int>(gram ? examples : 0);
    count = arena.take<int>(1);
    if (gram) {
      product.list = list;
      product.count = count;
    }
    bytes = arena.used;
  }
};

template <class T>
cudaError_t launch_product(const ProductProblem<T>& problem, const NormsPlan<T>& plan, const LinearNorms<T>& call,
                           cudaStream_t stream) {
  using A = typename SumOf<T>::type;
  if constexpr (sizeof(T) == 2) {
    if (plan.shape.columns == TensorTile::kColumns) {
      if (launch_blocks(plan.product) == 0) return cudaSuccess;
      return launch_square_tiles<TensorTile>(problem, plan.product, plan.parts, nullptr, stream);
    }
  }
  return launch_squares<A, sizeof(T) == 2 ? 64 : largest_tile<A>()>(problem, plan.product, plan.shape, call.d_in,
                                                                    call.d_out, plan.parts, plan.partial, stream);
}

}  // namespace

template <class T>
long linear_norms_workspace(const LinearNorms<T>& call, long examples) {
  return call.positions == 1 ? 0 : NormsPlan<T>(call, examples, nullptr).bytes;
}

template <class T>
cudaError_t linear_norms(const LinearNorms<T>& call, long examples, char* workspace, cudaStream_t stream) {
  using A = typename SumOf<T>::type;
  if (examples == 0) return cudaSuccess;
  if (call.positions == 1) {
    const bool block_a_row = examples < 4 * kEnoughBlocks && call.d_in + call.d_out >= 4096;
    const auto kernel = &outer_norms<T>;
    EXPUNGE_LAUNCH(kernel, dim3(blocks_for(examples, block_a_row ? 1 : kRowThreads / kWarp)), dim3(kRowThreads), 0,
                   stream)
    (call, examples, block_a_row);
    return launched();
  }
  const NormsPlan<T> plan(call, examples, workspace);
  Parts parts{};
  parts.parts = plan.parts;
  parts.items = 1;
  parts.per_item = static_cast<int>(plan.tiles);
  parts.bias_out = call.bias_out;
  if (call.positions == 0) {
    parts.per_item = 0;
    return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
  }
  cudaError_t status = cudaSuccess;
  if (plan.gram) {
    status = launch_squares_of_rows(call.activations, examples * call.positions, call.d_in, plan.squares_in, stream);
    if (status != cudaSuccess) return status;
    status = launch_squares_of_rows(call.output_grads, examples * call.positions, call.d_out, plan.squares_out, stream);
    if (status != cudaSuccess) return status;
    const GramProblem<T> problem{call.activations, call.output_grads, call.activations, call.output_grads,
                                 plan.squares_in,  plan.squares_out,  plan.squares_in,  plan.squares_out,
                                 call.positions,   call.positions,    call.d_in,        call.d_out};
    status = launch_gram<PairForm::symmetric_gram, A>(problem, plan.pairs, plan.values, plan.spreads, stream);
    if (status != cudaSuccess) return status;
    const double lost = lost_to_underflow<A>(call.positions, call.d_in > call.d_out ? call.d_in : call.d_out, 1.0);
    const Settling settling{plan.values,      plan.spreads,        plan.pair_tiles_, plan.squares_in,
                            plan.squares_out, call.positions,      kGramLimit<A>,    lost,
                            examples,         plan.settled_values, plan.settled,     plan.list,
                            plan.count};
    status = launch_settle(settling, stream);
    if (status != cudaSuccess) return status;
    parts.settled = plan.settled;
    parts.values = plan.settled_values;
  }
  const ProductProblem<T> problem{call.activations, call.output_grads, call.positions, call.d_in, call.d_out};
  status = launch_product<T>(problem, plan, call, stream);
  if (status != cudaSuccess) return status;
  if (call.bias) {
    const ColumnSums sums{nullptr, nullptr, call.positions, call.d_out, false, true};
    status = launch_column_squares(call.output_grads, call.output_grads, sums, examples, nullptr, plan.bias, stream);
    if (status != cudaSuccess) return status;
    parts.bias = plan.bias;
    parts.biases = static_cast<int>(column_strips(call.d_out));
  }
  return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
}

// --- inner products: float64 sums whatever T is, since they may be small beside the norms -----------

namespace {

template <class T>
__global__ void __launch_bounds__(kRowThreads) outer_dots(LinearDots<T> call, long examples) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long i = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (i >= examples) return;
  const T *a1 = call.activations_1 + i * call.d_in, *a2 = call.activations_2 + i * call.d_in;
  const T *g1 = call.output_grads_1 + i * call.d_out, *g2 = call.output_grads_2 + i * call.d_out;
  double inputs = 0, outputs = 0;
  for (long k = lane; k < call.d_in; k += kWarp) inputs += static_cast<double>(a1[k]) * static_cast<double>(a2[k]);
  for (long k = lane; k < call.d_out; k += kWarp) outputs += static_cast<double>(g1[k]) * static_cast<double>(g2[k]);
  inputs = lanes_sum(inputs);
  outputs = lanes_sum(outputs);
  if (lane == 0) call.out[i] = inputs * outputs;
}

template <class T>
struct DotsPlan {
  bool gram;
  TileShape shape;
  TileGrid product, pairs;
  long tiles, pair_tiles_;
  double *parts, *values, *spreads, *squares[4], *settled_values;
  int *settled, *list, *count;
  long bytes;

  DotsPlan(const LinearDots<T>& call, long examples, char* workspace) {
    DeviceArena arena{workspace};
    gram = gram_is_cheaper(call.positions_1, call.positions_2, call.d_in, call.d_out);
    shape = square_tile(call.d_in, call.d_out, gram ? kEnoughBlocks : examples, 64);
    product = product_grid(examples, call.d_in, call.d_out, call.positions_1, shape, false);
    tiles = static_cast<long>(product.row_tiles) * product.column_tiles;
    parts = arena.take<double>(examples * tiles);
    pairs = product_grid(examples, call.positions_1, call.positions_2, call.d_in, TileShape{64, 64}, false);
    pair_tiles_ = static_cast<long>(pairs.row_tiles) * pairs.column_tiles;
    values = arena.take<double>(gram ? examples * pair_tiles_ : 0);
    spreads = arena.take<double>(gram ? examples * pair_tiles_ : 0);
    const long positions[4] = {call.positions_1, call.positions_1, call.positions_2, call.positions_2};
    for (int s = 0; s < 4; ++s) squares[s] = arena.take<double>(gram ? examples * positions[s] : 0);
    settled_values = arena.take<double>(gram ? examples : 0);
    settled = arena.take<int>(gram ? examples : 0);
    list = arena.take<int>(gram ? examples : 0);
    count = arena.take<int>(1);
    if (gram) {
      product.list = list;
      product.count = count;
    }
    bytes = arena.used;
  }
};

}  // namespace

template <class T>
long linear_dots_workspace(const LinearDots<T>& call, long examples) {
  return DotsPlan<T>(call, examples, nullptr).bytes;
}

template <class T>
cudaError_t linear_dots(const LinearDots<T>& call, long examples, char* workspace, cudaStream_t stream) {
  if (examples == 0) return cudaSuccess;
  if (call.positions_1 == 1 && call.positions_2 == 1) {
    const auto kernel = &outer_dots<T>;
    EXPUNGE_LAUNCH(kernel, dim3(blocks_for(examples, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
    (call, examples);
    return launched();
  }
  const DotsPlan<T> plan(call, examples, workspace);
  Parts parts{};
  parts.parts = plan.parts;
  parts.items = 1;
  parts.per_item = static_cast<int>(plan.tiles);
  if (call.positions_1 == 0 || call.positions_2 == 0) {
    parts.per_item = 0;
    return launch_finish(parts, examples, Result::sum, call.out, stream);
  }
  cudaError_t status = cudaSuccess;
  if (plan.gram) {
    const T* rows[4] = {call.activations_1, call.output_grads_1, call.activations_2, call.output_grads_2};
    for (int s = 0; s < 4; ++s) {
      const long positions = s < 2 ? call.positions_1 : call.positions_2;
      status = launch_squares_of_rows(rows[s], examples * positions, s % 2 == 0 ? call.d_in : call.d_out,
                                      plan.squares[s], stream);
      if (status != cudaSuccess) return status;
    }
    const GramProblem<T> problem{rows[0],          rows[1],          rows[2],         rows[3],
                                 plan.squares[0],  plan.squares[1],  plan.squares[2], plan.squares[3],
                                 call.positions_1, call.positions_2, call.d_in,       call.d_out};
    status = launch_gram<PairForm::gram, double>(problem, plan.pairs, plan.values, plan.spreads, stream);
    if (status != cudaSuccess) return status;
    // float32 inputs have float64 digits to spare; a non-finite value is settled by the product.
    const Settling settling{plan.values,
                            plan.spreads,
                            plan.pair_tiles_,
                            nullptr,
                            nullptr,
                            0,
                            sizeof(T) == 4 ? 0.0 : kGramLimit<double>,
                            0.0,
                            examples,
                            plan.settled_values,
                            plan.settled,
                            plan.list,
                            plan.count};
    status = launch_settle(settling, stream);
    if (status != cudaSuccess) return status;
    parts.settled = plan.settled;
    parts.values = plan.settled_values;
  }
  const ProductPairProblem<T> problem{
      {call.activations_1, call.output_grads_1, call.positions_1, call.d_in, call.d_out},
      {call.activations_2, call.output_grads_2, call.positions_2, call.d_in, call.d_out}};
  status = launch_pairs(problem, plan.product, plan.shape, plan.parts, stream);
  if (status != cudaSuccess) return status;
  return launch_finish(parts, examples, Result::sum, call.out, stream);
}

// --- an embedding tied to a linear layer -----------------------------------------------------------

namespace {

template <class T>
struct TiedProblem {  // E_i C_i^T, weighted by what the linear layer's rows hold at the tokens
  EmbeddingLinearDots<T> call;
  __device__ __forceinline__ AlongRows<T> left(long item) const {
    return {call.embedding_grads + item * call.n_tokens * call.width, call.width, static_cast<int>(call.width),
            static_cast<int>(call.n_tokens)};
  }
  __device__ __forceinline__ AlongRows<T> right(long item) const {
    return {call.column_factors + item * call.positions * call.width, call.width, static_cast<int>(call.width),
            static_cast<int>(call.positions)};
  }
};

template <class Tile, class T>
__global__ void __launch_bounds__(Tile::kThreads) tied_tiles(TiedProblem<T> problem, TileGrid grid, double* parts) {
  EXPUNGE_SHARED(typename Tile::Shared, shared);
  const EmbeddingLinearDots<T>& call = problem.call;
  const TileOfWork at(grid, blockIdx.x, TileShape{Tile::kRows, Tile::kColumns});
  Tile tile(shared, nullptr);
  tile.accumulate(problem.left(at.item), problem.right(at.item), at.first_row, at.first_column, 0, grid.terms);
  double total = 0;
  tile.each(at.first_row, at.first_column, static_cast<int>(call.n_tokens), static_cast<int>(call.positions),
            [&](double product, int t, int s) {
              const long token = call.tokens[at.item * call.n_tokens + t];
              if (token == call.padding_token) return;
              if (token < 0 || token >= call.rows)
                total = __builtin_nan("");
              else
                total +=
                    product * static_cast<double>(call.row_factors[(at.item * call.positions + s) * call.rows + token]);
            });
  total = block_sum(total, shared.scratch);
  if (threadIdx.x == 0) parts[at.item * grid.row_tiles * grid.column_tiles + at.tile] = total;
}

template <class T>
TileGrid tied_grid(const EmbeddingLinearDots<T>& call, long examples) {
  return product_grid(examples, call.n_tokens, call.positions, call.width, TileShape{64, 64}, false);
}

}  // namespace

template <class T>
long embedding_linear_dots_workspace(const EmbeddingLinearDots<T>& call, long examples) {
  const TileGrid grid = tied_grid(call, examples);
  DeviceArena arena{nullptr};
  arena.take<double>(launch_blocks(grid));
  return arena.used;
}

template <class T>
cudaError_t embedding_linear_dots(const EmbeddingLinearDots<T>& call, long examples, char* workspace,
                                  cudaStream_t stream) {
  if (examples == 0) return cudaSuccess;
  const TileGrid grid = tied_grid(call, examples);
  DeviceArena arena{workspace};
  double* parts_of_tiles = arena.take<double>(launch_blocks(grid));
  if (launch_blocks(grid) > 0) {
    using Tile = BlockTile<double, 64, 4>;
    const auto kernel = &tied_tiles<Tile, T>;
    EXPUNGE_LAUNCH(kernel, grid_of(launch_blocks(grid)), dim3(Tile::kThreads), 0, stream)
    (TiedProblem<T>{call}, grid, parts_of_tiles);
    const cudaError_t status = launched();
    if (status != cudaSuccess) return status;
  }
  Parts parts{};
  parts.parts = parts_of_tiles;
  parts.items = 1;
  parts.per_item = grid.row_tiles * grid.column_tiles;
  return launch_finish(parts, examples, Result::sum, call.out, stream);
}

template long linear_norms_workspace(const LinearNorms<float>&, long);
template long linear_norms_workspace(const LinearNorms<double>&, long);
template long linear_norms_workspace(const LinearNorms<bfloat16>&, long);
template cudaError_t linear_norms(const LinearNorms<float>&, long, char*, cudaStream_t);
template cudaError_t linear_norms(const LinearNorms<double>&, long, char*, cudaStream_t);
template cudaError_t linear_norms(const LinearNorms<bfloat16>&, long, char*, cudaStream_t);
template long linear_dots_workspace(const LinearDots<float>&, long);
template long linear_dots_workspace(const LinearDots<double>&, long);
template cudaError_t linear_dots(const LinearDots<float>&, long, char*, cudaStream_t);
template cudaError_t linear_dots(const LinearDots<double>&, long, char*, cudaStream_t);
template long embedding_linear_dots_workspace(const EmbeddingLinearDots<float>&, long);
template long embedding_linear_dots_workspace(const EmbeddingLinearDots<double>&, long);
template cudaError_t embedding_linear_dots(const EmbeddingLinearDots<float>&, long, char*, cudaStream_t);
template cudaError_t embedding_linear_dots(const EmbeddingLinearDots<double>&, long, char*, cudaStream_t);

}  // namespace expunge::grad_norms::device
