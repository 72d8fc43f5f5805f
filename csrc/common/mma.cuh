// Products of small tiles by one warp: tensor cores under nvcc, plain C++ in the emulator. float32 accumulation.
//
//   mma::Tile<bfloat16, mma::kRows, mma::kColumns> tile;   // or float, whose factors are rounded to tf32
//   tile.clear();
//   tile.multiply_add(a, lda, b, ldb);   // += A B for 16 x depth A and depth x 16 B, depth = tile.kDepth
//   tile.store(c, ldc);                  // 16 x 16, row after row
//
// A whole warp calls, with the same arguments. kRows: element (i, k) of A at a[i * lda + k]; kColumns: at a[k * lda +
// i]; the same for (k, j) of B. Factors may lie in shared or global memory, 32-byte aligned, with leading dimensions
// that are multiples of 8 elements (bfloat16) or 4 (float); c likewise.
#pragma once

#include "common/bfloat16.hpp"
#include "common/gpu.cuh"

#if !defined(EXPUNGE_CUDA_EMULATION)
#include <mma.h>
#endif

namespace expunge {
namespace {
namespace mma {

enum Order { kRows, kColumns };

template <class T>
struct Shape;
template <>
struct Shape<bfloat16> {
  static constexpr int kDepth = 16;
};
template <>
struct Shape<float> {
  static constexpr int kDepth = 8;
};

#if defined(EXPUNGE_CUDA_EMULATION)

inline float factor(bfloat16 x) { return to_float(x); }

// The nearest float that is not larger in magnitude: how tensor cores round their sums.
inline float toward_zero(double x) {
  const float y = static_cast<float>(x);
  if (!(fabs(static_cast<double>(y)) > fabs(x)) || isinf(x)) return y;
  return nextafterf(y, 0.0f);
}

// Rounded to the 10 bits of tf32, ties away from zero.
inline float factor(float x) {
  const unsigned bits = __float_as_uint(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & ~0x1fffu);
}

template <class T, Order order_a, Order order_b>
class Tile {
 public:
  static constexpr int kDepth = Shape<T>::kDepth;
  static constexpr int kElements = 8;  // held by a lane: half a row, where a GPU scatters them

  void clear() {
    for (float& x : value_) x = 0.0f;
  }

  void multiply_add(const T* a, long lda, const T* b, long ldb) {
    __syncwarp();
    const int row = lane() / 2, first = lane() % 2 * kElements;
    for (int e = 0; e < kElements; ++e) {
      const int column = first + e;
      // Half the depth at a time joins the sum, which is cut off.
      for (int first_k = 0; first_k < kDepth; first_k += kDepth / 2) {
        double sum = static_cast<double>(value_[e]);
        for (int k = first_k; k < first_k + kDepth / 2; ++k)
          sum += static_cast<double>(factor(order_a == kRows ? a[row * lda + k] : a[k * lda + row])) *
                 static_cast<double>(factor(order_b == kRows ? b[k * ldb + column] : b[column * ldb + k]));
        value_[e] = toward_zero(sum);
      }
    }
    __syncwarp();  // the factors have been read by all
  }

  void store(float* c, long ldc) const {
    __syncwarp();
    for (int e = 0; e < kElements; ++e) c[lane() / 2 * ldc + lane() % 2 * kElements + e] = value_[e];
    __syncwarp();
  }

  // This lane's elements, in no order a caller may rely on: for sums over the tile.
  float element(int e) const { return value_[e]; }

 private:
  static int lane() { return static_cast<int>(threadIdx.x % 32); }
  float value_[kElements];
};

#else

template <class T>
struct Precision;
template <>
struct Precision<bfloat16> {
  using type = __nv_bfloat16;
};
template <>
struct Precision<float> {
  using type = nvcuda::wmma::precision::tf32;
};

template <Order order>
struct Layout;
template <>
struct Layout<kRows> {
  using type = nvcuda::wmma::row_major;
};
template <>
struct Layout<kColumns> {
  using type = nvcuda::wmma::col_major;
};

__device__ inline const __nv_bfloat16* memory(const bfloat16* x) { return reinterpret_cast<const __nv_bfloat16*>(x); }
__device__ inline const float* memory(const float* x) { return x; }

template <class T, Order order_a, Order order_b>
class Tile {
 public:
  static constexpr int kDepth = Shape<T>::kDepth;
  static constexpr int kElements = 8;

  __device__ void clear() { nvcuda::wmma::fill_fragment(sum_, 0.0f); }

  __device__ void multiply_add(const T* a, long lda, const T* b, long ldb) {
    namespace wmma = nvcuda::wmma;
    using In = typename Precision<T>::type;
    wmma::fragment<wmma::matrix_a, 16, 16, kDepth, In, typename Layout<order_a>::type> left;
    wmma::fragment<wmma::matrix_b, 16, 16, kDepth, In, typename Layout<order_b>::type> right;
    wmma::load_matrix_sync(left, memory(a), static_cast<unsigned>(lda));
    wmma::load_matrix_sync(right, memory(b), static_cast<unsigned>(ldb));
    if constexpr (sizeof(T) == 4) {
      EXPUNGE_UNROLL(8)
      for (int i = 0; i < left.num_elements; ++i) left.x[i] = wmma::__float_to_tf32(left.x[i]);
      EXPUNGE_UNROLL(8)
      for (int i = 0; i < right.num_elements; ++i) right.x[i] = wmma::__float_to_tf32(right.x[i]);
    }
    wmma::mma_sync(sum_, left, right, sum_);
  }

  __device__ void store(float* c, long ldc) const {
    nvcuda::wmma::store_matrix_sync(c, sum_, static_cast<unsigned>(ldc), nvcuda::wmma::mem_row_major);
    __syncwarp();
  }

  __device__ float element(int e) const { return sum_.x[e]; }

 private:
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, kDepth, float> sum_;
};

#endif

}  // namespace mma
}  // namespace
}  // namespace expunge
