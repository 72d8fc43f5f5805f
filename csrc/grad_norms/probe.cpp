// Compiled once per instruction set into EXPUNGE_ISA_NS. Linear probes: forward, loss, residual and norm in one pass.
#include "grad_norms/grad_norms.hpp"
#include "grad_norms/probe_narrow.hpp"
#include "grad_norms/probe_residual.hpp"
#include "grad_norms/probe_space.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

constexpr long kResident = 131072;  // bytes of packed weights that stay in L2 beside the rows

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
    constexpr long lanes = Lanes<T>::W;
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
long workspace_bytes(const ProbeNorms<T>& call) {
  Arena arena{nullptr};
  ProbeSpace<T>(arena, call);
  return arena.used;
}

// One register tile: partial sums stay in T until the last block of features, then go to logits[column, row].
template <int Rows, int Vectors, class T>
EXPUNGE_INLINE void logits_tile(const T* x, long d, const T* panel, long block, bool begins, bool ends, T* partial,
                                long stride, double* logits) {
  constexpr int lanes = Lanes<T>::W;
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
      if (columns - p * width <= Lanes<T>::W)
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
