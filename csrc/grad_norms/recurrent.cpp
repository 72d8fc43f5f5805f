// Compiled once per instruction set into EXPUNGE_ISA_NS. Recurrent layers: a few sequences at a time go through all
// steps, so that their states stay in the caches; the product with the state before and the gates are one pass.
#include "grad_norms/recurrent.hpp"

#include <cstring>

#include "common/vector_math.hpp"
#include "grad_norms/tiles.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

#if defined(__AVX512F__)
constexpr int kStateRows = 6;  // sequences of one register tile
#else
constexpr int kStateRows = 2;
#endif
constexpr int kMostVectors = 4;  // of columns, of one register tile

// --- activations ----------------------------------------------------------------------------------

// Sigmoid and tanh to a few units in the last place, on vectors of T.
template <class T>
struct Activations {
  using P = Lanes<T>;
  typedef typename P::F V;
  typedef typename P::U Words;
  static constexpr T lowest = sizeof(T) == 8 ? -708 : -87, highest = sizeof(T) == 8 ? 709 : 88;
  static constexpr T flat = sizeof(T) == 8 ? 20 : 10;  // tanh is 1 from here on

  EXPUNGE_INLINE static V one() { return P::splat(1); }

  EXPUNGE_INLINE static V sigmoid(const V& x) {
    const V top = P::splat(highest), bottom = P::splat(lowest);
    V y = -x;
    y = y > top ? top : y;  // false for a NaN
    y = y < bottom ? bottom : y;
    V scale, rest;
    vm::exp_parts<P>(y, &scale, &rest);
    const V found = T(1) / ((scale * rest + scale) + T(1));
    return x < -top ? V{} : found;
  }

  // From exp(-2|x|) - 1, which keeps its digits where x is small.
  EXPUNGE_INLINE static V tanh(const V& x) {
    const Words mask = bits_as<Words>(P::splat(T(-0.0)));
    const Words sign = bits_as<Words>(x) & mask;
    const V most_size = P::splat(flat);
    V size = bits_as<V>(bits_as<Words>(x) ^ sign);
    size = size > most_size ? most_size : size;
    V scale, rest;
    vm::exp_parts<P>(T(-2) * size, &scale, &rest);
    const V less_one = scale * rest + (scale - T(1));
    const V found = less_one / (less_one + T(2));
    return bits_as<V>((bits_as<Words>(found) & ~mask) | sign);
  }

  EXPUNGE_INLINE static V ramp(const V& x) { return x < V{} ? V{} : x; }
  EXPUNGE_INLINE static V step(const V& x) { return x > V{} ? one() : x * T(0); }
};

// The first `count` lanes; the others are 0.
template <class T>
EXPUNGE_INLINE typename Lanes<T>::F load_some(const T* p, long count) {
  if (count >= Lanes<T>::W) return load(p);
  typename Lanes<T>::F v = {};
  std::memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(T));
  return v;
}

template <class T>
EXPUNGE_INLINE void store_some(T* p, const typename Lanes<T>::F& v, long count) {
  if (count >= Lanes<T>::W)
    store(p, v);
  else
    std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(T));
}

// --- products -------------------------------------------------------------------------------------

// out (Rows, Vectors) = panel's first row + rows (Rows, terms) times the rest of it.
template <int Rows, int Vectors, class T>
__attribute__((noinline)) void products(long terms, const T* rows, long stride, const T* panel, T* out) {
  typedef typename Lanes<T>::F V;
  constexpr int lanes = Lanes<T>::W;
  V sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[i][v] = load(panel + v * lanes);
  for (long k = 0; k < terms; ++k) {
    panel += Vectors * lanes;
    V columns[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) columns[v] = load(panel + v * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const T multiplier = rows[i * stride + k];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[i][v] += multiplier * columns[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + (i * Vectors + v) * lanes, sums[i][v]);
}

template <int Vectors, class T>
void products_of(int height, long terms, const T* rows, long stride, const T* panel, T* out) {
  switch (height) {
    case 1: return products<1, Vectors>(terms, rows, stride, panel, out);
    case 2: return products<2, Vectors>(terms, rows, stride, panel, out);
#if defined(__AVX512F__)
    case 3: return products<3, Vectors>(terms, rows, stride, panel, out);
    case 4: return products<4, Vectors>(terms, rows, stride, panel, out);
    case 5: return products<5, Vectors>(terms, rows, stride, panel, out);
    case 6: return products<6, Vectors>(terms, rows, stride, panel, out);
#endif
    default: return;
  }
}

template <class T>
void products_of(int height, long vectors, long terms, const T* rows, long stride, const T* panel, T* out) {
  switch (vectors) {
    case 1: return products_of<1>(height, terms, rows, stride, panel, out);
    case 2: return products_of<2>(height, terms, rows, stride, panel, out);
    case 3: return products_of<3>(height, terms, rows, stride, panel, out);
    case 4: return products_of<4>(height, terms, rows, stride, panel, out);
    default: return;
  }
}

// Columns in panels of up to kMostVectors vectors: `groups` of them lie beside one another for the same units.
template <class T>
struct Panels {
  long width, groups, terms;

  EXPUNGE_INLINE long units() const { return kMostVectors / groups * Lanes<T>::W; }  // of a whole panel
  EXPUNGE_INLINE long count() const { return (width + units() - 1) / units(); }
  EXPUNGE_INLINE long first(long panel) const { return panel * units(); }
  EXPUNGE_INLINE long blocks(long panel) const {  // vectors of units
    return (least(units(), width - first(panel)) + Lanes<T>::W - 1) / Lanes<T>::W;
  }
  EXPUNGE_INLINE long begin(long panel) const { return panel * (1 + terms) * groups * units(); }
  EXPUNGE_INLINE long length() const { return count() * (1 + terms) * groups * units(); }
};

// Rows of nearly equal height.
struct StateTiles {
  long rows, tiles;
  explicit StateTiles(long n) : rows(n), tiles((n + kStateRows - 1) / kStateRows) {}
  EXPUNGE_INLINE long begin(long tile) const { return rows * tile / tiles; }
};

// Calls body(first row, rows, panel) for every product of a tile of sequences with a panel.
template <class T, class Body>
EXPUNGE_INLINE void over_products(const Panels<T>& panels, long sequences, const Body& body) {
  const StateTiles tiles(sequences);
  for (long panel = 0; panel < panels.count(); ++panel)
    for (long tile = 0; tile < tiles.tiles; ++tile)
      body(tiles.begin(tile), static_cast<int>(tiles.begin(tile + 1) - tiles.begin(tile)), panel);
}

template <class T>
EXPUNGE_INLINE T* take_strip(Arena& arena) {
  return arena.take<T>(kStateRows * kMostVectors * Lanes<T>::W);
}

// --- forward --------------------------------------------------------------------------------------

template <class T>
Panels<T> panels_of(const RecurrentStates<T>& call) {
  return {call.layer.width, gates_of(call.layer.cell), call.layer.width};
}

template <class T>
long states_packed_length(const RecurrentStates<T>& call) {
  return panels_of(call).length();
}

// Panels of all gates of some units, the bias in front.
template <class T>
void states_pack(const RecurrentStates<T>& call, T* packed) {
  constexpr long lanes = Lanes<T>::W;
  const Panels<T> panels = panels_of(call);
  const long width = panels.width;
  for (long panel = 0; panel < panels.count(); ++panel) {
    const long blocks = panels.blocks(panel), columns = panels.groups * blocks * lanes;
    T* const to = packed + panels.begin(panel);
    for (long column = 0; column < columns; ++column) {
      const long gate = column / (blocks * lanes), unit = panels.first(panel) + column % (blocks * lanes);
      const bool meant = unit < width;
      const T* const from = call.layer.weight + (gate * width + unit) * width;
      to[column] = meant && call.bias != nullptr ? call.bias[gate * width + unit] : T(0);
      for (long k = 0; k < width; ++k) to[(1 + k) * columns + column] = meant ? from[k] : T(0);
    }
  }
}

template <class T>
struct StatesSpace {
  T *now, *next, *cells, *strip;
  long stride;
  StatesSpace(Arena& arena, long width) : stride(round_up(width, Lanes<T>::W)) {
    now = arena.take<T>(kTileSequences * stride);
    next = arena.take<T>(kTileSequences * stride);
    cells = arena.take<T>(kTileSequences * stride);
    strip = take_strip<T>(arena);
  }
};

template <class T>
long states_workspace(const RecurrentStates<T>& call) {
  Arena arena{nullptr};
  StatesSpace<T>(arena, call.layer.width);
  return arena.used;
}

// Rows (n, width) between memory and a workspace, whose rows are `stride` long and end in zeros.
template <class T>
inline void copy_rows_in(const T* from, long n, long width, long stride, T* to) {
  for (long i = 0; i < n; ++i) {
    std::memcpy(to + i * stride, from + i * width, static_cast<std::size_t>(width) * sizeof(T));
    for (long j = width; j < stride; ++j) to[i * stride + j] = T(0);
  }
}

template <class T>
inline void copy_rows_out(const T* from, long n, long width, long stride, T* to, long to_stride) {
  for (long i = 0; i < n; ++i)
    std::memcpy(to + i * to_stride, from + i * stride, static_cast<std::size_t>(width) * sizeof(T));
}

template <template <class> class Cell, class T>
void states_of(const RecurrentStates<T>& call, long begin, long end, char* workspace) {
  typedef Cell<Activations<T>> C;
  typedef typename Lanes<T>::F V;
  constexpr long lanes = Lanes<T>::W;
  constexpr int gates = C::gates;
  const RecurrentLayer<T>& layer = call.layer;
  const long width = layer.width, steps = layer.steps;
  const Panels<T> panels = panels_of(call);
  Arena arena{workspace};
  StatesSpace<T> space(arena, width);
  const long stride = space.stride;
  const bool keeps_cells = layer.cells != nullptr;
  const long ahead = (layer.backwards ? -1 : 1) * gates * width;  // from a step's gates to the next one's
  for (long first = begin; first < end; first += kTileSequences) {
    const long n = least(kTileSequences, end - first);
    copy_rows_in(call.hidden + first * width, n, width, stride, space.now);
    if (keeps_cells) copy_rows_in(layer.cells + first * width, n, width, stride, space.cells);
    for (long step = 0; step < steps; ++step) {
      const long t = layer.backwards ? steps - 1 - step : step;
      copy_rows_out(space.now, n, width, stride, call.before + (first * steps + t) * width, steps * width);
      over_products(panels, n, [&](long row, int height, long panel) __attribute__((always_inline)) {
        const long blocks = panels.blocks(panel), vectors = gates * blocks;
        products_of(height, vectors, width, space.now + row * stride, stride, layer.packed + panels.begin(panel),
                    space.strip);
        for (long i = row; i < row + height; ++i) {
          const T* const found = space.strip + (i - row) * vectors * lanes;
          const long place = (first + i) * steps + t;  // of this sequence's step
          for (long block = 0; block < blocks; ++block) {
            const long unit = panels.first(panel) + block * lanes, count = least(lanes, width - unit);
            T* const gate = call.gates + place * gates * width + unit;
            T* const held = space.cells + i * stride + unit;
            V sums[gates], parts[gates];
#pragma GCC unroll 4
            for (int g = 0; g < gates; ++g) {
              sums[g] = load_some(gate + g * width, count);
              parts[g] = load(found + (g * blocks + block) * lanes);
              __builtin_prefetch(gate + ahead + g * width, 1);
            }
            V kept = keeps_cells ? load(held) : V{};
            const V state = C::forward(sums, parts, load(space.now + i * stride + unit), kept);
#pragma GCC unroll 4
            for (int g = 0; g < gates; ++g) store_some(gate + g * width, sums[g], count);
            if (keeps_cells) store(held, kept);
            if (call.kept != nullptr) store_some(call.kept + place * width + unit, kept, count);
            store(space.next + i * stride + unit, state);
            store_some(call.outputs + (t * call.sequences + first + i) * width + unit, state, count);
          }
        }
      });
      T* const spare = space.now;
      space.now = space.next;
      space.next = spare;
    }
  }
}

// --- backward -------------------------------------------------------------------------------------

template <class T>
Panels<T> panels_of(const RecurrentGrads<T>& call) {
  return {call.layer.width, 1, gates_of(call.layer.cell) * call.layer.width};
}

template <class T>
long grads_packed_length(const RecurrentGrads<T>& call) {
  return panels_of(call).length();
}

// Panels of columns of the weight, zeros in front.
template <class T>
void grads_pack(const RecurrentGrads<T>& call, T* packed) {
  const Panels<T> panels = panels_of(call);
  for (long panel = 0; panel < panels.count(); ++panel) {
    const long columns = panels.blocks(panel) * Lanes<T>::W, first = panels.first(panel);
    const long meant = least(columns, panels.width - first);
    T* to = packed + panels.begin(panel);
    for (long j = 0; j < columns; ++j) to[j] = T(0);
    for (long k = 0; k < panels.terms; ++k) {
      to += columns;
      std::memcpy(to, call.layer.weight + k * panels.width + first, static_cast<std::size_t>(meant) * sizeof(T));
      for (long j = meant; j < columns; ++j) to[j] = T(0);
    }
  }
}

template <class T>
struct GradsSpace {
  T *hidden, *cells, *gates, *strip;
  long stride, gate_stride;
  GradsSpace(Arena& arena, long width, long gates_width)
      : stride(round_up(width, Lanes<T>::W)), gate_stride(round_up(gates_width, Lanes<T>::W)) {
    hidden = arena.take<T>(kTileSequences * stride);
    cells = arena.take<T>(kTileSequences * stride);
    gates = arena.take<T>(kTileSequences * gate_stride);
    strip = take_strip<T>(arena);
  }
};

template <class T>
long grads_workspace(const RecurrentGrads<T>& call) {
  Arena arena{nullptr};
  GradsSpace<T>(arena, call.layer.width, panels_of(call).terms);
  return arena.used;
}

template <template <class> class Cell, class T>
void grads_of(const RecurrentGrads<T>& call, long begin, long end, char* workspace) {
  typedef Cell<Activations<T>> C;
  typedef typename Lanes<T>::F V;
  constexpr long lanes = Lanes<T>::W;
  constexpr int gates = C::gates;
  const RecurrentLayer<T>& layer = call.layer;
  const long width = layer.width, steps = layer.steps, all = gates * width;
  const Panels<T> panels = panels_of(call);
  Arena arena{workspace};
  const GradsSpace<T> space(arena, width, all);
  const long stride = space.stride;
  const bool has_cells = layer.cells != nullptr;
  const long back = layer.backwards ? 1 : -1;  // from a step to the one before it
  for (long first = begin; first < end; first += kTileSequences) {
    const long n = least(kTileSequences, end - first);
    copy_rows_in(call.hidden_grads + first * width, n, width, stride, space.hidden);
    if (has_cells) copy_rows_in(call.cell_grads + first * width, n, width, stride, space.cells);
    for (long step = steps - 1; step >= 0; --step) {
      const long t = layer.backwards ? steps - 1 - step : step;
      for (long i = 0; i < n; ++i) {
        const long place = (first + i) * steps + t;
        const T* const cells_before = step > 0 ? call.kept + (place + back) * width : layer.cells + (first + i) * width;
        for (long unit = 0; unit < width; unit += lanes) {
          const long count = least(lanes, width - unit);
          const T* const from = call.gates + place * all + unit;
          V gate[gates], grads[gates], state_grads[gates];
#pragma GCC unroll 4
          for (int g = 0; g < gates; ++g) {
            gate[g] = load_some(from + g * width, count);
            __builtin_prefetch(from + back * all + g * width);
          }
          V before = {}, cell_before = {}, kept = {}, cell_grad = {};
          if (C::separate) before = load_some(call.before + place * width + unit, count);
          if (call.kept != nullptr) kept = load_some(call.kept + place * width + unit, count);
          if (has_cells) {
            cell_before = load_some(cells_before + unit, count);
            cell_grad = load(space.cells + i * stride + unit);
          }
          T* const hidden = space.hidden + i * stride + unit;
          const V grad = load(hidden) + load_some(call.output_grads + place * width + unit, count);
          __builtin_prefetch(call.output_grads + (place + back) * width + unit);
          store(hidden, C::backward(gate, before, cell_before, kept, grad, cell_grad, grads, state_grads));
          if (has_cells) store(space.cells + i * stride + unit, cell_grad);
          T* const to = call.gate_grads + place * all + unit;
          T* const held = space.gates + i * space.gate_stride + unit;
#pragma GCC unroll 4
          for (int g = 0; g < gates; ++g) {
            store_some(to + g * width, grads[g], count);
            store_some(held + g * width, C::separate ? state_grads[g] : grads[g], count);
            if (C::separate) store_some(call.state_gate_grads + place * all + g * width + unit, state_grads[g], count);
          }
        }
      }
      over_products(panels, n, [&](long row, int height, long panel) __attribute__((always_inline)) {
        const long vectors = panels.blocks(panel);
        products_of(height, vectors, all, space.gates + row * space.gate_stride, space.gate_stride,
                    layer.packed + panels.begin(panel), space.strip);
        for (long i = 0; i < height; ++i) {
          T* const to = space.hidden + (row + i) * stride + panels.first(panel);
          for (long v = 0; v < vectors; ++v)
            store(to + v * lanes, load(to + v * lanes) + load(space.strip + (i * vectors + v) * lanes));
        }
      });
    }
    copy_rows_out(space.hidden, n, width, stride, call.hidden_grads + first * width, width);
    if (has_cells) copy_rows_out(space.cells, n, width, stride, call.cell_grads + first * width, width);
  }
}

template <class T>
void states(const RecurrentStates<T>& call, long begin, long end, char* workspace) {
  switch (call.layer.cell) {
    case CellKind::lstm: return states_of<LstmCell>(call, begin, end, workspace);
    case CellKind::gru: return states_of<GruCell>(call, begin, end, workspace);
    case CellKind::tanh: return states_of<TanhCell>(call, begin, end, workspace);
    case CellKind::relu: return states_of<ReluCell>(call, begin, end, workspace);
  }
}

template <class T>
void grads(const RecurrentGrads<T>& call, long begin, long end, char* workspace) {
  switch (call.layer.cell) {
    case CellKind::lstm: return grads_of<LstmCell>(call, begin, end, workspace);
    case CellKind::gru: return grads_of<GruCell>(call, begin, end, workspace);
    case CellKind::tanh: return grads_of<TanhCell>(call, begin, end, workspace);
    case CellKind::relu: return grads_of<ReluCell>(call, begin, end, workspace);
  }
}

template <class T>
constexpr RecurrentKernels<T> kernels() {
  return {states_packed_length<T>, states_pack<T>, states_workspace<T>, states<T>,
          grads_packed_length<T>,  grads_pack<T>,  grads_workspace<T>,  grads<T>};
}

}  // namespace

extern const Both<RecurrentKernels> recurrent_table = {kernels<float>(), kernels<double>()};

}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
