// A tile of a product of bfloat16 factors on tensor cores: every product is exact in the float32 sums.
#pragma once

#include "common/mma.cuh"
#include "grad_norms/block_tiles.cuh"

namespace expunge::grad_norms::device {
namespace {

// 128 x 128 by eight warps, each 64 x 32 in 4 x 2 tiles of tensor cores. Slabs of factors lie in shared memory as they
// are, twice buffered; rows there are shifted by four banks against one another.
struct TensorTile {
  using Sum = float;
  static constexpr bool kCanSplit = false;  // only the hardware knows which element a thread holds
  static constexpr int kTile = 128;
  static constexpr int kThreads = 256;
  static constexpr int kTerms = 32;  // of one slab
  static constexpr int kStride = kTile + 8;
  static constexpr int kFours = kTerms * kTile / 4 / kThreads;
  static constexpr int kRows = 4, kColumns = 2;  // tiles of a warp
  using Fragment = mma::Tile<bfloat16, mma::kColumns, mma::kRows>;
  static constexpr int kElements = Fragment::kElements;

  struct Shared {
    alignas(32) bfloat16 left[2][kTerms][kStride];
    alignas(32) bfloat16 right[2][kTerms][kStride];
    double scratch[kThreads / kWarp];
  };
  // Tensor cores round sums towards zero: after kBlock terms they go on in a second sum.
  static constexpr long second_bytes(long terms) {
    return terms > kBlock ? static_cast<long>(sizeof(float)) * kTile * kTile : 0;
  }

  Shared& shared;
  float* second;
  int thread;
  bool carried;
  Fragment sums[kRows][kColumns];

  __device__ __forceinline__ TensorTile(Shared& shared_, float* second_)
      : shared(shared_), second(second_), thread(static_cast<int>(threadIdx.x)), carried(false) {}

  template <class Operand>
  __device__ __forceinline__ void fetch(const Operand& operand, int first_term, int first,
                                        bfloat16 (&values)[kFours][4]) const {
    EXPUNGE_UNROLL(16)
    for (int f = 0; f < kFours; ++f) {
      const int group = thread + f * kThreads;
      operand.load_raw(first_term + group / (kTile / 4), first + group % (kTile / 4) * 4, values[f]);
    }
  }

  __device__ __forceinline__ void keep(const bfloat16 (&values)[kFours][4], bfloat16 (&slab)[kTerms][kStride]) const {
    EXPUNGE_UNROLL(16)
    for (int f = 0; f < kFours; ++f) {
      const int group = thread + f * kThreads;
      Pack<bfloat16, 4> pack;
      EXPUNGE_UNROLL(4)
      for (int i = 0; i < 4; ++i) pack.v[i] = values[f][i];
      *reinterpret_cast<Pack<bfloat16, 4>*>(&slab[group / (kTile / 4)][group % (kTile / 4) * 4]) = pack;
    }
  }

  __device__ __forceinline__ void multiply(int buffer) {
    const int warp = thread / kWarp, row = warp / 4 * (16 * kRows), column = warp % 4 * (16 * kColumns);
    EXPUNGE_UNROLL(2)
    for (int k = 0; k < kTerms; k += Fragment::kDepth) {
      EXPUNGE_UNROLL(4)
      for (int i = 0; i < kRows; ++i)
        EXPUNGE_UNROLL(2)
        for (int j = 0; j < kColumns; ++j)
          sums[i][j].multiply_add(&shared.left[buffer][k][row + 16 * i], kStride,
                                  &shared.right[buffer][k][column + 16 * j], kStride);
    }
  }

  __device__ __forceinline__ float& slot(int i, int j, int e) const {
    return second[((i * kColumns + j) * kElements + e) * kThreads + thread];
  }

  __device__ __forceinline__ void carry() {
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kRows; ++i)
      EXPUNGE_UNROLL(2)
      for (int j = 0; j < kColumns; ++j) {
        EXPUNGE_UNROLL(8)
        for (int e = 0; e < kElements; ++e)
          slot(i, j, e) = carried ? slot(i, j, e) + sums[i][j].element(e) : sums[i][j].element(e);
        sums[i][j].clear();
      }
    carried = true;
  }

  // As BlockTile's.
  template <class Left, class Right>
  __device__ __forceinline__ void accumulate(const Left& left, const Right& right, int first_row, int first_column,
                                             int first_term, int last_term) {
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kRows; ++i)
      EXPUNGE_UNROLL(2)
      for (int j = 0; j < kColumns; ++j) sums[i][j].clear();
    bfloat16 next_left[kFours][4] = {}, next_right[kFours][4] = {};
    fetch(left, first_term, first_row, next_left);
    fetch(right, first_term, first_column, next_right);
    keep(next_left, shared.left[0]);
    keep(next_right, shared.right[0]);
    __syncthreads();
    int buffer = 0;
    for (int term = first_term; term < last_term; term += kTerms, buffer ^= 1) {
      const bool more = term + kTerms < last_term;
      if (more) {
        fetch(left, term + kTerms, first_row, next_left);
        fetch(right, term + kTerms, first_column, next_right);
      }
      multiply(buffer);
      if (more) {
        keep(next_left, shared.left[buffer ^ 1]);
        keep(next_right, shared.right[buffer ^ 1]);
        if ((term + kTerms - first_term) % static_cast<int>(kBlock) == 0) carry();
      }
      __syncthreads();
    }
  }

  // What lies past the matrix is a sum of zeros, or not finite where the example is not.
  __device__ __forceinline__ double squares(int, int, int, int) const {
    double total = 0;
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kRows; ++i)
      EXPUNGE_UNROLL(2)
      for (int j = 0; j < kColumns; ++j)
        EXPUNGE_UNROLL(8)
        for (int e = 0; e < kElements; ++e) {
          const float value = sums[i][j].element(e) + (carried ? slot(i, j, e) : 0.0f);
          total += static_cast<double>(value) * static_cast<double>(value);
        }
    return total;
  }
};

}  // namespace
}  // namespace expunge::grad_norms::device
