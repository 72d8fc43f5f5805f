// Compiled once per instruction set into EXPUNGE_ISA_NS. Linear probes: forward, loss, residual and norm in one pass.
#include "grad_norms/exponential.hpp"
#include "grad_norms/grad_norms.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

constexpr long kRows = kProbeTileRows;
constexpr long kGroupColumns = 512;  // checkpoints are taken in groups of about so many logits
constexpr long kNarrow = 12;         // logits a row below which lanes run along features: no lane is left empty
constexpr long kNarrowTile = 5;      // of them at once: with two rows, as many sums as there are registers
constexpr long kResident = 131072;   // bytes of packed weights that stay in L2 beside the rows

struct Grouping {
  long classes, checkpoints, per_group, groups;
  Grouping(long classes_, long checkpoints_)
      : classes(classes_), checkpoints(checkpoints_), per_group(most(1, kGroupColumns / most(1, classes_))) {
    groups = (checkpoints + per_group - 1) / per_group;
  }
  EXPUNGE_INLINE long count(long group) const { return least(per_group, checkpoints - group * per_group); }
  template <class T>
  EXPUNGE_INLINE long panels(long group) const {
    return (count(group) * classes + kTileColumns<T> - 1) / kTileColumns<T>;
  }
};

template <class T>
long packed_length(const ProbeNorms<T>& call) {
  const Grouping grouping(call.classes, call.checkpoints);
  long panels = 0;
  for (long group = 0; group < grouping.groups; ++group) panels += grouping.panels<T>(group);
  return panels * call.d * kTileColumns<T> + 64;
}

template <class T>
bool narrow(const ProbeNorms<T>& call) {
  return call.checkpoints * call.classes <= kNarrow;
}

// Narrow: tile of columns by tile, vector of features by vector, column by column. Else group by group, block of
// features by block, panel by panel: (features of the block, kTileColumns).
template <class T>
void pack(const ProbeNorms<T>& call, T* packed, double* weight_squares) {
  const Grouping grouping(call.classes, call.checkpoints);
  const long size = call.d * call.classes;
  if (call.alpha != 0)
    for (long c = 0; c < call.checkpoints; ++c) weight_squares[c] = sum_squares(call.weights + c * size, size);
  if (narrow(call)) {
    constexpr long lanes = Simd<T>::lanes;
    const long columns = call.checkpoints * call.classes;
    for (long j0 = 0; j0 < columns; j0 += kNarrowTile)
      for (long first = 0; first < call.d; first += lanes)
        for (long j = j0; j < least(columns, j0 + kNarrowTile); ++j)
          for (long k = first; k < least(call.d, first + lanes); ++k)
            *packed++ = call.weights[j / call.classes * size + k * call.classes + j % call.classes];
    return;
  }
  for (long group = 0; group < grouping.groups; ++group) {
    const long columns = grouping.count(group) * call.classes;
    const T* weights = call.weights + group * grouping.per_group * size;
    for (long first = 0; first < call.d; first += kBlock) {
      const long last = least(call.d, first + kBlock);
      for (long j0 = 0; j0 < columns; j0 += kTileColumns<T>)
        for (long k = first; k < last; ++k)
          for (long j = j0; j < j0 + kTileColumns<T>; ++j)
            *packed++ = j < columns ? weights[j / call.classes * size + k * call.classes + j % call.classes] : T(0);
    }
  }
}

template <class T>
struct ProbeSpace {
  T* partial;
  double *logits, *row_squares;
  long columns;
  ProbeSpace(Arena& arena, const ProbeNorms<T>& call) {
    const Grouping grouping(call.classes, call.checkpoints);
    columns = round_up(least(grouping.per_group, call.checkpoints) * call.classes, kTileColumns<T>);
    partial = arena.take<T>(call.d > kBlock ? kRows * columns : 0);
    logits = arena.take<double>(kRows * columns);
    row_squares = arena.take<double>(kRows);
  }
};

template <class T>
long workspace_bytes(const ProbeNorms<T>& call) {
  Arena arena{nullptr};
  ProbeSpace<T>(arena, call);
  return arena.used;
}

// One register tile: partial sums stay in T until the last block of features, then go to logits[column, row].
template <int Rows, int Vectors, class T>
EXPUNGE_INLINE void logits_tile(const T* x, long d, const T* panel, long block, bool begins, bool ends, T* partial,
                                long stride, double* logits) {
  constexpr int lanes = Simd<T>::lanes;
  constexpr int width = kTileColumns<T>;
  PointerRows<T, Rows> rows;
  for (int i = 0; i < Rows; ++i) rows.row[i] = x + i * d;
  Tile<T, Rows, Vectors> tile;
  multiply(block, rows, panel, long{width}, tile);
  if (!begins)
    for (int i = 0; i < Rows; ++i)
      for (int v = 0; v < Vectors; ++v) tile.v[i][v] += load(partial + i * stride + v * lanes);
  if (ends) {
    T values[Rows][Vectors * lanes];
    for (int i = 0; i < Rows; ++i)
      for (int v = 0; v < Vectors; ++v) store(values[i] + v * lanes, tile.v[i][v]);
    for (int j = 0; j < Vectors * lanes; ++j)
      for (int i = 0; i < Rows; ++i) logits[j * kRows + i] = static_cast<double>(values[i][j]);
  } else {
    for (int i = 0; i < Rows; ++i)
      for (int v = 0; v < Vectors; ++v) store(partial + i * stride + v * lanes, tile.v[i][v]);
  }
}

// Sums over the lanes of each vector, in float64.
template <class T>
EXPUNGE_INLINE double reduce_wide(const typename Simd<T>::V& v) {
  Vd wide[kParts<T>];
  widen(v, wide);
  for (int part = 1; part < kParts<T>; ++part) wide[0] += wide[part];
  return reduce(wide[0]);
}

// logits[column, row] of Rows rows and one tile of columns, lanes along features; the squares of the rows and a
// prefetch of the rows that follow if First.
template <int Rows, int Columns, bool First, class T>
EXPUNGE_INLINE void narrow_tile(const T* x, long d, const T* weights, double* logits, double* row_squares) {
  typedef typename Simd<T>::V V;
  constexpr int lanes = Simd<T>::lanes;
  double totals[Rows][Columns], squares[Rows];
  for (int i = 0; i < Rows; ++i) {
    squares[i] = 0;
    for (int j = 0; j < Columns; ++j) totals[i][j] = 0;
  }
  const long whole = d / lanes * lanes;
  for (long first = 0; first < whole; first += 2 * kBlock) {
    const long last = least(whole, first + 2 * kBlock);
    V sums[Rows][Columns], own[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) {
      own[i] = V{};
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) sums[i][j] = V{};
    }
    for (long k = first; k < last; k += lanes) {
      V row[Rows];
#pragma GCC unroll 4
      for (int i = 0; i < Rows; ++i) {
        row[i] = load(x + i * d + k);
        if (First) {
          own[i] += row[i] * row[i];
          __builtin_prefetch(x + (2 * Rows + i) * d + k);  // a little at a time: a burst would wait for the memory
        }
      }
      const T* weight = weights + k * Columns;
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) {
        V w = load(weight + j * lanes);
        hold(w);
#pragma GCC unroll 4
        for (int i = 0; i < Rows; ++i) sums[i][j] += row[i] * w;
      }
    }
    for (int i = 0; i < Rows; ++i) {
      for (int j = 0; j < Columns; ++j) totals[i][j] += reduce_wide<T>(sums[i][j]);
      if (First) squares[i] += reduce_wide<T>(own[i]);
    }
  }
  const long rest = d - whole;
  for (long k = 0; k < rest; ++k)
    for (int i = 0; i < Rows; ++i) {
      const double value = static_cast<double>(x[i * d + whole + k]);
      if (First) squares[i] += value * value;
      for (int j = 0; j < Columns; ++j)
        totals[i][j] += value * static_cast<double>(weights[whole * Columns + j * rest + k]);
    }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) logits[j * kRows + i] = totals[i][j];
    // Short float32 sums are as good as float64 ones unless their squares leave the range of float32.
    if (First) {
      const bool safe = sizeof(T) == 8 || (squares[i] > 1e-25 && squares[i] < 1e30);
      row_squares[i] = safe ? squares[i] : sum_squares(x + i * d, d);
    }
  }
}

template <int Rows, class T>
EXPUNGE_INLINE void narrow_rows(const ProbeNorms<T>& call, const T* x, long columns, double* logits,
                                double* row_squares) {
  const long d = call.d;
  const T* weights = call.packed_weights;
  if (columns < kNarrowTile) {
    switch (columns) {
      case 1:
        narrow_tile<Rows, 1, true>(x, d, weights, logits, row_squares);
        return;
      case 2:
        narrow_tile<Rows, 2, true>(x, d, weights, logits, row_squares);
        return;
      case 3:
        narrow_tile<Rows, 3, true>(x, d, weights, logits, row_squares);
        return;
      default:
        narrow_tile<Rows, 4, true>(x, d, weights, logits, row_squares);
        return;
    }
  }
  narrow_tile<Rows, kNarrowTile, true>(x, d, weights, logits, row_squares);
  long j = kNarrowTile;
  for (; j + kNarrowTile <= columns; j += kNarrowTile)
    narrow_tile<Rows, kNarrowTile, false>(x, d, weights + j * d, logits + j * kRows, row_squares);
  weights += j * d;
  logits += j * kRows;
  switch (columns - j) {
    case 1:
      narrow_tile<Rows, 1, false>(x, d, weights, logits, row_squares);
      break;
    case 2:
      narrow_tile<Rows, 2, false>(x, d, weights, logits, row_squares);
      break;
    case 3:
      narrow_tile<Rows, 3, false>(x, d, weights, logits, row_squares);
      break;
    case 4:
      narrow_tile<Rows, 4, false>(x, d, weights, logits, row_squares);
      break;
    default:
      break;
  }
}

template <class T>
void narrow_logits(const ProbeNorms<T>& call, const T* x, long rows, long columns, const ProbeSpace<T>& space) {
  long r = 0;
  for (; r + 2 <= rows; r += 2) narrow_rows<2>(call, x + r * call.d, columns, space.logits + r, space.row_squares + r);
  if (r < rows) narrow_rows<1>(call, x + r * call.d, columns, space.logits + r, space.row_squares + r);
}

// logits[column, row] of one group of checkpoints for `rows` rows; row_squares too when asked.
template <class T>
void group_logits(const ProbeNorms<T>& call, const T* x, long rows, const T* packed, long columns, bool want_squares,
                  const ProbeSpace<T>& space) {
  constexpr int width = kTileColumns<T>;
  const RowTiles tiles(rows);
  const long panels = (columns + width - 1) / width;
  const auto block_tile = [&](long first, long p, long t) __attribute__((always_inline)) {
    const long block = least(kBlock, call.d - first);
    const T* panel = packed + (first * panels + p * block) * width;
    const bool ends = first + block == call.d;
    const long row = tiles.begin(t);
    with_height(tiles.height(t), [&](auto height) __attribute__((always_inline)) {
      constexpr int Rows = decltype(height)::value;
      T* partial = space.partial + row * space.columns + p * width;
      double* logits = space.logits + p * width * kRows + row;
      if (columns - p * width <= Simd<T>::lanes)
        logits_tile<Rows, 1>(x + row * call.d + first, call.d, panel, block, first == 0, ends, partial, space.columns,
                             logits);
      else
        logits_tile<Rows, 2>(x + row * call.d + first, call.d, panel, block, first == 0, ends, partial, space.columns,
                             logits);
    });
  };
  const auto squares = [&](long t) __attribute__((always_inline)) {
    for (long r = tiles.begin(t); r < tiles.begin(t + 1); ++r)
      space.row_squares[r] = sum_squares(x + r * call.d, call.d);
  };
  if (panels * width * call.d * static_cast<long>(sizeof(T)) <= kResident) {  // one stream through the rows
    for (long t = 0; t < tiles.tiles; ++t) {
      for (long first = 0; first < call.d; first += kBlock)
        for (long p = 0; p < panels; ++p) block_tile(first, p, t);
      if (want_squares) squares(t);
    }
    return;
  }
  for (long first = 0; first < call.d; first += kBlock)
    for (long p = 0; p < panels; ++p)
      for (long t = 0; t < tiles.tiles; ++t) block_tile(first, p, t);
  if (want_squares)
    for (long t = 0; t < tiles.tiles; ++t) squares(t);
}

// What the norm needs of the residual r of a row: |r|, sum_c r_c z_c, and a sum that is NaN if a logit is not finite.
struct Residual {
  Vd norm, along, check;
};

// p_c for c != y keep their digits however small they are, and 1 - p_y is their sum.
EXPUNGE_INLINE Residual softmax_residual(const double* logits, long classes, const Vd& own, const Bits& label) {
  const Vd minus_infinity = Vd{} - __builtin_inf();
  Vd top = minus_infinity, check = Vd{};
  for (long c = 0; c < classes; ++c) {
    const Vd z = load(logits + c * kRows);
    check += z * 0.0;
    const Vd other = select(label == c, minus_infinity, z);
    top = select(other > top, other, top);
  }
  Vd total = {}, squares = {}, along = {};
  for (long c = 0; c < classes; ++c) {
    const Vd z = load(logits + c * kRows);
    const Vd e = select(label == c, Vd{}, exp_nonpositive(z - top));
    total += e;
    squares += e * e;
    along += e * (z - own);
  }
  // p_c = e_c * factor, with the larger of p_y and max p_c as the unit.
  const Vd gap = own - top;
  const Bits sure = gap > 0;
  const Vd small = exp_nonpositive(select(sure, -gap, gap));
  const Vd factor = select(sure, small, Vd{} + 1.0) / select(sure, small * total + 1.0, total + small);
  const Vd inside = squares + total * total;
  Vd norm;
  for (int lane = 0; lane < Simd<double>::lanes; ++lane) norm[lane] = __builtin_sqrt(inside[lane]);
  return {factor * norm, factor * along, check};
}

// |sigmoid(z) - y| = sigmoid(s), s = z or -z: no 1 - p.
EXPUNGE_INLINE Residual logistic_residual(const double* logits, const Bits& label) {
  const Vd z = load(logits);
  const Bits positive = label != 0;
  const Vd s = select(positive, -z, z);
  const Bits above = s > 0;
  const Vd small = exp_nonpositive(select(above, -s, s));
  const Vd norm = select(above, Vd{} + 1.0, small) / (small + 1.0);
  return {norm, select(positive, -norm, norm) * z, z * 0.0};
}

// The residual itself, written to r[0..classes): for the rare record whose norm must be formed entry by entry.
template <class T>
void explicit_residual(const ProbeNorms<T>& call, const double* logits, long record, double* r, long stride) {
  if (call.loss == ProbeLoss::squared) {
    for (long c = 0; c < call.classes; ++c)
      r[c * stride] = logits[c * kRows] - static_cast<double>(call.targets[record * call.classes + c]);
    return;
  }
  if (call.loss == ProbeLoss::logistic) {
    const Bits label = Bits{} + call.labels[record];
    double z[Simd<double>::lanes];
    for (double& value : z) value = logits[0];
    const Residual residual = logistic_residual(z, label);
    r[0] = call.labels[record] != 0 ? -residual.norm[0] : residual.norm[0];
    return;
  }
  const long y = call.labels[record];
  double top = logits[0], total = 0, others = 0;
  for (long c = 1; c < call.classes; ++c) top = logits[c * kRows] > top ? logits[c * kRows] : top;
  for (long c = 0; c < call.classes; ++c) {
    const Vd e = exp_nonpositive(Vd{} + (logits[c * kRows] - top));
    r[c * stride] = e[0];
    total += e[0];
    if (c != y) others += e[0];
  }
  for (long c = 0; c < call.classes; ++c) r[c * stride] /= total;
  r[y * stride] = -others / total;
}

// ||x r^T + alpha W||^2 entry by entry, where its expansion cancels.
template <class T>
double direct_squares(const ProbeNorms<T>& call, const T* x, const T* weights, const double* r, long stride) {
  double squares = 0;
  for (long k = 0; k < call.d; ++k)
    for (long c = 0; c < call.classes; ++c) {
      const double entry =
          static_cast<double>(x[k]) * r[c * stride] + call.alpha * static_cast<double>(weights[k * call.classes + c]);
      squares += entry * entry;
    }
  return squares;
}

// Norms of `rows` rows for one group of checkpoints, from their logits.
template <class T>
void group_norms(const ProbeNorms<T>& call, const T* x, long record, long rows, long first_checkpoint, long count,
                 const ProbeSpace<T>& space) {
  constexpr int dlanes = Simd<double>::lanes;
  for (long r0 = 0; r0 < rows; r0 += dlanes) {
    const long lanes = least(dlanes, rows - r0);
    Bits label = {};
    if (call.loss != ProbeLoss::squared)
      for (long lane = 0; lane < lanes; ++lane) label[lane] = call.labels[record + r0 + lane];
    Vd row_squares = {};
    for (long lane = 0; lane < lanes; ++lane) row_squares[lane] = space.row_squares[r0 + lane];
    for (long n = 0; n < count; ++n) {
      double* logits = space.logits + n * call.classes * kRows + r0;
      const long checkpoint = first_checkpoint + n;
      Residual residual;
      if (call.loss == ProbeLoss::softmax) {
        Vd own = {};
        for (long lane = 0; lane < lanes; ++lane) own[lane] = logits[label[lane] * kRows + lane];
        residual = softmax_residual(logits, call.classes, own, label);
      } else if (call.loss == ProbeLoss::logistic) {
        residual = logistic_residual(logits, label);
      } else {
        Vd squares = {}, along = {};
        for (long c = 0; c < call.classes; ++c) {
          const Vd z = load(logits + c * kRows);
          Vd target = {};
          for (long lane = 0; lane < lanes; ++lane)
            target[lane] = static_cast<double>(call.targets[(record + r0 + lane) * call.classes + c]);
          squares += (z - target) * (z - target);
          along += (z - target) * z;
        }
        for (int lane = 0; lane < dlanes; ++lane) residual.norm[lane] = __builtin_sqrt(squares[lane]);
        residual.along = along;
        residual.check = Vd{};
      }
      for (long lane = 0; lane < lanes; ++lane) {
        const double norm = residual.norm[lane] + residual.check[lane];
        const double size = __builtin_sqrt(row_squares[lane]) * norm;
        double value = size;
        if (call.alpha != 0) {
          const double decay = call.alpha * call.alpha * call.weight_squares[checkpoint];
          double squares = size * size + 2 * call.alpha * residual.along[lane] + decay;
          if (squares < 0.01 * (size * size + decay)) {
            const T* weights = call.weights + checkpoint * call.d * call.classes;
            double* column =
                logits + lane;  // the logits of this record are not needed again: the residual replaces them
            explicit_residual(call, column, record + r0 + lane, column, kRows);
            squares = direct_squares(call, x + (r0 + lane) * call.d, weights, column, kRows);
          }
          value = finish(squares, false);
        }
        if (call.checkpoint_weights != nullptr)
          call.out[record + r0 + lane] += call.checkpoint_weights[checkpoint] * (value * value);
        else
          call.out[(record + r0 + lane) * call.checkpoints + checkpoint] = call.squared ? value * value : value;
      }
    }
  }
}

template <class T>
void norms(const ProbeNorms<T>& call, long begin, long end, char* workspace) {
  Arena arena{workspace};
  const ProbeSpace<T> space(arena, call);
  const Grouping grouping(call.classes, call.checkpoints);
  for (long record = begin; record < end; record += kRows) {
    const long rows = least(kRows, end - record);
    const T* x = call.x + record * call.d;
    if (call.checkpoint_weights != nullptr)
      for (long r = 0; r < rows; ++r) call.out[record + r] = 0;
    const T* packed = call.packed_weights;
    for (long group = 0; group < grouping.groups; ++group) {
      const long count = grouping.count(group);
      if (narrow(call))
        narrow_logits(call, x, rows, count * call.classes, space);
      else
        group_logits(call, x, rows, packed, count * call.classes, group == 0, space);
      group_norms(call, x, record, rows, group * grouping.per_group, count, space);
      packed += grouping.panels<T>(group) * call.d * kTileColumns<T>;
    }
  }
}

}  // namespace

extern const Both<ProbeKernels> probe_table = {
    {packed_length<float>, pack<float>, workspace_bytes<float>, norms<float>},
    {packed_length<double>, pack<double>, workspace_bytes<double>, norms<double>}};

}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
