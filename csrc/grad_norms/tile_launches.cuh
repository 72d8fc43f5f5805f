// Which tiles, in which grids: chosen from sizes alone, so that the same call gives the same bits on every device.
#pragma once

#include <algorithm>

#include "grad_norms/block_tiles.cuh"

namespace expunge::grad_norms::device {
namespace {

inline long tiles_along(long n, int size) { return (n + size - 1) / size; }

// The largest tile that wastes no more than a smaller one would, and still leaves every multiprocessor busy.
inline int square_size(long rows, long columns, long items, int largest) {
  const auto area = [&](int size) { return tiles_along(rows, size) * size * tiles_along(columns, size) * size; };
  int size = largest;
  for (; size > 32; size /= 2) {
    const long smaller = area(size / 2);
    const bool full = items * tiles_along(rows, size) * tiles_along(columns, size) >= kEnoughBlocks || smaller == 0;
    if (full && 4 * area(size) <= 5 * smaller) break;
    if (!full && area(size) <= smaller && size == 64) break;
  }
  return size;
}

inline TileShape square_tile(long rows, long columns, long items, int largest) {
  const int size = square_size(rows, columns, items, largest);
  return {size, size};
}

// The same, or a tile twice as high where it fits as well: a thread then reads three numbers for eight products instead
// of four. Of float32 sums that have no more columns than half of the largest tile.
inline TileShape product_tile(long rows, long columns, long items, int largest, bool may_be_high) {
  const TileShape square = square_tile(rows, columns, items, largest);
  const long high = tiles_along(rows, 128), low = tiles_along(rows, 64);
  const bool fits = square.rows == 64 && columns <= 64 && items * high >= kEnoughBlocks && 8 * high <= 5 * low;
  return may_be_high && fits ? TileShape{128, 64} : square;
}

inline TileGrid product_grid(long items, long rows, long columns, long terms, TileShape shape, bool may_split) {
  TileGrid grid{};
  grid.items = items;
  grid.row_tiles = static_cast<int>(tiles_along(rows, shape.rows));
  grid.column_tiles = static_cast<int>(tiles_along(columns, shape.columns));
  grid.terms = static_cast<int>(terms);
  const long blocks = items * grid.row_tiles * grid.column_tiles;
  long splits = 1;
  if (may_split && blocks > 0 && blocks < kEnoughBlocks)
    splits = std::min((kEnoughBlocks + blocks - 1) / blocks, terms / kBlock);
  if (splits < 1) splits = 1;
  const long length = (terms + splits - 1) / splits;
  grid.terms_a_split = static_cast<int>((length + 15) / 16 * 16);
  grid.splits = static_cast<int>(terms > 0 ? (terms + grid.terms_a_split - 1) / grid.terms_a_split : 1);
  return grid;
}

// Blocks for a grid over a list whose length only the device knows.
inline long launch_blocks(const TileGrid& grid) {
  const long work = grid.items * grid.row_tiles * grid.column_tiles * grid.splits;
  return grid.list != nullptr ? std::min(work, 8 * kEnoughBlocks) : work;
}

template <class A>
constexpr int largest_tile() {
  return sizeof(A) == 4 ? 128 : 64;
}

template <class Tile, class Problem>
cudaError_t launch_square_tiles(const Problem& problem, const TileGrid& grid, double* parts,
                                typename Tile::Sum* partial, cudaStream_t stream) {
  const auto kernel = &square_tiles<Tile, Problem>;
  const long bytes = Tile::second_bytes(grid.terms_a_split);
  if (bytes > 0) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
  }
  EXPUNGE_LAUNCH(kernel, grid_of(launch_blocks(grid)), dim3(Tile::kThreads), static_cast<std::size_t>(bytes), stream)
  (problem, grid, parts, partial);
  return launched();
}

// parts[item, tile] = squares of the product form, in tiles of this shape, at most Largest.
template <class A, int Largest, class Problem>
cudaError_t launch_squares(const Problem& problem, const TileGrid& grid, TileShape shape, long rows, long columns,
                           double* parts, A* partial, cudaStream_t stream) {
  if (launch_blocks(grid) == 0) return cudaSuccess;
  cudaError_t status = cudaSuccess;
  if (shape.columns == 32) {
    status = launch_square_tiles<BlockTile<A, 32, 4>>(problem, grid, parts, partial, stream);
  } else if (shape.rows == 64) {
    status = launch_square_tiles<BlockTile<A, 64, 4>>(problem, grid, parts, partial, stream);
  } else if constexpr (Largest == 128) {
    if (shape.columns == 64)
      status = launch_square_tiles<BlockTile<A, 128, 8, 64, 4>>(problem, grid, parts, partial, stream);
    else
      status = launch_square_tiles<BlockTile<A, 128, 8>>(problem, grid, parts, partial, stream);
  }
  if (status != cudaSuccess || grid.splits == 1) return status;
  const auto kernel = &sum_splits<A>;
  EXPUNGE_LAUNCH(kernel, grid_of(grid.items * grid.row_tiles * grid.column_tiles), dim3(kRowThreads), 0, stream)
  (partial, grid, shape, static_cast<int>(rows), static_cast<int>(columns), parts);
  return launched();
}

// The inner products of two products, summed in float64.
template <class Problem>
cudaError_t launch_pairs(const Problem& problem, const TileGrid& grid, TileShape shape, double* values,
                         cudaStream_t stream) {
  if (launch_blocks(grid) == 0) return cudaSuccess;
  const dim3 blocks = grid_of(launch_blocks(grid));
  if (shape.rows == 32) {
    using Tile = BlockTile<double, 32, 4>;
    const auto kernel = &pair_tiles<PairForm::product, Tile, Problem>;
    EXPUNGE_LAUNCH(kernel, blocks, dim3(Tile::kThreads), 0, stream)(problem, grid, values, nullptr);
  } else {
    using Tile = BlockTile<double, 64, 4>;
    const auto kernel = &pair_tiles<PairForm::product, Tile, Problem>;
    EXPUNGE_LAUNCH(kernel, blocks, dim3(Tile::kThreads), 0, stream)(problem, grid, values, nullptr);
  }
  return launched();
}

template <PairForm Form, class A, class Problem>
cudaError_t launch_gram(const Problem& problem, const TileGrid& grid, double* values, double* spreads,
                        cudaStream_t stream) {
  if (launch_blocks(grid) == 0) return cudaSuccess;
  using Tile = BlockTile<A, 64, 4>;
  const auto kernel = &pair_tiles<Form, Tile, Problem>;
  EXPUNGE_LAUNCH(kernel, grid_of(launch_blocks(grid)), dim3(Tile::kThreads), 0, stream)
  (problem, grid, values, spreads);
  return launched();
}

inline cudaError_t launch_settle(const Settling& given, cudaStream_t stream) {
  const cudaError_t status = cudaMemsetAsync(given.count, 0, sizeof(int), stream);
  if (status != cudaSuccess) return status;
  EXPUNGE_LAUNCH(settle_items, dim3(blocks_for(given.items, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)
  (given);
  return launched();
}

}  // namespace
}  // namespace expunge::grad_norms::device
