// Register tiles shared by the gradient-norm kernels: C[rows, columns] = sum_k a(k, row) b[k, column].
// Included by per-instruction-set sources only: everything has internal linkage.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/lanes.hpp"
#include "grad_norms/grad_norms_math.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

constexpr int kTileRows = EXPUNGE_VECTOR_BYTES == 64 ? 8 : 6;

// Half a vector of float32: as many as a vector of float64 has.
typedef float HalfF32 __attribute__((vector_size(EXPUNGE_VECTOR_BYTES / 2)));

template <class T>
constexpr int kTileColumns = 2 * Lanes<T>::W;

template <int N>
struct Int {
  static constexpr int value = N;
};

template <class T>
EXPUNGE_INLINE typename Lanes<T>::F load(const T* p) {
  return Lanes<T>::load(p);
}

template <class T>
EXPUNGE_INLINE void store(T* p, const typename Lanes<T>::F& v) {
  Lanes<T>::store(p, v);
}

// The lanes of v as float64, in kParts vectors.
template <class T>
constexpr int kParts = sizeof(double) / sizeof(T);

// GCC 12 converts 512 bits in pieces and glues them together. The zero-masked forms are the same instructions; the
// plain ones make it warn about its own headers.
EXPUNGE_INLINE F64 to_double(const HalfF32& v) {
#if defined(__AVX512F__)
  return reinterpret_cast<F64>(_mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(v)));
#else
  return __builtin_convertvector(v, F64);
#endif
}

EXPUNGE_INLINE void widen(const F64& v, F64 (&out)[1]) { out[0] = v; }
EXPUNGE_INLINE void widen(const F32& v, F64 (&out)[2]) {
#if defined(__AVX512F__)
  const __m512 whole = reinterpret_cast<__m512>(v);
  out[0] = to_double(reinterpret_cast<HalfF32>(_mm512_maskz_extractf32x8_ps(0xff, whole, 0)));
  out[1] = to_double(reinterpret_cast<HalfF32>(_mm512_maskz_extractf32x8_ps(0xff, whole, 1)));
#else
  union {
    F32 whole;
    HalfF32 half[2];
  } parts;
  parts.whole = v;
  out[0] = to_double(parts.half[0]);
  out[1] = to_double(parts.half[1]);
#endif
}

// The same from memory, which takes no shuffles.
EXPUNGE_INLINE void load_wide(const double* p, F64 (&out)[1]) { out[0] = load(p); }
EXPUNGE_INLINE void load_wide(const float* p, F64 (&out)[2]) {
  for (int part = 0; part < 2; ++part) {
    HalfF32 half;
    memcpy(&half, p + part * kLanes, sizeof half);
    out[part] = to_double(half);
  }
}

// By halves: one lane after the other would run at the latency of an addition.
EXPUNGE_INLINE double reduce(const F64& v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m512d whole = reinterpret_cast<__m512d>(v);
  const __m256d four =
      _mm256_add_pd(_mm512_maskz_extractf64x4_pd(0xf, whole, 0), _mm512_maskz_extractf64x4_pd(0xf, whole, 1));
#else
  const __m256d four = reinterpret_cast<__m256d>(v);
#endif
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += v[lane];
  return total;
#endif
}

// Holds v in a register: the compiler would read it from memory again for every use, and loads are what limits.
template <class V>
EXPUNGE_INLINE void hold(V& v) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(v));
#elif defined(__x86_64__)
  __asm__("" : "+x"(v));
#else
  (void)v;
#endif
}

// Keeps the first `count` lanes and zeroes the others, whatever is in them.
template <class T>
EXPUNGE_INLINE void keep_first(typename Lanes<T>::F& v, long count) {
  using Number = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
  typename Lanes<T>::I lane;
  for (int i = 0; i < Lanes<T>::W; ++i) lane[i] = i;
  typename Lanes<T>::I kept = lane < static_cast<Number>(count);
  v = reinterpret_cast<typename Lanes<T>::F>(reinterpret_cast<typename Lanes<T>::I>(v) & kept);
}

EXPUNGE_INLINE long least(long a, long b) { return a < b ? a : b; }
EXPUNGE_INLINE long most(long a, long b) { return a > b ? a : b; }
EXPUNGE_INLINE long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

// Hands out 64-byte aligned pieces of one workspace; with base null it only counts.
struct Arena {
  char* base;
  long used = 0;
  template <class T>
  EXPUNGE_INLINE T* take(long count) {
    T* piece = reinterpret_cast<T*>(base + used);
    used += round_up(count * static_cast<long>(sizeof(T)), 64) + 64;  // one line of slack for whole-vector reads
    return piece;
  }
};

// Rows are split into tiles of nearly equal height: a tile of one row would run at the latency of its additions.
struct RowTiles {
  long rows, tiles;
  explicit RowTiles(long n) : rows(n), tiles((n + kTileRows - 1) / kTileRows) {}
  EXPUNGE_INLINE long begin(long tile) const { return rows * tile / tiles; }
  EXPUNGE_INLINE int height(long tile) const { return static_cast<int>(begin(tile + 1) - begin(tile)); }
};

// Where the multiplier of term k and tile row i is found.
template <class T, int Rows>
struct PackedRows {  // panels of Rows adjacent values
  const T* panel;
  EXPUNGE_INLINE T at(long k, int i) const { return panel[k * Rows + i]; }
};
template <class T>
struct StridedRows {
  const T* first;
  long stride;
  EXPUNGE_INLINE T at(long k, int i) const { return first[k * stride + i]; }
};
template <class T, int Rows>
struct PointerRows {  // one contiguous row each
  const T* row[Rows];
  EXPUNGE_INLINE T at(long k, int i) const { return row[i][k]; }
};
template <class T, int Rows>
struct GatherRows {  // implicit im2col: feature i at position k
  const T* feature[Rows];
  const int* position;
  EXPUNGE_INLINE T at(long k, int i) const { return feature[i][position[k]]; }
};

template <class T, int Rows, int Vectors>
struct Tile {
  typename Lanes<T>::F v[Rows][Vectors];
};

// Two matrices that are wanted soon: a product reads them into the second cache, a little with every term.
class Ahead {
 public:
  EXPUNGE_INLINE Ahead() {}
  // All of both within `terms` terms, if that takes no more than a line a term.
  template <class T>
  EXPUNGE_INLINE Ahead(const T* first, long n_first, const T* second, long n_second, long terms)
      : now(reinterpret_cast<const char*>(first)),
        end(reinterpret_cast<const char*>(first + n_first)),
        then(reinterpret_cast<const char*>(second)),
        then_end(reinterpret_cast<const char*>(second + n_second)),
        bytes_a_term(least(64, (n_first + n_second) * static_cast<long>(sizeof(T)) / most(terms, 1) + 1)) {}

  // Where the next `terms` terms read, a step further each; `idle`, which is cached, once all has been read.
  EXPUNGE_INLINE const char* take(long terms, const void* idle) {
    if (now >= end) {
      now = then;
      end = then_end;
      then = then_end = nullptr;
    }
    if (now >= end) {
      bytes_a_term = 0;
      return static_cast<const char*>(idle);
    }
    const char* from = now;
    now += terms * bytes_a_term;
    return from;
  }
  EXPUNGE_INLINE long step() const { return bytes_a_term; }

 private:
  const char *now = nullptr, *end = nullptr, *then = nullptr, *then_end = nullptr;
  long bytes_a_term = 0;
};

template <bool Fetch, int Rows, int Vectors, class T, class A>
EXPUNGE_INLINE void multiply_fetching(long terms, const A& a, const T* EXPUNGE_RESTRICT b, long stride,
                                      Tile<T, Rows, Vectors>& tile, const char* ahead, long step) {
  typedef typename Lanes<T>::F V;
  constexpr int lanes = Lanes<T>::W;
  V sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) sums[i][v] = V{};
  for (long k = 0; k < terms; ++k) {
    V columns[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) columns[v] = load(b + k * stride + v * lanes);
    if (Fetch) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += step;
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const T multiplier = a.at(k, i);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sums[i][v] += multiplier * columns[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) tile.v[i][v] = sums[i][v];
}

template <int Rows, int Vectors, class T, class A>
EXPUNGE_INLINE void multiply(long terms, const A& a, const T* b, long stride, Tile<T, Rows, Vectors>& tile) {
  multiply_fetching<false>(terms, a, b, stride, tile, nullptr, 0);
}

template <int Rows, int Vectors, class T, class A>
EXPUNGE_INLINE void multiply(long terms, const A& a, const T* b, long stride, Tile<T, Rows, Vectors>& tile,
                             Ahead& ahead) {
  const char* from = ahead.take(terms, b);
  multiply_fetching<true>(terms, a, b, stride, tile, from, ahead.step());
}

// Packed rows by a call: inlined among the sums around it, GCC keeps a vector of columns on the stack.
template <int Rows, int Vectors, class T>
__attribute__((noinline)) void multiply_packed(long terms, const T* a, const T* b, long stride,
                                               Tile<T, Rows, Vectors>& tile, const char* ahead, long step) {
  multiply_fetching<true>(terms, PackedRows<T, Rows>{a}, b, stride, tile, ahead, step);
}

template <int Rows, int Vectors, class T>
EXPUNGE_INLINE void multiply(long terms, const PackedRows<T, Rows>& a, const T* b, long stride,
                             Tile<T, Rows, Vectors>& tile, Ahead& ahead) {
  const char* from = ahead.take(terms, b);
  multiply_packed<Rows, Vectors, T>(terms, a.panel, b, stride, tile, from, ahead.step());
}

// Calls body(Int<height>) for a height known only at run time.
template <class Body>
EXPUNGE_INLINE void with_height(int height, const Body& body) {
  switch (height) {
    case 1: body(Int<1>{}); break;
    case 2: body(Int<2>{}); break;
    case 3: body(Int<3>{}); break;
    case 4: body(Int<4>{}); break;
    case 5: body(Int<5>{}); break;
    case 6: body(Int<6>{}); break;
#if defined(__AVX512F__)
    case 7: body(Int<7>{}); break;
    case 8: body(Int<8>{}); break;
#endif
    default: break;
  }
}

// A panel of the vector side: `terms` rows of 1 or 2 vectors, of which `columns` lanes are meant.
template <class T>
struct Panel {
  const T* data;
  long stride, columns;
};

// Sum over tiles of the squares of sum_k a(k, row) panel[k, column]. rows_at(tile, Int<height>, first_term) gives a().
// `strip` holds rows x kTileColumns float64 values; it is used only for more than kBlock terms. `ahead` is read on the
// way.
template <int Vectors, class T, class RowsAt>
EXPUNGE_INLINE double panel_squares(const RowTiles& tiles, long terms, const Panel<T>& panel, const RowsAt& rows_at,
                                    double* strip, Ahead& ahead) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  constexpr int dlanes = kLanes;
  const long last = panel.columns - (Vectors - 1) * lanes;
  F64 total[Vectors * parts];  // independent sums: one chain would run at the latency of its additions
  for (int i = 0; i < Vectors * parts; ++i) total[i] = F64{};
  for (long first = 0; first < terms; first += kBlock) {
    const long block = least(kBlock, terms - first);
    const bool ends = first + block == terms;
    for (long t = 0; t < tiles.tiles; ++t) {
      with_height(tiles.height(t), [&](auto height) __attribute__((always_inline)) {
        constexpr int Rows = decltype(height)::value;
        Tile<T, Rows, Vectors> tile;
        multiply(block, rows_at(t, height, first), panel.data + first * panel.stride, panel.stride, tile, ahead);
        double* held = strip + tiles.begin(t) * kTileColumns<T>;
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; ++v) {
            if (ends && v == Vectors - 1) keep_first<T>(tile.v[i][v], last);
            F64 wide[parts];
            widen(tile.v[i][v], wide);
#pragma GCC unroll 2
            for (int part = 0; part < parts; ++part) {
              double* slot = held + i * kTileColumns<T> + v * lanes + part * dlanes;
              if (first > 0) wide[part] += load(slot);
              if (ends) {
                total[v * parts + part] += wide[part] * wide[part];
              } else {
                if (v == Vectors - 1) {  // a lane that is not meant may hold anything, now and at the end
                  long meant = last - part * dlanes;
                  keep_first<double>(wide[part], meant);
                }
                store(slot, wide[part]);
              }
            }
          }
      });
    }
  }
  for (int i = 1; i < Vectors * parts; ++i) total[0] += total[i];
  return reduce(total[0]);
}

// One tile of the products below: `held` (float64, kTileColumns wide) = what it was, unless fresh, + the tile.
template <int Rows, int Vectors, class T, class A>
EXPUNGE_INLINE void tile_products(long terms, const A& rows, const T* columns, long stride, bool fresh, double* held) {
  constexpr int parts = kParts<T>;
  Tile<T, Rows, Vectors> tile;
  multiply(terms, rows, columns, stride, tile);
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      F64 wide[parts];
      widen(tile.v[i][v], wide);
#pragma GCC unroll 2
      for (int part = 0; part < parts; ++part) {
        double* slot = held + i * kTileColumns<T> + v * Lanes<T>::W + part * kLanes;
        if (!fresh) wide[part] += load(slot);
        store(slot, wide[part]);
      }
    }
}

// strip[row, column] (kTileColumns wide, float64) = sum_k a(k, row) panel[k, column] for the first n_tiles tiles. Of
// two vectors of columns, tiles from row `narrow_from` on get the second alone.
template <int Vectors, class T, class RowsAt>
EXPUNGE_INLINE void panel_products(const RowTiles& tiles, long n_tiles, long terms, const Panel<T>& panel,
                                   const RowsAt& rows_at, long narrow_from, double* strip) {
  constexpr int lanes = Lanes<T>::W;
  for (long first = 0; first < terms; first += kBlock) {
    const long block = least(kBlock, terms - first);
    const T* columns = panel.data + first * panel.stride;
    for (long t = 0; t < n_tiles; ++t) {
      with_height(tiles.height(t), [&](auto height) __attribute__((always_inline)) {
        constexpr int Rows = decltype(height)::value;
        double* held = strip + tiles.begin(t) * kTileColumns<T>;
        if (Vectors == 2 && tiles.begin(t) >= narrow_from)
          tile_products<Rows, 1>(block, rows_at(t, height, first), columns + lanes, panel.stride, first == 0,
                                 held + lanes);
        else
          tile_products<Rows, Vectors>(block, rows_at(t, height, first), columns, panel.stride, first == 0, held);
      });
    }
  }
}

// Calls body(Int<1 or 2>) for the number of vectors that hold `columns` lanes.
template <class T, class Body>
EXPUNGE_INLINE void with_vectors(long columns, const Body& body) {
  if (columns <= Lanes<T>::W)
    body(Int<1>{});
  else
    body(Int<2>{});
}

// The same for as many vectors as the panel's columns need; one copy of the code for all callers with equal types.
template <class T, class RowsAt>
__attribute__((noinline)) void strip_products(const RowTiles& tiles, long n_tiles, long terms, const Panel<T>& panel,
                                              const RowsAt& rows_at, long narrow_from, double* strip) {
  with_vectors<T>(panel.columns, [&](auto vectors) __attribute__((always_inline)) {
    panel_products<decltype(vectors)::value>(tiles, n_tiles, terms, panel, rows_at, narrow_from, strip);
  });
}

// Sum of squares in float64.
template <class T>
EXPUNGE_INLINE double sum_squares(const T* x, long n) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  F64 total[2 * parts];
  for (int i = 0; i < 2 * parts; ++i) total[i] = F64{};
  long k = 0;
  for (; k + 2 * lanes <= n; k += 2 * lanes)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      F64 wide[parts];
      load_wide(x + k + v * lanes, wide);
#pragma GCC unroll 2
      for (int part = 0; part < parts; ++part) total[v * parts + part] += wide[part] * wide[part];
    }
  double rest = 0;
  for (; k < n; ++k) rest += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  for (int i = 1; i < 2 * parts; ++i) total[0] += total[i];
  return reduce(total[0]) + rest;
}

// a . b in float64.
template <class T>
EXPUNGE_INLINE double dot(const T* a, const T* b, long n) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  F64 total[parts];
  for (int i = 0; i < parts; ++i) total[i] = F64{};
  long k = 0;
  for (; k + lanes <= n; k += lanes) {
    F64 left[parts], right[parts];
    load_wide(a + k, left);
    load_wide(b + k, right);
    for (int part = 0; part < parts; ++part) total[part] += left[part] * right[part];
  }
  double rest = 0;
  for (; k < n; ++k) rest += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  for (int i = 1; i < parts; ++i) total[0] += total[i];
  return reduce(total[0]) + rest;
}

// ||sum of the rows||^2 of a (rows, n) matrix: the bias gradient, summed in float64 in strips of columns.
template <class T>
inline double row_sum_squares(const T* x, long rows, long n) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  constexpr int vectors = 8 / parts;  // independent sums: one chain would run at the latency of its additions
  F64 squares = {};
  long first = 0;
  for (; first + vectors * lanes <= n; first += vectors * lanes) {
    F64 sums[vectors * parts];
    for (int i = 0; i < vectors * parts; ++i) sums[i] = F64{};
    for (long r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        F64 wide[parts];
        load_wide(x + r * n + first + v * lanes, wide);
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part) sums[v * parts + part] += wide[part];
      }
    for (int i = 0; i < vectors * parts; ++i) squares += sums[i] * sums[i];
  }
  double total = reduce(squares);
  if (first == n) return total;
  double sums[vectors * lanes] = {};
  for (long r = 0; r < rows; ++r)
    for (long j = 0; j < n - first; ++j) sums[j] += static_cast<double>(x[r * n + first + j]);
  for (long j = 0; j < n - first; ++j) total += sums[j] * sums[j];
  return total;
}

// Sum of n values in float64.
template <class T>
EXPUNGE_INLINE double sum(const T* x, long n) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  constexpr int vectors = 8 / parts;  // independent sums, as above
  F64 total[vectors * parts];
  for (int i = 0; i < vectors * parts; ++i) total[i] = F64{};
  long k = 0;
  for (; k + vectors * lanes <= n; k += vectors * lanes)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      F64 wide[parts];
      load_wide(x + k + v * lanes, wide);
#pragma GCC unroll 2
      for (int part = 0; part < parts; ++part) total[v * parts + part] += wide[part];
    }
  double rest = 0;
  for (; k < n; ++k) rest += static_cast<double>(x[k]);
  for (int i = 1; i < vectors * parts; ++i) total[0] += total[i];
  return reduce(total[0]) + rest;
}

// Writes the norms of example i from the squares of its weight's and its bias' gradients.
template <class Call>
EXPUNGE_INLINE void put(const Call& call, long i, double weight, double bias) {
  if (call.bias_out == nullptr) {
    call.out[i] = finish(weight + bias, call.squared);
  } else {
    call.out[i] = finish(weight, call.squared);
    call.bias_out[i] = finish(bias, call.squared);
  }
}

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
