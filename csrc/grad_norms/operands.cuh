// Where the two factors of a tile of products are found. An operand has `terms` terms and `width` rows or columns;
// load(k, m, out) gives four elements next to one another in memory: of one term, or of one row along the terms.
#pragma once

#include "common/async_copy.cuh"
#include "grad_norms/reductions.cuh"

namespace expunge::grad_norms::device {
namespace {

template <class In>
__device__ __forceinline__ bool four_at_once(const In* data, long stride) {
  constexpr int width = 16 / static_cast<int>(sizeof(In)) < 4 ? 16 / static_cast<int>(sizeof(In)) : 4;
  return stride % width == 0 && aligned(data, width * static_cast<int>(sizeof(In)));
}

template <class In, class A>
__device__ __forceinline__ void load_four(const In* p, A (&out)[4]) {
  constexpr int width = 16 / static_cast<int>(sizeof(In)) < 4 ? 16 / static_cast<int>(sizeof(In)) : 4;
  EXPUNGE_UNROLL(16)
  for (int i = 0; i < 4; i += width) {
    const Pack<In, width> values = *reinterpret_cast<const Pack<In, width>*>(p + i);
    EXPUNGE_UNROLL(16)
    for (int j = 0; j < width; ++j) out[i + j] = widened<A>(values.v[j]);
  }
}

// Element (k, m) is data[k * stride + m]: the factors of a linear layer in the product form.
template <class In>
struct AcrossRows {
  static constexpr bool along_terms = false;
  const In* data;
  long stride;
  int terms, width;
  bool whole, eight;

  __device__ __forceinline__ AcrossRows(const In* data_, long stride_, int terms_, int width_)
      : data(data_),
        stride(stride_),
        terms(terms_),
        width(width_),
        whole(four_at_once(data_, stride_)),
        eight(stride_ % 8 == 0 && aligned(data_, 16)) {}

  template <class A>
  __device__ __forceinline__ void load(int k, int m, A (&out)[4]) const {
    const In* p = data + k * stride + m;
    if (whole && k < terms && m + 3 < width) {
      load_four(p, out);
      return;
    }
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < 4; ++i) out[i] = k < terms && m + i < width ? widened<A>(p[i]) : A(0);
  }
  // Eight two-byte elements of one term on their way into shared memory, zeros past the matrix: there after a wait of
  // async_copy and a barrier.
  __device__ __forceinline__ void copy_eight(int k, int m, In* to) const {
    static_assert(sizeof(In) == 2, "eight of them are one copy");
    const int inside = k >= terms || m >= width ? 0 : width - m < 8 ? width - m : 8;
    const In* from = data + (inside > 0 ? k * stride + m : 0);
    if (eight) {
      async_copy::copy(to, from, inside * static_cast<int>(sizeof(In)));
      return;
    }
    EXPUNGE_UNROLL(8)
    for (int i = 0; i < 8; ++i) to[i] = i < inside ? from[i] : In{};
  }
};

// Element (k, m) is data[m * stride + k]: the factors of a linear layer in the Gram form.
template <class In>
struct AlongRows {
  static constexpr bool along_terms = true;
  const In* data;
  long stride;
  int terms, width;
  bool whole;

  __device__ __forceinline__ AlongRows(const In* data_, long stride_, int terms_, int width_)
      : data(data_), stride(stride_), terms(terms_), width(width_), whole(four_at_once(data_, stride_)) {}

  template <class A>
  __device__ __forceinline__ void load(int k, int m, A (&out)[4]) const {
    const In* p = data + m * stride + k;
    if (whole && m < width && k + 3 < terms) {
      load_four(p, out);
      return;
    }
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < 4; ++i) out[i] = m < width && k + i < terms ? widened<A>(p[i]) : A(0);
  }
};

// Implicit im2col: what kernel entry `feature` sees at output pixel `position`. Offsets lead into a padded image, and
// `table` says which pixel of the image that is: -1 for zero, less for none. What leads outside is NaN, never read.
template <class In>
struct Patches {
  const In* image;
  const int* table;
  const int *feature_offsets, *position_offsets;
  unsigned limit;  // entries of a padded image
  int features, positions;

  template <class A>
  __device__ __forceinline__ A at(int feature_offset, int position_offset) const {
    const unsigned place = static_cast<unsigned>(feature_offset) + static_cast<unsigned>(position_offset);
    const int source = place < limit ? table[place] : -2;
    A value = source == -1 ? A(0) : static_cast<A>(__builtin_nanf(""));
    if (source >= 0) value = widened<A>(image[source]);
    return value;
  }
};

// Terms are positions, columns are features: the product form of a convolution.
template <class In>
struct PatchesAlongTerms {
  static constexpr bool along_terms = true;
  Patches<In> patches;

  template <class A>
  __device__ __forceinline__ void load(int k, int m, A (&out)[4]) const {
    const int feature = m < patches.features ? patches.feature_offsets[m] : 0;
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < 4; ++i)
      out[i] = m < patches.features && k + i < patches.positions
                   ? patches.template at<A>(feature, patches.position_offsets[k + i])
                   : A(0);
  }
};

// Terms are features, columns are positions: the Gram form of a convolution.
template <class In>
struct PatchesAcrossTerms {
  static constexpr bool along_terms = false;
  Patches<In> patches;

  template <class A>
  __device__ __forceinline__ void load(int k, int m, A (&out)[4]) const {
    const int feature = k < patches.features ? patches.feature_offsets[k] : 0;
    EXPUNGE_UNROLL(16)
    for (int i = 0; i < 4; ++i)
      out[i] = k < patches.features && m + i < patches.positions
                   ? patches.template at<A>(feature, patches.position_offsets[m + i])
                   : A(0);
  }
};

}  // namespace
}  // namespace expunge::grad_norms::device
