// Copies of one example into the layouts the register tiles read, and the Gram form on them. Internal linkage only.
#pragma once

#include "grad_norms/tiles.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

// Leading dimension for n columns: whole cache lines, an odd number of them, so that columns do not share L1 sets.
template <class T>
EXPUNGE_INLINE long padded_length(long n) {
  const long line = 64 / static_cast<long>(sizeof(T));
  const long lines = (n + kTileColumns<T> + line - 1) / line;
  return (lines | 1) * line;
}

// (terms, rows) matrix -> one panel of adjacent values per row tile. A few terms at a time, so that memory is read in
// order and once.
template <class T>
inline void pack_rows(const T* x, long stride, long terms, const RowTiles& tiles, T* packed) {
  constexpr long few = 16;
  for (long first = 0; first < terms; first += few) {
    const long last = least(first + few, terms);
    for (long t = 0; t < tiles.tiles; ++t) {
      const T* from = x + tiles.begin(t);
      T* to = packed + tiles.begin(t) * terms;
      with_height(tiles.height(t), [&](auto height) __attribute__((always_inline)) {
        constexpr int Rows = decltype(height)::value;
        for (long k = first; k < last; ++k) __builtin_memcpy(to + k * Rows, from + k * stride, Rows * sizeof(T));
      });
    }
  }
}

template <class T>
struct PackedTiles {
  const RowTiles& tiles;
  const T* packed;
  long terms;
  template <int Rows>
  EXPUNGE_INLINE PackedRows<T, Rows> operator()(long tile, Int<Rows>, long first) const {
    return {packed + tiles.begin(tile) * terms + first * Rows};
  }
};

// (terms, columns) matrix -> (terms, kTileColumns), missing columns zero.
template <class T>
inline void pack_columns(const T* x, long stride, long terms, long columns, T* packed) {
  constexpr int width = kTileColumns<T>;
  if (columns == width) {
    for (long k = 0; k < terms; ++k)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) store(packed + k * width + v * Lanes<T>::W, load(x + k * stride + v * Lanes<T>::W));
    return;
  }
  for (long k = 0; k < terms; ++k)
    for (long j = 0; j < width; ++j) packed[k * width + j] = j < columns ? x[k * stride + j] : T(0);
}

// Squares of 16-byte vectors, transposed in registers: row r of x, stride apart, becomes column r.
template <class T>
struct Square;
template <>
struct Square<float> {
  typedef float V __attribute__((vector_size(16), aligned(4), may_alias));
  typedef std::int32_t I __attribute__((vector_size(16)));
  static constexpr int side = 4;
  static EXPUNGE_INLINE void transpose(const float* x, long stride, float* out, long out_stride) {
    const V a = *reinterpret_cast<const V*>(x), b = *reinterpret_cast<const V*>(x + stride);
    const V c = *reinterpret_cast<const V*>(x + 2 * stride), d = *reinterpret_cast<const V*>(x + 3 * stride);
    const V ab = EXPUNGE_SHUFFLE(I, a, b, 0, 4, 1, 5), cd = EXPUNGE_SHUFFLE(I, c, d, 0, 4, 1, 5);
    const V AB = EXPUNGE_SHUFFLE(I, a, b, 2, 6, 3, 7), CD = EXPUNGE_SHUFFLE(I, c, d, 2, 6, 3, 7);
    *reinterpret_cast<V*>(out) = EXPUNGE_SHUFFLE(I, ab, cd, 0, 1, 4, 5);
    *reinterpret_cast<V*>(out + out_stride) = EXPUNGE_SHUFFLE(I, ab, cd, 2, 3, 6, 7);
    *reinterpret_cast<V*>(out + 2 * out_stride) = EXPUNGE_SHUFFLE(I, AB, CD, 0, 1, 4, 5);
    *reinterpret_cast<V*>(out + 3 * out_stride) = EXPUNGE_SHUFFLE(I, AB, CD, 2, 3, 6, 7);
  }
};
template <>
struct Square<double> {
  typedef double V __attribute__((vector_size(16), aligned(8), may_alias));
  typedef std::int64_t I __attribute__((vector_size(16)));
  static constexpr int side = 2;
  static EXPUNGE_INLINE void transpose(const double* x, long stride, double* out, long out_stride) {
    const V a = *reinterpret_cast<const V*>(x), b = *reinterpret_cast<const V*>(x + stride);
    *reinterpret_cast<V*>(out) = EXPUNGE_SHUFFLE(I, a, b, 0, 2);
    *reinterpret_cast<V*>(out + out_stride) = EXPUNGE_SHUFFLE(I, a, b, 1, 3);
  }
};

// A whole vector of columns, four terms of them: as many squares side by side.
#if defined(__AVX512F__)
typedef __m512 Pieces;
EXPUNGE_INLINE Pieces four_terms(const float* x, long stride) {  // of rows 0, 4, 8 and 12
  Pieces v = _mm512_castps128_ps512(_mm_loadu_ps(x));
  v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(x + 4 * stride), 1);
  v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(x + 8 * stride), 2);
  return _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(x + 12 * stride), 3);
}
EXPUNGE_INLINE Pieces zip_low(Pieces a, Pieces b) { return _mm512_maskz_unpacklo_ps(0xffff, a, b); }
EXPUNGE_INLINE Pieces zip_high(Pieces a, Pieces b) { return _mm512_maskz_unpackhi_ps(0xffff, a, b); }
EXPUNGE_INLINE void put_low(float* out, Pieces a, Pieces b) {
  _mm512_storeu_pd(out, _mm512_maskz_unpacklo_pd(0xff, _mm512_castps_pd(a), _mm512_castps_pd(b)));
}
EXPUNGE_INLINE void put_high(float* out, Pieces a, Pieces b) {
  _mm512_storeu_pd(out, _mm512_maskz_unpackhi_pd(0xff, _mm512_castps_pd(a), _mm512_castps_pd(b)));
}
#elif defined(__AVX2__)
typedef __m256 Pieces;
EXPUNGE_INLINE Pieces four_terms(const float* x, long stride) {  // of rows 0 and 4
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x)), _mm_loadu_ps(x + 4 * stride), 1);
}
EXPUNGE_INLINE Pieces zip_low(Pieces a, Pieces b) { return _mm256_unpacklo_ps(a, b); }
EXPUNGE_INLINE Pieces zip_high(Pieces a, Pieces b) { return _mm256_unpackhi_ps(a, b); }
EXPUNGE_INLINE void put_low(float* out, Pieces a, Pieces b) {
  _mm256_storeu_ps(out, _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))));
}
EXPUNGE_INLINE void put_high(float* out, Pieces a, Pieces b) {
  _mm256_storeu_ps(out, _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))));
}
#endif

// Packs the whole vectors of columns among the first `columns`, and returns how many columns those are.
template <class T>
EXPUNGE_INLINE long pack_whole_vectors(const T*, long, long, long, T*) {
  return 0;
}
#if defined(__AVX2__)
EXPUNGE_INLINE long pack_whole_vectors(const float* x, long stride, long even_terms, long columns, float* packed) {
  constexpr int width = kTileColumns<float>;
  constexpr int lanes = Lanes<float>::W;
  long j = 0;
  for (; j + lanes <= columns; j += lanes)
    for (long k = 0; k < even_terms; k += 4) {
      const float* from = x + j * stride + k;
      float* to = packed + k * width + j;
      const Pieces a = four_terms(from, stride), b = four_terms(from + stride, stride);
      const Pieces c = four_terms(from + 2 * stride, stride), d = four_terms(from + 3 * stride, stride);
      const Pieces ab = zip_low(a, b), cd = zip_low(c, d), AB = zip_high(a, b), CD = zip_high(c, d);
      put_low(to, ab, cd);
      put_high(to + width, ab, cd);
      put_low(to + 2 * width, AB, CD);
      put_high(to + 3 * width, AB, CD);
    }
  return j;
}
#endif

// (columns, terms) matrix -> (terms, kTileColumns): the same panel from the transposed matrix.
template <class T>
inline void pack_columns_transposed(const T* x, long stride, long terms, long columns, T* packed) {
  constexpr int width = kTileColumns<T>;
  constexpr int side = Square<T>::side;
  const long even_columns = columns / side * side, even_terms = terms / side * side;
  const long whole = pack_whole_vectors(x, stride, even_terms, columns, packed);
  for (long k = 0; k < even_terms; k += side)
    for (long j = whole; j < even_columns; j += side)
      Square<T>::transpose(x + j * stride + k, stride, packed + k * width + j, width);
  for (long k = even_terms; k < terms; ++k)
    for (long j = 0; j < even_columns; ++j) packed[k * width + j] = x[j * stride + k];
  for (long k = 0; k < terms; ++k) {
    for (long j = even_columns; j < columns; ++j) packed[k * width + j] = x[j * stride + k];
    for (long j = columns; j < width; ++j) packed[k * width + j] = T(0);
  }
}

// (rows, columns) matrix -> (columns, length) transposed copy of type S, entries past `rows` zero.
template <class S, class T>
inline void transpose(const T* x, long rows, long columns, long length, S* out) {
  long r = 0;
  for (; r + 8 <= rows; r += 8)
    for (long c = 0; c < columns; ++c)
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) out[c * length + r + i] = static_cast<S>(x[(r + i) * columns + c]);
  for (; r < rows; ++r)
    for (long c = 0; c < columns; ++c) out[c * length + r] = static_cast<S>(x[r * columns + c]);
  for (long c = 0; c < columns; ++c)
    for (long i = rows; i < length; ++i) out[c * length + i] = S(0);
}

template <class T>
struct StridedTiles {
  const RowTiles& tiles;
  const T* columns;
  long length;
  EXPUNGE_INLINE StridedRows<T> operator()(long tile, long first) const {
    return {columns + first * length + tiles.begin(tile), length};
  }
  template <int Rows>
  EXPUNGE_INLINE StridedRows<T> operator()(long tile, Int<Rows>, long first) const {
    return (*this)(tile, first);
  }
};

// One side of a Gram form: transposed copies (d_in, length) and (d_out, length) of the factors, squares of their rows.
template <class T>
struct GramSide {
  const T *inputs, *outputs;
  long positions, length;
  const double *input_squares, *output_squares;
  EXPUNGE_INLINE StridedTiles<T> input_rows(const RowTiles& tiles) const { return {tiles, inputs, length}; }
  EXPUNGE_INLINE StridedTiles<T> output_rows(const RowTiles& tiles) const { return {tiles, outputs, length}; }
  EXPUNGE_INLINE Panel<T> input_panel(long j, long columns) const { return {inputs + j, length, columns}; }
  EXPUNGE_INLINE Panel<T> output_panel(long j, long columns) const { return {outputs + j, length, columns}; }
};

// The rows of a matrix as tile rows, where they are.
template <class T>
struct RowsInPlace {
  const RowTiles& tiles;
  const T* x;
  long length;
  template <int Rows>
  EXPUNGE_INLINE PointerRows<T, Rows> operator()(long tile, Int<Rows>, long first) const {
    PointerRows<T, Rows> rows;
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) rows.row[i] = x + (tiles.begin(tile) + i) * length + first;
    return rows;
  }
};

// The same from the factors themselves, (positions, d_in) and (positions, d_out): only panels are copied.
template <class T>
struct FactorSide {
  const T *inputs, *outputs;
  long d_in, d_out, positions;
  T *input_space, *output_space;
  const double *input_squares, *output_squares;
  EXPUNGE_INLINE RowsInPlace<T> input_rows(const RowTiles& tiles) const { return {tiles, inputs, d_in}; }
  EXPUNGE_INLINE RowsInPlace<T> output_rows(const RowTiles& tiles) const { return {tiles, outputs, d_out}; }
  EXPUNGE_INLINE Panel<T> input_panel(long j, long columns) const {
    pack_columns_transposed(inputs + j * d_in, d_in, d_in, columns, input_space);
    return {input_space, kTileColumns<T>, columns};
  }
  EXPUNGE_INLINE Panel<T> output_panel(long j, long columns) const {
    pack_columns_transposed(outputs + j * d_out, d_out, d_out, columns, output_space);
    return {output_space, kTileColumns<T>, columns};
  }
};

template <class T>
inline void column_squares(const T* x, long terms, long columns, long length, double* out) {
  for (long j = 0; j < columns; ++j) out[j] = 0;
  for (long k = 0; k < terms; ++k)
    for (long j = 0; j < columns; ++j) {
      const double value = static_cast<double>(x[k * length + j]);
      out[j] += value * value;
    }
}

// Sum over pairs of positions, one of each side. With Symmetric both sides are the same: upper triangle, counted twice.
// Without Spread the squares of the rows are not read: the Gram matrices' diagonals take their place, and spread is its
// bound 2 trace^2.
template <bool Symmetric, bool Spread, class T, class Side>
inline GramSum gram(const Side& left, const Side& right, long d_in, long d_out, double* strip_in, double* strip_out) {
  constexpr int width = kTileColumns<T>;
  constexpr int dlanes = kLanes;
  const RowTiles tiles(left.positions);
  GramSum result;
  F64 value = {}, spread = {};
  double squares = 0;
  const auto add_position = [&](double a2, double g2) __attribute__((always_inline)) {
    result.trace += a2 * g2;
    squares += a2 + g2;
  };
  I64 lane;
  for (int l = 0; l < dlanes; ++l) lane[l] = l;
  for (long j0 = 0; j0 < right.positions; j0 += width) {
    const long columns = least(width, right.positions - j0);
    long used = tiles.tiles;
    if (Symmetric)
      while (used > 0 && tiles.begin(used - 1) >= j0 + columns) --used;
    // Rows past the first vector of columns lie below the diagonal there.
    const long narrow_from = Symmetric ? j0 + Lanes<T>::W : left.positions;
    strip_products(tiles, used, d_in, right.input_panel(j0, columns), left.input_rows(tiles), narrow_from, strip_in);
    strip_products(tiles, used, d_out, right.output_panel(j0, columns), left.output_rows(tiles), narrow_from,
                   strip_out);
    const long rows = tiles.begin(used);
    for (long i = 0; i < rows; ++i)
      for (long j = i < narrow_from ? 0 : Lanes<T>::W; j < columns; j += dlanes) {
        const F64 a = load(strip_in + i * width + j), g = load(strip_out + i * width + j);  // zero past the end
        F64 weight = F64{} + (Symmetric ? 2.0 : 1.0);
        if (Symmetric && i >= j0) {  // once on the diagonal, never below it
          const I64 column = lane + (j0 + j);
          weight = __builtin_convertvector(-((column > i) + (column >= i)), F64);
        }
        value += weight * (a * g);
        if (!Spread) continue;
        const F64 a2 = load(right.input_squares + j0 + j), g2 = load(right.output_squares + j0 + j);
        spread += weight * (left.input_squares[i] * (a2 * (g * g)) + left.output_squares[i] * (g2 * (a * a)));
      }
    if (!Spread)
      for (long j = 0; j < columns; ++j) add_position(strip_in[(j0 + j) * width + j], strip_out[(j0 + j) * width + j]);
  }
  if (Spread)
    for (long i = 0; i < left.positions; ++i) add_position(left.input_squares[i], left.output_squares[i]);
  result.value = reduce(value);
  result.spread = Spread ? reduce(spread) : 2 * result.trace * result.trace;
  if (Symmetric) result.lost = lost_to_underflow<T>(left.positions, most(d_in, d_out), squares);
  return result;
}

// The same for one side. The bound of its spread mostly settles that it is trustworthy; only where it does not does
// square_rows() fill in the squares of the rows.
template <class T, class Side, class SquareRows>
inline GramSum half_gram(const Side& side, long d_in, long d_out, double* strip_in, double* strip_out,
                         const SquareRows& square_rows) {
  const GramSum quick = gram<true, false, T>(side, side, d_in, d_out, strip_in, strip_out);
  if (quick.trustworthy(kGramLimit<T>)) return quick;
  square_rows();
  return gram<true, true, T>(side, side, d_in, d_out, strip_in, strip_out);
}

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
