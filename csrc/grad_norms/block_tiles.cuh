// One block's tile of sum_k left(k, m) right(k, n): slabs of both operands pass through shared memory, twice buffered,
// and every thread holds MicroRows x MicroColumns sums.
#pragma once

#include "grad_norms/operands.cuh"

namespace expunge::grad_norms::device {
namespace {

// Rows and columns of a tile.
struct TileShape {
  int rows, columns;
  __host__ __device__ long entries() const { return static_cast<long>(rows) * columns; }
};

template <class A, int Rows, int MicroRows, int Columns = Rows, int MicroColumns = MicroRows>
struct BlockTile {
  using Sum = A;
  static constexpr bool kCanSplit = true;
  static constexpr int kRows = Rows, kColumns = Columns;
  static constexpr int kMicroRows = MicroRows, kMicroColumns = MicroColumns;
  static constexpr int kThreads = (Rows / MicroRows) * (Columns / MicroColumns);
  // Blocks of a multiprocessor that the compiler keeps registers free for; 0 leaves it the choice.
  static constexpr int kResident = Columns == 64 ? 2 : 0;
  static constexpr int kTerms = MicroColumns == 8 ? 8 : 16;  // of one slab
  static constexpr int kSums = MicroRows * MicroColumns;     // of one thread
  // Slab rows are shifted by four banks, and still whole 16-byte words.
  static constexpr int kLeftStride = Rows + 4, kRightStride = Columns + 4;
  static constexpr int kLeftFours = kTerms * Rows / 4 / kThreads, kRightFours = kTerms * Columns / 4 / kThreads;
  // float32 sums of more than kBlock terms go on in a second sum. The larger tiles have no registers left for it.
  static constexpr bool kSecondInShared = kSums > 16;
  static constexpr bool kHasSecond = sizeof(A) == 4;
  static_assert(kTerms * Rows % (4 * kThreads) == 0 && kTerms * Columns % (4 * kThreads) == 0,
                "every thread moves whole groups of four");

  struct Shared {
    alignas(16) A left[2][kTerms][kLeftStride];
    alignas(16) A right[2][kTerms][kRightStride];
    double scratch[kThreads / kWarp];
  };
  static constexpr long second_bytes(long terms) {
    return kSecondInShared && kHasSecond && terms > kBlock ? static_cast<long>(sizeof(A)) * Rows * Columns : 0;
  }

  Shared& shared;
  A* second;  // dynamic shared memory of second_bytes
  int thread, row, column;
  A sums[MicroRows][MicroColumns];

  __device__ __forceinline__ BlockTile(Shared& shared_, A* second_)
      : shared(shared_),
        second(second_),
        thread(static_cast<int>(threadIdx.x)),
        row(thread / (Columns / MicroColumns)),
        column(thread % (Columns / MicroColumns)) {}

  // Row (or, with `column`, column) of a tile `along` long that sums[i] belongs to: groups of four, half a tile apart.
  template <int along>
  __device__ __forceinline__ static int place(int thread_place, int i) {
    return (i / 4) * (along / 2) + thread_place * 4 + i % 4;
  }

  template <int along, class Operand, int fours>
  __device__ __forceinline__ static void fetch(const Operand& operand, int thread, int first_term, int first,
                                               A (&values)[fours][4]) {
    EXPUNGE_UNROLL(16)
    for (int f = 0; f < fours; ++f) {
      const int group = thread + f * kThreads;
      if constexpr (Operand::along_terms)
        operand.load(first_term + group % (kTerms / 4) * 4, first + group / (kTerms / 4), values[f]);
      else
        operand.load(first_term + group / (along / 4), first + group % (along / 4) * 4, values[f]);
    }
  }

  template <class Operand, int along, int fours>
  __device__ __forceinline__ static void keep(int thread, const A (&values)[fours][4], A (&slab)[kTerms][along + 4]) {
    EXPUNGE_UNROLL(16)
    for (int f = 0; f < fours; ++f) {
      const int group = thread + f * kThreads;
      if constexpr (Operand::along_terms) {
        EXPUNGE_UNROLL(16)
        for (int i = 0; i < 4; ++i) slab[group % (kTerms / 4) * 4 + i][group / (kTerms / 4)] = values[f][i];
      } else {
        A* to = &slab[group / (along / 4)][group % (along / 4) * 4];
        EXPUNGE_UNROLL(16)
        for (int i = 0; i < 4; ++i) to[i] = values[f][i];
      }
    }
  }

  template <int along, int micro>
  __device__ __forceinline__ static void read(const A* slab_row, int thread_place, A (&out)[micro]) {
    constexpr int width = 16 / static_cast<int>(sizeof(A));
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < micro; i += width) {
      const Pack<A, width> values = *reinterpret_cast<const Pack<A, width>*>(slab_row + place<along>(thread_place, i));
      EXPUNGE_UNROLL(16)
      for (int j = 0; j < width; ++j) out[i + j] = values.v[j];
    }
  }

  __device__ __forceinline__ void multiply(int buffer) {
    EXPUNGE_UNROLL(16)
    for (int k = 0; k < kTerms; ++k) {
      A left[MicroRows], right[MicroColumns];
      read<Rows>(shared.left[buffer][k], row, left);
      read<Columns>(shared.right[buffer][k], column, right);
      EXPUNGE_UNROLL(16)
      for (int i = 0; i < MicroRows; ++i) EXPUNGE_UNROLL(16)
      for (int j = 0; j < MicroColumns; ++j) sums[i][j] += left[i] * right[j];
    }
  }

  // sums = sum over terms [first_term, last_term) of the tile at (first_row, first_column). Ends in a barrier.
  template <class Left, class Right>
  __device__ __forceinline__ void accumulate(const Left& left, const Right& right, int first_row, int first_column,
                                             int first_term, int last_term) {
    A seconds[kHasSecond && !kSecondInShared ? kSums : 1];
    (void)seconds;
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < MicroRows; ++i) EXPUNGE_UNROLL(16)
    for (int j = 0; j < MicroColumns; ++j) sums[i][j] = A(0);
    A next_left[kLeftFours][4] = {}, next_right[kRightFours][4] = {};
    if (first_term < last_term) {
      fetch<Rows>(left, thread, first_term, first_row, next_left);
      fetch<Columns>(right, thread, first_term, first_column, next_right);
      keep<Left, Rows>(thread, next_left, shared.left[0]);
      keep<Right, Columns>(thread, next_right, shared.right[0]);
    }
    __syncthreads();
    int buffer = 0;
    bool carried = false;
    for (int term = first_term; term < last_term; term += kTerms, buffer ^= 1) {
      const bool more = term + kTerms < last_term;
      if (more) {
        fetch<Rows>(left, thread, term + kTerms, first_row, next_left);
        fetch<Columns>(right, thread, term + kTerms, first_column, next_right);
      }
      multiply(buffer);
      if (more) {
        keep<Left, Rows>(thread, next_left, shared.left[buffer ^ 1]);
        keep<Right, Columns>(thread, next_right, shared.right[buffer ^ 1]);
      }
      if constexpr (kHasSecond) {
        if (more && (term + kTerms - first_term) % static_cast<int>(kBlock) == 0) {
          EXPUNGE_UNROLL(16)
          for (int i = 0; i < MicroRows; ++i) EXPUNGE_UNROLL(16)
          for (int j = 0; j < MicroColumns; ++j) {
            A& slot =
                kSecondInShared ? second[(i * MicroColumns + j) * kThreads + thread] : seconds[i * MicroColumns + j];
            slot = carried ? slot + sums[i][j] : sums[i][j];
            sums[i][j] = A(0);
          }
          carried = true;
        }
      }
      __syncthreads();
    }
    if constexpr (kHasSecond) {
      if (carried) {
        EXPUNGE_UNROLL(16)
        for (int i = 0; i < MicroRows; ++i) EXPUNGE_UNROLL(16)
        for (int j = 0; j < MicroColumns; ++j)
          sums[i][j] +=
              kSecondInShared ? second[(i * MicroColumns + j) * kThreads + thread] : seconds[i * MicroColumns + j];
      }
    }
  }

  __device__ __forceinline__ double squares(int first_row, int first_column, int rows, int columns) const {
    double total = 0;
    each(first_row, first_column, rows, columns,
         [&](A value, int, int) { total += static_cast<double>(value) * static_cast<double>(value); });
    return total;
  }

  // Calls body(value, row, column) for what this thread holds of a rows x columns matrix.
  template <class Body>
  __device__ __forceinline__ void each(int first_row, int first_column, int rows, int columns, const Body& body) const {
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < MicroRows; ++i) EXPUNGE_UNROLL(16)
    for (int j = 0; j < MicroColumns; ++j) {
      const int r = first_row + place<Rows>(row, i), c = first_column + place<Columns>(column, j);
      if (r < rows && c < columns) body(sums[i][j], r, c);
    }
  }
};

// How the tiles of many items are dealt to blocks: item by item, split by split of the terms, tile by tile.
struct TileGrid {
  long items;
  int row_tiles, column_tiles, splits, terms, terms_a_split;
  const int* list;   // null, or the items to take
  const int* count;  // how many of them there are

  __device__ __forceinline__ long work() const {
    return (list != nullptr ? *count : items) * row_tiles * column_tiles * splits;
  }
};

struct TileOfWork {
  long item;
  int tile, split, first_row, first_column, first_term, last_term;

  __device__ __forceinline__ TileOfWork(const TileGrid& grid, long work, TileShape shape) {
    const int tiles = grid.row_tiles * grid.column_tiles;
    tile = static_cast<int>(work % tiles);
    work /= tiles;
    split = static_cast<int>(work % grid.splits);
    item = work / grid.splits;
    if (grid.list != nullptr) item = grid.list[item];
    first_row = tile / grid.column_tiles * shape.rows;
    first_column = tile % grid.column_tiles * shape.columns;
    first_term = split * grid.terms_a_split;
    last_term = first_term + grid.terms_a_split < grid.terms ? first_term + grid.terms_a_split : grid.terms;
  }
};

// Sum of the squares of every tile of problem.left(item) x problem.right(item), to parts[item, tile]; with several
// splits the sums themselves, to partial[item, tile, split]. Blocks stride over the work.
template <class Tile, class Problem>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    square_tiles(Problem problem, TileGrid grid, double* parts, typename Tile::Sum* partial) {
  using A = typename Tile::Sum;
  EXPUNGE_SHARED(typename Tile::Shared, shared);
  EXPUNGE_DYNAMIC_SHARED(A, second);
  const long work = grid.work();
  for (long w = blockIdx.x; w < work; w += gridDim.x) {
    const TileOfWork at(grid, w, TileShape{Tile::kRows, Tile::kColumns});
    Tile tile(shared, second);
    tile.accumulate(problem.left(at.item), problem.right(at.item), at.first_row, at.first_column, at.first_term,
                    at.last_term);
    const long slot = at.item * grid.row_tiles * grid.column_tiles + at.tile;
    bool whole = true;
    if constexpr (Tile::kCanSplit) {
      if (grid.splits > 1) {
        whole = false;
        A* to = partial + (slot * grid.splits + at.split) * (Tile::kRows * Tile::kColumns);
        tile.each(at.first_row, at.first_column, problem.rows(), problem.columns(), [&](A value, int r, int c) {
          to[(r - at.first_row) * Tile::kColumns + c - at.first_column] = value;
        });
      }
    }
    if (whole) {
      const double squares =
          block_sum(tile.squares(at.first_row, at.first_column, problem.rows(), problem.columns()), shared.scratch);
      if (threadIdx.x == 0) parts[slot] = squares;
    }
    __syncthreads();
  }
}

// Adds up the splits of a tile in float64 and squares: one block a tile.
template <class A>
__global__ void __launch_bounds__(kRowThreads)
    sum_splits(const A* partial, TileGrid grid, TileShape shape, int rows, int columns, double* parts) {
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  const long slot = blockIdx.x;
  const int tile = static_cast<int>(slot % (grid.row_tiles * grid.column_tiles));
  const int first_row = tile / grid.column_tiles * shape.rows, first_column = tile % grid.column_tiles * shape.columns;
  const int entries = shape.rows * shape.columns;
  const A* from = partial + slot * grid.splits * entries;
  double squares = 0;
  for (int e = static_cast<int>(threadIdx.x); e < entries; e += static_cast<int>(blockDim.x)) {
    if (first_row + e / shape.columns >= rows || first_column + e % shape.columns >= columns) continue;
    double sum = 0;
    for (int split = 0; split < grid.splits; ++split) sum += static_cast<double>(from[split * entries + e]);
    squares += sum * sum;
  }
  squares = block_sum(squares, scratch);
  if (threadIdx.x == 0) parts[slot] = squares;
}

enum class PairForm : int {
  product,         // sum over (row, column) of the product of two tiles
  gram,            // the same of two Gram matrices, with how far rounding may have moved it
  symmetric_gram,  // both sides alike: upper triangle, counted twice off the diagonal
};

// Tiles of two products with the same rows and columns, multiplied entry by entry.
template <PairForm Form, class Tile, class Problem>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    pair_tiles(Problem problem, TileGrid grid, double* values, double* spreads) {
  using A = typename Tile::Sum;
  EXPUNGE_SHARED(typename Tile::Shared, shared);
  const long work = grid.work();
  for (long w = blockIdx.x; w < work; w += gridDim.x) {
    const TileOfWork at(grid, w, TileShape{Tile::kRows, Tile::kColumns});
    const long slot = at.item * grid.row_tiles * grid.column_tiles + at.tile;
    if (Form == PairForm::symmetric_gram && at.first_row > at.first_column) {  // below the diagonal
      if (threadIdx.x == 0) values[slot] = spreads[slot] = 0;
      continue;
    }
    A first[Tile::kMicroRows][Tile::kMicroColumns];
    Tile tile(shared, nullptr);
    tile.accumulate(problem.left(at.item), problem.right(at.item), at.first_row, at.first_column, 0, problem.terms());
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < Tile::kMicroRows; ++i) EXPUNGE_UNROLL(16)
    for (int j = 0; j < Tile::kMicroColumns; ++j) first[i][j] = tile.sums[i][j];
    tile.accumulate(problem.second_left(at.item), problem.second_right(at.item), at.first_row, at.first_column, 0,
                    problem.second_terms());
    double value = 0, spread = 0;
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < Tile::kMicroRows; ++i) EXPUNGE_UNROLL(16)
    for (int j = 0; j < Tile::kMicroColumns; ++j) {
      const int r = at.first_row + Tile::template place<Tile::kRows>(tile.row, i);
      const int c = at.first_column + Tile::template place<Tile::kColumns>(tile.column, j);
      if (r >= problem.rows() || c >= problem.columns()) continue;
      if (Form == PairForm::symmetric_gram && r > c) continue;
      const double a = static_cast<double>(first[i][j]), g = static_cast<double>(tile.sums[i][j]);
      const double weight = Form == PairForm::symmetric_gram && r < c ? 2.0 : 1.0;
      value += weight * (a * g);
      if constexpr (Form != PairForm::product)
        spread +=
            weight * (problem.left_squares(at.item, r) * (problem.right_squares(at.item, c) * (g * g)) +
                      problem.second_left_squares(at.item, r) * (problem.second_right_squares(at.item, c) * (a * a)));
    }
    value = block_sum(value, shared.scratch);
    if (threadIdx.x == 0) values[slot] = value;
    if constexpr (Form != PairForm::product) {
      __syncthreads();
      spread = block_sum(spread, shared.scratch);
      if (threadIdx.x == 0) spreads[slot] = spread;
    }
    __syncthreads();
  }
}

// Tells the items whose Gram form may be trusted from those to list for the product form.
struct Settling {
  const double *values, *spreads;  // (items, per_item)
  long per_item;
  const double *left_squares, *right_squares;  // (items, positions)
  long positions;
  double limit;  // of GramSum::trustworthy; 0 trusts whatever is finite
  double lost;   // to underflow, of all squares
  long items;
  double* sums;
  int *settled, *list, *count;  // count starts at 0
};

// One warp an item.
__global__ void __launch_bounds__(kRowThreads) settle_items(Settling given) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long item = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (item >= given.items) return;
  GramSum sum;
  for (long p = lane; p < given.per_item; p += kWarp) {
    sum.value += given.values[item * given.per_item + p];
    sum.spread += given.spreads[item * given.per_item + p];
  }
  for (long p = lane; p < given.positions; p += kWarp) {
    const double left = given.left_squares[item * given.positions + p];
    const double right = given.right_squares[item * given.positions + p];
    sum.trace += left * right;
    sum.lost += given.lost * (left + right);
  }
  sum.value = lanes_sum(sum.value);
  sum.spread = lanes_sum(sum.spread);
  sum.trace = lanes_sum(sum.trace);
  sum.lost = lanes_sum(sum.lost);
  if (lane != 0) return;
  const bool trusted = given.limit > 0 ? sum.trustworthy(given.limit) : sum.value - sum.value == 0;
  given.sums[item] = sum.value;
  given.settled[item] = trusted ? 1 : 0;
  // In any order: every item has slots of its own.
  if (!trusted) given.list[atomicAdd(given.count, 1)] = static_cast<int>(item);
}

}  // namespace
}  // namespace expunge::grad_norms::device
