// Compiled once per instruction set into EXPUNGE_ISA_NS. Embeddings and the affine parameters of normalising layers.
#include "grad_norms/grad_norms.hpp"
#include "grad_norms/tiles.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

// --- embeddings ----------------------------------------------------------------------------------

// Sorts (token, position) pairs by token, positions of one token in order; returns the buffer that holds the result.
inline long* merge_sort(long* pairs, long* spare, long count) {
  for (long width = 1; width < count; width *= 2) {
    for (long first = 0; first < count; first += 2 * width) {
      const long middle = least(first + width, count), last = least(first + 2 * width, count);
      long a = first, b = middle;
      for (long to = first; to < last; ++to) {
        const bool left = a < middle && (b >= last || pairs[2 * a] <= pairs[2 * b]);
        const long from = left ? a++ : b++;
        spare[2 * to] = pairs[2 * from];
        spare[2 * to + 1] = pairs[2 * from + 1];
      }
    }
    long* sorted = spare;
    spare = pairs;
    pairs = sorted;
  }
  return pairs;
}

template <class T>
long embedding_workspace(const EmbeddingNorms<T>& call) {
  Arena arena{nullptr};
  arena.take<long>(2 * call.n_tokens);
  arena.take<long>(2 * call.n_tokens);
  return arena.used;
}

template <class T>
void embedding(const EmbeddingNorms<T>& call, long begin, long end, char* workspace) {
  constexpr long kStrip = 64;
  Arena arena{workspace};
  long* const pairs = arena.take<long>(2 * call.n_tokens);
  long* const spare = arena.take<long>(2 * call.n_tokens);
  for (long i = begin; i < end; ++i) {
    const long* tokens = call.tokens + i * call.n_tokens;
    const T* grads = call.output_grads + i * call.n_tokens * call.width;
    long count = 0;
    for (long t = 0; t < call.n_tokens; ++t)
      if (tokens[t] != call.padding_token) {
        pairs[2 * count] = tokens[t];
        pairs[2 * count++ + 1] = t;
      }
    const long* sorted = merge_sort(pairs, spare, count);
    double squares = 0;
    for (long first = 0; first < count;) {
      long last = first + 1;
      while (last < count && sorted[2 * last] == sorted[2 * first]) ++last;
      if (last == first + 1) {
        squares += sum_squares(grads + sorted[2 * first + 1] * call.width, call.width);
      } else {
        for (long j0 = 0; j0 < call.width; j0 += kStrip) {
          const long width = least(kStrip, call.width - j0);
          double sums[kStrip] = {};
          for (long t = first; t < last; ++t) {
            const T* grad = grads + sorted[2 * t + 1] * call.width + j0;
            for (long j = 0; j < width; ++j) sums[j] += static_cast<double>(grad[j]);
          }
          for (long j = 0; j < width; ++j) squares += sums[j] * sums[j];
        }
      }
      first = last;
    }
    call.out[i] = finish(squares, call.squared);
  }
}

// --- normalising layers ----------------------------------------------------------------------------

struct Standard {
  double mean, scale;
};

// What turns n values into normalised ones: mean 0 and mean square 1 (layer, group), or mean square 1 alone (rms).
template <class T>
Standard standardise(const T* x, long n, bool centre, double eps) {
  const double count = static_cast<double>(n);
  const double mean = centre ? sum(x, n) / count : 0.0;
  double squares = 0;
  if (centre) {
    constexpr int lanes = Lanes<T>::W;
    constexpr int parts = kParts<T>;
    F64 total = {};
    long k = 0;
    for (; k + lanes <= n; k += lanes) {
      F64 wide[parts];
      widen(load(x + k), wide);
      for (int part = 0; part < parts; ++part) total += (wide[part] - mean) * (wide[part] - mean);
    }
    for (; k < n; ++k) squares += (static_cast<double>(x[k]) - mean) * (static_cast<double>(x[k]) - mean);
    squares += reduce(total);
  } else {
    squares = sum_squares(x, n);
  }
  return {mean, 1.0 / __builtin_sqrt(squares / count + eps)};
}

struct AffineSquares {
  double weight = 0, bias = 0;
};

template <class T>
long norm_layer_workspace(const NormLayerNorms<T>& call) {
  Arena arena{nullptr};
  arena.take<Standard>(call.kind == NormKind::group ? 0 : call.positions);
  return arena.used;
}

// Sums over positions for `Vectors` vectors of columns, in registers; returns their squares.
template <int Vectors, bool Weight, class T>
EXPUNGE_INLINE AffineSquares column_sums(const T* x, const T* grads, long width, long positions,
                                         const Standard* standards) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  F64 weights[Vectors * parts], biases[Vectors * parts];
  for (int i = 0; i < Vectors * parts; ++i) weights[i] = biases[i] = F64{};
  for (long p = 0; p < positions; ++p) {
    const double mean = Weight ? standards[p].mean : 0.0, scale = Weight ? standards[p].scale : 1.0;
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      F64 g[parts], a[parts];
      widen(load(grads + p * width + v * lanes), g);
      if (Weight) widen(load(x + p * width + v * lanes), a);
#pragma GCC unroll 2
      for (int part = 0; part < parts; ++part) {
        biases[v * parts + part] += g[part];
        if (Weight) weights[v * parts + part] += (a[part] - mean) * scale * g[part];
      }
    }
  }
  F64 weight = {}, bias = {};
  for (int i = 0; i < Vectors * parts; ++i) {
    weight += weights[i] * weights[i];
    bias += biases[i] * biases[i];
  }
  return {reduce(weight), reduce(bias)};
}

template <bool Weight, class T>
AffineSquares along_width(const NormLayerNorms<T>& call, const T* x, const T* grads, Standard* standards) {
  constexpr int lanes = Lanes<T>::W;
  const long width = call.width;
  if (Weight)
    for (long p = 0; p < call.positions; ++p)
      standards[p] = call.normalized ? Standard{0.0, 1.0}
                                     : standardise(x + p * width, width, call.kind == NormKind::layer, call.eps);
  AffineSquares all;
  const auto take = [&](const AffineSquares& some) {
    all.weight += some.weight;
    all.bias += some.bias;
  };
  long j = 0;
  for (; j + 2 * lanes <= width; j += 2 * lanes)
    take(column_sums<2, Weight>(x + j, grads + j, width, call.positions, standards));
  for (; j + lanes <= width; j += lanes)
    take(column_sums<1, Weight>(x + j, grads + j, width, call.positions, standards));
  for (; j < width; ++j) {
    double weight = 0, bias = 0;
    for (long p = 0; p < call.positions; ++p) {
      const double g = static_cast<double>(grads[p * width + j]);
      if (Weight) weight += (static_cast<double>(x[p * width + j]) - standards[p].mean) * standards[p].scale * g;
      bias += g;
    }
    take({weight * weight, bias * bias});
  }
  return all;
}

template <bool Weight, class T>
AffineSquares along_channels(const NormLayerNorms<T>& call, const T* x, const T* grads) {
  const long channels = call.width / call.n_groups, size = channels * call.positions;
  AffineSquares squares;
  for (long g = 0; g < call.n_groups; ++g) {
    const Standard standard =
        call.normalized || !Weight ? Standard{0.0, 1.0} : standardise(x + g * size, size, true, call.eps);
    for (long c = g * channels; c < (g + 1) * channels; ++c) {
      const T *row = x + c * call.positions, *grad = grads + c * call.positions;
      constexpr int lanes = Lanes<T>::W;
      constexpr int parts = kParts<T>;
      F64 weights = {}, biases = {};
      double weight = 0, bias = 0;
      long k = 0;
      for (; k + lanes <= call.positions; k += lanes) {
        F64 a[parts], b[parts];
        if (Weight) widen(load(row + k), a);
        widen(load(grad + k), b);
        for (int part = 0; part < parts; ++part) {
          if (Weight) weights += (a[part] - standard.mean) * standard.scale * b[part];
          biases += b[part];
        }
      }
      for (; k < call.positions; ++k) {
        const double value = static_cast<double>(grad[k]);
        if (Weight) weight += (static_cast<double>(row[k]) - standard.mean) * standard.scale * value;
        bias += value;
      }
      weight += reduce(weights);
      bias += reduce(biases);
      squares.weight += weight * weight;
      squares.bias += bias * bias;
    }
  }
  return squares;
}

template <bool Weight, class T>
void norm_layer_of(const NormLayerNorms<T>& call, long begin, long end, char* workspace) {
  Arena arena{workspace};
  const bool group = call.kind == NormKind::group;
  Standard* standards = arena.take<Standard>(group ? 0 : call.positions);
  const long size = call.positions * call.width;
  for (long i = begin; i < end; ++i) {
    const T *x = call.activations + i * size, *grads = call.output_grads + i * size;
    const AffineSquares squares =
        group ? along_channels<Weight>(call, x, grads) : along_width<Weight>(call, x, grads, standards);
    put(call, i, squares.weight, call.bias ? squares.bias : 0.0);
  }
}

template <class T>
void norm_layer(const NormLayerNorms<T>& call, long begin, long end, char* workspace) {
  if (call.weight)
    norm_layer_of<true>(call, begin, end, workspace);
  else
    norm_layer_of<false>(call, begin, end, workspace);
}

}  // namespace

extern const Both<LayerKernels> layer_table = {
    {embedding_workspace<float>, embedding<float>, norm_layer_workspace<float>, norm_layer<float>},
    {embedding_workspace<double>, embedding<double>, norm_layer_workspace<double>, norm_layer<double>}};

}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
