// Interface of the gradient-norm kernels: serial over a range of examples; callers split ranges over threads.
// Every kernel writes float64: squares of float32 gradients would overflow or lose digits in float32.
#pragma once

#include "common/isa.hpp"

namespace expunge::grad_norms {

// Norms of weight and bias together in `out` or, unless `bias_out` is null, those of the bias apart.

// activations (B, positions, d_in), output_grads (B, positions, d_out): ||A_i^T G_i||_F of every example.
template <class T>
struct LinearNorms {
  const T* activations;
  const T* output_grads;
  long positions, d_in, d_out;
  bool bias, squared;
  double *out, *bias_out;
};

// <A1_i^T G1_i, A2_i^T G2_i> of every example; the two may have different numbers of positions.
template <class T>
struct LinearDots {
  const T *activations_1, *output_grads_1, *activations_2, *output_grads_2;
  long positions_1, positions_2, d_in, d_out;
  double* out;
};

// <scatter of embedding_grads by token, R_i^T C_i>: row_factors (B, positions, rows), column_factors (B, positions,
// width).
template <class T>
struct EmbeddingLinearDots {
  const long* tokens;
  const T* embedding_grads;
  const T *row_factors, *column_factors;
  long n_tokens, positions, rows, width, padding_token;
  double* out;
};

// One image is channels x (sources of three padded axes); an index map of null means an axis is not padded, and
// every map entry is a source index or -1 for zero.
template <class T>
struct ConvNorms {
  const T* images;
  const T* output_grads;
  long groups, channels, out_channels;            // in all groups together
  long source[3], padded[3];                      // lengths of the spatial axes
  const int* pad_map[3];                          // all null or none
  const int *position_offsets, *feature_offsets;  // into a padded image of one group
  long positions, features;                       // features of one group
  bool bias, squared;
  double *out, *bias_out;
};

// Repeated tokens of one example are summed before squaring.
template <class T>
struct EmbeddingNorms {
  const long* tokens;
  const T* output_grads;
  long n_tokens, width, padding_token;
  bool squared;
  double* out;
};

enum class NormKind : int { layer = 0, rms = 1, group = 2 };

// layer, rms: (B, positions, width), parameters along width. group: (B, width, positions), parameters along width.
template <class T>
struct NormLayerNorms {
  const T* activations;
  const T* output_grads;
  NormKind kind;
  long positions, width, n_groups;
  double eps;
  bool normalized, weight, bias, squared;
  double *out, *bias_out;
};

constexpr long kProbeTileRows = 48;  // a multiple of every tile height and vector length

enum class ProbeLoss : int { softmax = 0, logistic = 1, squared = 2 };

// x (n, d); weights (checkpoints, d, classes); packed_weights and weight_squares as made by the pack kernel.
template <class T>
struct ProbeNorms {
  const T* x;
  const T* weights;
  const T* packed_weights;
  const double* weight_squares;
  const long* labels;                // softmax and logistic
  const T* targets;                  // squared: (n, classes)
  const double* checkpoint_weights;  // null: out is (n, checkpoints), else (n,) weighted sums of squared norms
  long d, classes, checkpoints;
  ProbeLoss loss;
  double alpha;
  bool squared;
  double* out;
  double* proxies = nullptr;  // if any: (n, 3), |residual| at `early`, sum of p_y over checkpoints, last loss
  long early = 0;
};

template <class T>
struct LinearKernels {
  long (*norms_workspace)(const LinearNorms<T>&);
  void (*norms)(const LinearNorms<T>&, long begin, long end, char* workspace);
  long (*dots_workspace)(const LinearDots<T>&);
  void (*dots)(const LinearDots<T>&, long begin, long end, char* workspace);
  long (*embedding_dots_workspace)(const EmbeddingLinearDots<T>&);
  void (*embedding_dots)(const EmbeddingLinearDots<T>&, long begin, long end, char* workspace);
};

template <class T>
struct ConvKernels {
  long (*norms_workspace)(const ConvNorms<T>&);
  void (*norms)(const ConvNorms<T>&, long begin, long end, char* workspace);
};

template <class T>
struct LayerKernels {
  long (*embedding_workspace)(const EmbeddingNorms<T>&);
  void (*embedding)(const EmbeddingNorms<T>&, long begin, long end, char* workspace);
  long (*norm_layer_workspace)(const NormLayerNorms<T>&);
  void (*norm_layer)(const NormLayerNorms<T>&, long begin, long end, char* workspace);
};

template <class T>
struct ProbeKernels {
  long (*packed_length)(const ProbeNorms<T>&);  // in elements of T
  void (*pack)(const ProbeNorms<T>&, T* packed, double* weight_squares);
  long (*workspace)(const ProbeNorms<T>&);
  void (*norms)(const ProbeNorms<T>&, long begin, long end, char* workspace);
};

template <template <class> class Kernels>
struct Both {
  Kernels<float> f32;
  Kernels<double> f64;
};

#define EXPUNGE_GRAD_NORM_TABLES(level)          \
  namespace level {                              \
  extern const Both<LinearKernels> linear_table; \
  extern const Both<ConvKernels> conv_table;     \
  extern const Both<LayerKernels> layer_table;   \
  extern const Both<ProbeKernels> probe_table;   \
  }
EXPUNGE_GRAD_NORM_TABLES(isa_base)
EXPUNGE_GRAD_NORM_TABLES(isa_v3)
EXPUNGE_GRAD_NORM_TABLES(isa_v4)
#undef EXPUNGE_GRAD_NORM_TABLES

#if defined(EXPUNGE_X86_LEVELS)
#define EXPUNGE_SELECT(name) select_table(isa_base::name, isa_v3::name, isa_v4::name)
#else
#define EXPUNGE_SELECT(name) isa_base::name
#endif
inline const Both<LinearKernels>& linear_table() { return EXPUNGE_SELECT(linear_table); }
inline const Both<ConvKernels>& conv_table() { return EXPUNGE_SELECT(conv_table); }
inline const Both<LayerKernels>& layer_table() { return EXPUNGE_SELECT(layer_table); }
inline const Both<ProbeKernels>& probe_table() { return EXPUNGE_SELECT(probe_table); }
#undef EXPUNGE_SELECT

}  // namespace expunge::grad_norms
