// Matrix products of the sizes that small networks have, on one thread. Internal linkage only.
#pragma once

#include "common/lanes.hpp"

namespace expunge::ensemble::EXPUNGE_ISA_NS {
namespace {

template <class T>
constexpr long kWide = Lanes<T>::W;
constexpr int kTall = EXPUNGE_VECTOR_BYTES == 64 ? 8 : 4;  // rows of a tile, as registers allow

constexpr long up_to(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }
EXPUNGE_INLINE long smaller(long a, long b) { return a < b ? a : b; }
EXPUNGE_INLINE long larger(long a, long b) { return a < b ? b : a; }

// The left matrix: entry (i, t) is at[i row + t term], and behind every `terms` of them the next is `jump` further on.
template <class T>
struct Left {
  const T* at;
  long row, term, terms, outer, jump;
  Left(const T* where, long rows_apart, long terms_apart, long count, long times = 1, long further = 0)
      : at(where), row(rows_apart), term(terms_apart), terms(count), outer(times), jump(further) {}
  Left below(long rows) const {
    Left left = *this;
    left.at += rows * row;
    return left;
  }
};

// c (Rows, columns) += a b, b (terms, ldb) with whole vectors; the last vector of c may have fewer columns.
template <int Rows, int Vectors, class T>
EXPUNGE_INLINE void tile(const Left<T>& a, const T* b, long ldb, T* c, long ldc, long columns, bool add) {
  using L = Lanes<T>;
  typename L::F sums[Rows][Vectors];
  const bool whole = columns == Vectors * L::W;
  T part[Vectors * L::W];
  for (int i = 0; i < Rows; ++i) {
    const T* from = c + i * ldc;
    if (!whole && add) {
      for (long j = 0; j < Vectors * L::W; ++j) part[j] = j < columns ? from[j] : T(0);
      from = part;
    }
    for (int v = 0; v < Vectors; ++v) sums[i][v] = add ? L::load(from + v * L::W) : typename L::F{};
  }
  const T* left = a.at;
  const long row = a.row, term = a.term;
  for (long u = 0; u < a.outer; ++u, left += a.jump)
    for (long t = 0; t < a.terms; ++t, b += ldb, left += term) {
      typename L::F right[Vectors];
      for (int v = 0; v < Vectors; ++v) right[v] = L::load(b + v * L::W);
      for (int i = 0; i < Rows; ++i) {
        const typename L::F x = L::splat(left[i * row]);
        for (int v = 0; v < Vectors; ++v) sums[i][v] += x * right[v];
      }
    }
  for (int i = 0; i < Rows; ++i) {
    T* to = whole ? c + i * ldc : part;
    for (int v = 0; v < Vectors; ++v) L::store(to + v * L::W, sums[i][v]);
    if (!whole)
      for (long j = 0; j < columns; ++j) c[i * ldc + j] = part[j];
  }
}

template <int Rows>
struct Height {
  static constexpr int rows = Rows;
};

template <int Vectors, class T>
inline void strip(const Left<T>& a, long rows, const T* b, long ldb, T* c, long ldc, long columns, bool add) {
  // One vector wide, tiles are twice as tall: sums wait for those before them.
  constexpr int tall = Vectors == 1 ? 2 * kTall : kTall;
  long i = 0;
  const auto take = [&](auto height) __attribute__((always_inline)) {
    constexpr int Rows = decltype(height)::rows;
    tile<Rows, Vectors>(a.below(i), b, ldb, c + i * ldc, ldc, columns, add);
    i += Rows;
  };
  while (rows - i >= tall) take(Height<tall>());
  if (rows - i == kTall + 1) return take(Height<kTall + 1>());  // a row alone would take as long as all others
  if (rows - i >= kTall) take(Height<kTall>());
  if (rows - i >= kTall / 2) take(Height<kTall / 2>());
  while (rows - i >= 2) take(Height<2>());
  if (i < rows) take(Height<1>());
}

// c (rows, columns) = a b, or added to it. Rows of b are `ldb` apart, and may be read up to a whole number of vectors.
template <class T>
inline void product(const Left<T>& a, long rows, const T* b, long ldb, T* c, long ldc, long columns, bool add) {
  constexpr long W = kWide<T>;
  long j = 0;
  for (; j + 2 * W <= columns && columns - j != 3 * W; j += 2 * W)
    strip<2>(a, rows, b + j, ldb, c + j, ldc, 2 * W, add);
  if (columns - j == 3 * W) return strip<3>(a, rows, b + j, ldb, c + j, ldc, 3 * W, add);
  for (; j < columns; j += W) strip<1>(a, rows, b + j, ldb, c + j, ldc, smaller(columns - j, W), add);
}

constexpr long kPanelTerms = 64, kPanelColumns = 128;

// The same for a large b, of which nothing behind its last column is read: a part at a time is copied together.
template <class T>
inline void large_product(const T* a, long row, long term, long rows, const T* b, long terms, T* c, long columns,
                          bool add) {
  T panel[kPanelTerms * kPanelColumns];
  for (long t = 0; t < terms; t += kPanelTerms) {
    const long few = smaller(terms - t, kPanelTerms);
    for (long j = 0; j < columns; j += kPanelColumns) {
      const long some = smaller(columns - j, kPanelColumns);
      for (long k = 0; k < few; ++k) {
        memcpy(panel + k * kPanelColumns, b + (t + k) * columns + j, sizeof(T) * static_cast<size_t>(some));
        for (long i = some; i < up_to(some, kWide<T>); ++i) panel[k * kPanelColumns + i] = T(0);
      }
      for (long i = 0; i < rows; i += kTall)
        product(Left<T>(a + i * row + t * term, row, term, few), smaller(rows - i, kTall), panel, kPanelColumns,
                c + i * columns + j, columns, some, add || t > 0);
    }
  }
}

template <class T>
EXPUNGE_INLINE T sum_of(typename Lanes<T>::F x) {
  T sum = 0;
  for (long k = 0; k < Lanes<T>::W; ++k) sum += x[k];
  return sum;
}

// Adds terms of the transposed product: rows of a and of b are `lda` apart.
template <int Rows, int Columns, class T>
EXPUNGE_INLINE void dots_tile(const T* a, const T* b, long lda, long terms, T* c, long ldc) {
  using L = Lanes<T>;
  typename L::F sums[Rows][Columns] = {};
  long t = 0;
  for (; t + L::W <= terms; t += L::W) {
    typename L::F right[Columns];
    for (int j = 0; j < Columns; ++j) right[j] = L::load(b + j * lda + t);
    for (int i = 0; i < Rows; ++i) {
      const typename L::F x = L::load(a + i * lda + t);
      for (int j = 0; j < Columns; ++j) sums[i][j] += x * right[j];
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) {
      T sum = sum_of<T>(sums[i][j]);
      for (long k = t; k < terms; ++k) sum += a[i * lda + k] * b[j * lda + k];
      c[i * ldc + j] += sum;
    }
}

constexpr int kAcross = EXPUNGE_VECTOR_BYTES == 64 ? 4 : 2;
constexpr long kDotTerms = 512;  // of all rows at once, which then stay in the nearest cache

// c (rows, columns) = a (rows, terms) times the transpose of b (columns, terms), plus a bias.
template <class T>
inline void dots(const T* a, long rows, const T* b, long columns, long terms, T* c, const T* bias) {
  for (long i = 0; i < rows; ++i)
    for (long j = 0; j < columns; ++j) c[i * columns + j] = bias == nullptr ? T(0) : bias[j];
  for (long t = 0; t < terms; t += kDotTerms) {
    const long few = smaller(terms - t, kDotTerms);
    for (long j = 0; j < columns;) {
      const bool wide = columns - j >= kAcross;
      const T* right = b + j * terms + t;
      for (long i = 0; i < rows;) {
        const bool tall = rows - i >= 4;
        const T* left = a + i * terms + t;
        T* to = c + i * columns + j;
        if (tall && wide)
          dots_tile<4, kAcross>(left, right, terms, few, to, columns);
        else if (tall)
          dots_tile<4, 1>(left, right, terms, few, to, columns);
        else if (wide)
          dots_tile<1, kAcross>(left, right, terms, few, to, columns);
        else
          dots_tile<1, 1>(left, right, terms, few, to, columns);
        i += tall ? 4 : 1;
      }
      j += wide ? kAcross : 1;
    }
  }
}

}  // namespace
}  // namespace expunge::ensemble::EXPUNGE_ISA_NS
