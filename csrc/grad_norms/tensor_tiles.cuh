// A tile of a product of bfloat16 factors on tensor cores: every product is exact in the float32 sums.
#pragma once

#include "common/mma.cuh"
#include "grad_norms/block_tiles.cuh"

namespace expunge::grad_norms::device {
namespace {

// Tensor cores add eight products at a time to a sum and cut the result off, so sums drift towards zero: each step by
// at most nine units in the last place of what it adds up. After kTensorBlock terms they therefore go on in a second
// sum, rounded to nearest. A sum of T terms errs by at most (9 kTensorBlock / 8) 2^-23 + (T / kTensorBlock) 2^-24,
// 1.4e-4, of the sum of the magnitudes - when all errors have one sign; bfloat16 factors themselves are rounded to
// 2^-9.
#if defined(EXPUNGE_CUDA_EMULATION)
constexpr long kTensorBlock = 256;  // tests reach the second sum in time
#else
constexpr long kTensorBlock = 1024;
#endif

// 128 x 128 by eight warps, each 64 x 32 in 4 x 2 tiles of tensor cores. Slabs of factors go to shared memory as they
// are, by copies of which three are under way while a fourth is multiplied; rows there are shifted by four banks
// against one another. Two blocks share a multiprocessor.
struct TensorTile {
  using Sum = float;
  static constexpr bool kCanSplit = false;  // only the hardware knows which element a thread holds
  static constexpr int kTile = 128, kRows = kTile, kColumns = kTile;
  static constexpr int kThreads = 256;
  static constexpr int kResident = 2;  // blocks of a multiprocessor
  static constexpr int kTerms = 16;    // of one slab
  static constexpr int kSlabs = 4;
  static constexpr int kStride = kTile + 8;
  static constexpr int kWarpRows = 4, kWarpColumns = 2;  // tiles of a warp
  using Fragment = mma::Tile<bfloat16, mma::kColumns, mma::kRows>;
  static constexpr int kElements = Fragment::kElements;
  static_assert(kTerms * kTile == 8 * kThreads, "a thread copies eight elements of each slab");
  static_assert(Fragment::kDepth == kTerms, "a slab is one step of the tensor cores");
  static_assert((kSlabs & (kSlabs - 1)) == 0 && kTensorBlock % kTerms == 0, "slabs are counted by masks");

  struct Shared {
    alignas(32) bfloat16 left[kSlabs][kTerms][kStride];
    alignas(32) bfloat16 right[kSlabs][kTerms][kStride];
    double scratch[kThreads / kWarp];
  };
  static constexpr long second_bytes(long terms) {
    return terms > kTensorBlock ? static_cast<long>(sizeof(float)) * kTile * kTile : 0;
  }

  Shared& shared;
  float* second;
  int thread;
  bool carried;
  Fragment sums[kWarpRows][kWarpColumns];

  __device__ __forceinline__ TensorTile(Shared& shared_, float* second_)
      : shared(shared_), second(second_), thread(static_cast<int>(threadIdx.x)), carried(false) {}

  // Sends a slab on its way; past the last term there is none, and the group is empty.
  template <class Left, class Right>
  __device__ __forceinline__ void fetch(const Left& left, const Right& right, int first_row, int first_column, int term,
                                        int last_term, int slab) const {
    if (term < last_term) {
      const int k = thread / (kTile / 8), m = thread % (kTile / 8) * 8;
      left.copy_eight(term + k, first_row + m, &shared.left[slab][k][m]);
      right.copy_eight(term + k, first_column + m, &shared.right[slab][k][m]);
    }
    async_copy::commit();
  }

  __device__ __forceinline__ void multiply(int slab) {
    const int warp = thread / kWarp, row = warp / 4 * (16 * kWarpRows), column = warp % 4 * (16 * kWarpColumns);
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kWarpRows; ++i) EXPUNGE_UNROLL(2)
    for (int j = 0; j < kWarpColumns; ++j)
      sums[i][j].multiply_add(&shared.left[slab][0][row + 16 * i], kStride, &shared.right[slab][0][column + 16 * j],
                              kStride);
  }

  __device__ __forceinline__ float& slot(int i, int j, int e) const {
    return second[((i * kWarpColumns + j) * kElements + e) * kThreads + thread];
  }

  __device__ __forceinline__ void carry() {
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kWarpRows; ++i) EXPUNGE_UNROLL(2)
    for (int j = 0; j < kWarpColumns; ++j) {
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
    for (int i = 0; i < kWarpRows; ++i) EXPUNGE_UNROLL(2)
    for (int j = 0; j < kWarpColumns; ++j) sums[i][j].clear();
    EXPUNGE_UNROLL(4)
    for (int ahead = 0; ahead < kSlabs - 1; ++ahead)
      fetch(left, right, first_row, first_column, first_term + ahead * kTerms, last_term, ahead);
    int step = 0;
    for (int term = first_term; term < last_term; term += kTerms, ++step) {
      async_copy::wait<kSlabs - 2>();
      __syncthreads();  // this slab is there for all, and all have multiplied the one before, whose place is taken now
      fetch(left, right, first_row, first_column, term + (kSlabs - 1) * kTerms, last_term,
            (step + kSlabs - 1) & (kSlabs - 1));
      multiply(step & (kSlabs - 1));
      if ((term + kTerms - first_term) % static_cast<int>(kTensorBlock) == 0 && term + kTerms < last_term) carry();
    }
    async_copy::wait<0>();
    __syncthreads();
  }

  // What lies past the matrix is a sum of zeros, or not finite where the example is not.
  __device__ __forceinline__ double squares(int, int, int, int) const {
    double total = 0;
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kWarpRows; ++i) EXPUNGE_UNROLL(2)
    for (int j = 0; j < kWarpColumns; ++j) EXPUNGE_UNROLL(8)
    for (int e = 0; e < kElements; ++e) {
      const float value = sums[i][j].element(e) + (carried ? slot(i, j, e) : 0.0f);
      total += static_cast<double>(value) * static_cast<double>(value);
    }
    return total;
  }
};

}  // namespace
}  // namespace expunge::grad_norms::device
