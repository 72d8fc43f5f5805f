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
    constexpr int lanes = Simd<T>::lanes;
    constexpr int parts = kParts<T>;
    Vd total = {};
    long k = 0;
    for (; k + lanes <= n; k += lanes) {
      Vd wide[parts];
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

template <class T>
long norm_layer_workspace(const NormLayerNorms<T>& call) {
  Arena arena{nullptr};
  arena.take<double>(call.width);
  arena.take<double>(call.width);
  return arena.used;
}

template <class T>
double along_width(const NormLayerNorms<T>& call, const T* x, const T* grads, double* weight, double* bias) {
  const long width = call.width;
  for (long j = 0; j < width; ++j) weight[j] = bias[j] = 0;
  for (long p = 0; p < call.positions; ++p) {
    const T *row = x + p * width, *grad = grads + p * width;
    const Standard standard =
        call.normalized ? Standard{0.0, 1.0} : standardise(row, width, call.kind == NormKind::layer, call.eps);
    for (long j = 0; j < width; ++j) {
      const double g = static_cast<double>(grad[j]);
      weight[j] += (static_cast<double>(row[j]) - standard.mean) * standard.scale * g;
      bias[j] += g;
    }
  }
  double squares = 0;
  if (call.weight) squares += sum_squares(weight, width);
  if (call.bias) squares += sum_squares(bias, width);
  return squares;
}

template <class T>
double along_channels(const NormLayerNorms<T>& call, const T* x, const T* grads) {
  const long channels = call.width / call.n_groups, size = channels * call.positions;
  double squares = 0;
  for (long g = 0; g < call.n_groups; ++g) {
    const Standard standard = call.normalized ? Standard{0.0, 1.0} : standardise(x + g * size, size, true, call.eps);
    for (long c = g * channels; c < (g + 1) * channels; ++c) {
      const T *row = x + c * call.positions, *grad = grads + c * call.positions;
      constexpr int lanes = Simd<T>::lanes;
      constexpr int parts = kParts<T>;
      Vd weights = {}, biases = {};
      double weight = 0, bias = 0;
      long k = 0;
      for (; k + lanes <= call.positions; k += lanes) {
        Vd a[parts], b[parts];
        widen(load(row + k), a);
        widen(load(grad + k), b);
        for (int part = 0; part < parts; ++part) {
          weights += (a[part] - standard.mean) * standard.scale * b[part];
          biases += b[part];
        }
      }
      for (; k < call.positions; ++k) {
        const double value = static_cast<double>(grad[k]);
        weight += (static_cast<double>(row[k]) - standard.mean) * standard.scale * value;
        bias += value;
      }
      weight += reduce(weights);
      bias += reduce(biases);
      if (call.weight) squares += weight * weight;
      if (call.bias) squares += bias * bias;
    }
  }
  return squares;
}

template <class T>
void norm_layer(const NormLayerNorms<T>& call, long begin, long end, char* workspace) {
  Arena arena{workspace};
  double* weight = arena.take<double>(call.width);
  double* bias = arena.take<double>(call.width);
  const long size = call.positions * call.width;
  for (long i = begin; i < end; ++i) {
    const T *x = call.activations + i * size, *grads = call.output_grads + i * size;
    const double squares =
        call.kind == NormKind::group ? along_channels(call, x, grads) : along_width(call, x, grads, weight, bias);
    call.out[i] = finish(squares, call.squared);
  }
}

}  // namespace

extern const Both<LayerKernels> layer_table = {
    {embedding_workspace<float>, embedding<float>, norm_layer_workspace<float>, norm_layer<float>},
    {embedding_workspace<double>, embedding<double>, norm_layer_workspace<double>, norm_layer<double>}};

}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
