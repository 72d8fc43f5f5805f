// Logits of a few columns, lanes along features: each row is read from memory once, and the next ones meanwhile.
// Internal linkage only.
#pragma once

#include "grad_norms/packing.hpp"
#include "grad_norms/probe_space.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

constexpr long kNarrow = 12;      // logits a row below which lanes run along features: no lane is left empty
constexpr long kNarrowTile = 5;   // of them at once: with two rows, as many sums as there are registers
constexpr long kNarrowBlock = 512;  // features summed in T before they go to float64: each lane adds a part of them
constexpr long kAhead = 8192;     // bytes between what is read and what is asked for

// totals[0..side) += sums over the lanes of `side` vectors, added pairwise in T.
template <class T>
EXPUNGE_INLINE typename Square<T>::V fold(const typename Lanes<T>::F& v) {
  typedef typename Square<T>::V Q;
  union {
    typename Lanes<T>::F whole;
    Q parts[EXPUNGE_VECTOR_BYTES / 16];
  } split;
  split.whole = v;
  Q sum = split.parts[0];
#pragma GCC unroll 4
  for (int part = 1; part < EXPUNGE_VECTOR_BYTES / 16; ++part) sum += split.parts[part];
  return sum;
}

EXPUNGE_INLINE void add_lane_sums(const F32* v, double* totals) {
  typedef Square<float>::V Q;
  using I [[maybe_unused]] = Square<float>::I;
  const Q a = fold<float>(v[0]), b = fold<float>(v[1]), c = fold<float>(v[2]), d = fold<float>(v[3]);
  const Q ab = EXPUNGE_SHUFFLE(I, a, b, 0, 4, 1, 5) + EXPUNGE_SHUFFLE(I, a, b, 2, 6, 3, 7);
  const Q cd = EXPUNGE_SHUFFLE(I, c, d, 0, 4, 1, 5) + EXPUNGE_SHUFFLE(I, c, d, 2, 6, 3, 7);
  const Q all = EXPUNGE_SHUFFLE(I, ab, cd, 0, 1, 4, 5) + EXPUNGE_SHUFFLE(I, ab, cd, 2, 3, 6, 7);
  for (int i = 0; i < 4; ++i) totals[i] += static_cast<double>(all[i]);
}

EXPUNGE_INLINE void add_lane_sums(const F64* v, double* totals) {
  typedef Square<double>::V Q;
  using I [[maybe_unused]] = Square<double>::I;
  const Q a = fold<double>(v[0]), b = fold<double>(v[1]);
  *reinterpret_cast<Q*>(totals) += EXPUNGE_SHUFFLE(I, a, b, 0, 2) + EXPUNGE_SHUFFLE(I, a, b, 1, 3);
}

// logits[column, row] of Rows rows and one tile of columns; the squares of the rows if First. `ahead` points to Ahead
// rows to ask the memory for: a little at a time, for a burst would wait.
template <int Rows, int Columns, bool First, int Ahead, class T>
EXPUNGE_INLINE void narrow_tile(const T* x, long d, const T* ahead, const T* weights, double* logits,
                                double* row_squares) {
  typedef typename Lanes<T>::F V;
  constexpr int lanes = Lanes<T>::W;
  constexpr int side = Square<T>::side;
  constexpr int used = Rows * Columns + (First ? Rows : 0);  // sums of row i and column j, then squares
  constexpr int count = (used + side - 1) / side * side;
  double totals[count] = {};
  const long whole = d / lanes * lanes;
  for (long first = 0; first < whole; first += kNarrowBlock) {
    const long last = least(whole, first + kNarrowBlock);
    V sums[count];
#pragma GCC unroll 16
    for (int s = 0; s < count; ++s) sums[s] = V{};
    for (long k = first; k < last; k += lanes) {
      V row[Rows];
#pragma GCC unroll 4
      for (int i = 0; i < Rows; ++i) {
        row[i] = load(x + i * d + k);
        if (First) sums[Columns * Rows + i] += row[i] * row[i];
        if (i < Ahead) __builtin_prefetch(ahead + i * d + k);
      }
      const T* weight = weights + k * Columns;
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) {
        V w = load(weight + j * lanes);
        hold(w);
#pragma GCC unroll 4
        for (int i = 0; i < Rows; ++i) sums[j * Rows + i] += row[i] * w;
      }
    }
#pragma GCC unroll 16
    for (int s = 0; s < count; s += side) add_lane_sums(sums + s, totals + s);
  }
  const long rest = d - whole;
  for (long k = 0; k < rest; ++k)
    for (int i = 0; i < Rows; ++i) {
      const double value = static_cast<double>(x[i * d + whole + k]);
      if (First) totals[Columns * Rows + i] += value * value;
      for (int j = 0; j < Columns; ++j)
        totals[j * Rows + i] += value * static_cast<double>(weights[whole * Columns + j * rest + k]);
    }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) logits[j * kRows + i] = totals[j * Rows + i];
    // Short float32 sums are as good as float64 ones unless their squares leave the range of float32.
    if (First) {
      const double squares = totals[Columns * Rows + i];
      const bool safe = sizeof(T) == 8 || (squares > 1e-25 && squares < 1e30);
      row_squares[i] = safe ? squares : sum_squares(x + i * d, d);
    }
  }
}

// The last 1 .. kNarrowTile - 1 columns.
template <int Rows, bool First, int Ahead, class T>
EXPUNGE_INLINE void narrow_rest(const T* x, long d, const T* ahead, long columns, const T* weights, double* logits,
                                double* row_squares) {
  switch (columns) {
    case 1: narrow_tile<Rows, 1, First, Ahead>(x, d, ahead, weights, logits, row_squares); break;
    case 2: narrow_tile<Rows, 2, First, Ahead>(x, d, ahead, weights, logits, row_squares); break;
    case 3: narrow_tile<Rows, 3, First, Ahead>(x, d, ahead, weights, logits, row_squares); break;
    case 4: narrow_tile<Rows, 4, First, Ahead>(x, d, ahead, weights, logits, row_squares); break;
    default: break;
  }
}

template <int Rows, class T>
EXPUNGE_INLINE void narrow_rows(const ProbeNorms<T>& call, const T* x, const T* ahead, long columns, double* logits,
                                double* row_squares) {
  const long d = call.d;
  const T* weights = call.packed_weights;
  constexpr int half = Rows / 2;  // rows asked for in the second tile
  if (columns < kNarrowTile) {
    narrow_rest<Rows, true, Rows>(x, d, ahead, columns, weights, logits, row_squares);
    return;
  }
  if (columns == kNarrowTile) {
    narrow_tile<Rows, kNarrowTile, true, Rows>(x, d, ahead, weights, logits, row_squares);
    return;
  }
  narrow_tile<Rows, kNarrowTile, true, Rows - half>(x, d, ahead, weights, logits, row_squares);
  ahead += (Rows - half) * d;
  weights += kNarrowTile * d;
  logits += kNarrowTile * kRows;
  columns -= kNarrowTile;
  if (columns < kNarrowTile) {
    narrow_rest<Rows, false, half>(x, d, ahead, columns, weights, logits, row_squares);
    return;
  }
  narrow_tile<Rows, kNarrowTile, false, half>(x, d, ahead, weights, logits, row_squares);
  narrow_rest<Rows, false, 0>(x, d, ahead, columns - kNarrowTile, weights + kNarrowTile * d,
                              logits + kNarrowTile * kRows, row_squares);
}

template <class T>
void narrow_logits(const ProbeNorms<T>& call, const T* x, long rows, long columns, const ProbeSpace<T>& space) {
  static_assert(kNarrow < 3 * kNarrowTile, "three tiles hold all columns");
  const long pairs = most(1, kAhead / (2 * call.d * static_cast<long>(sizeof(T))));
  const long ahead = 2 * pairs * call.d;
  long r = 0;
  for (; r + 2 <= rows; r += 2) {
    const T* from = x + r * call.d;
    narrow_rows<2>(call, from, from + ahead, columns, space.logits + r, space.row_squares + r);
  }
  const T* from = x + r * call.d;
  if (r < rows) narrow_rows<1>(call, from, from + ahead, columns, space.logits + r, space.row_squares + r);
}

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
