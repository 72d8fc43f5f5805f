// Interface of the gradient-norm kernels: serial over a range of examples; callers split ranges over threads.
// Every kernel writes float64: squares of float32 gradients would overflow or lose digits in float32.
#pragma once

#include "common/isa.hpp"
#include "common/losses.hpp"

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
  Loss loss;
  double alpha;
  bool squared;
  double* out;
  double* proxies = nullptr;  // if any: (n, 3), |residual| at `early`, sum of p_y over checkpoints, last loss
  long early = 0;
};

enum class CellKind : int { lstm = 0, gru = 1, tanh = 2, relu = 3 };

constexpr int kCells = 4;
constexpr long kTileSequences = 16;  // that go through all steps together
EXPUNGE_HD constexpr long gates_of(CellKind cell) { return cell == CellKind::lstm ? 4 : cell == CellKind::gru ? 3 : 1; }

// What a recurrent layer's two kernels share: `width` units in torch's order of gates; weight (gates * width, width).
// `kept` (B, steps, width) is an LSTM's cells after every step, a GRU's state's part of its third gate, else null.
template <class T>
struct RecurrentLayer {
  const T* weight;
  const T* cells;  // (B, width): an LSTM's first cells, else null
  const T* packed;  // the weight, as made by the kernel's own pack
  long steps, width;
  CellKind cell;
  bool backwards;  // the last step comes first
};

// gates (B, steps, gates * width): in, the input's part; out, the gates themselves. hidden (B, width): first states.
// before (B, steps, width): the states that steps began with; outputs (steps, B, width): those they ended with.
template <class T>
struct RecurrentStates {
  RecurrentLayer<T> layer;
  const T* bias;  // (gates * width), of the state's part, or null
  const T* hidden;
  long sequences;
  T *gates, *before, *outputs, *kept;
};

// before: what RecurrentStates leaves there, for a GRU, else null.
// gate_grads (B, steps, gates * width): gradients of the input's part of the gates; state_gate_grads those of the
// state's part where they differ (a GRU), else null. hidden_grads, cell_grads (B, width): in, gradients of the last
// states that output_grads (B, steps, width) leaves out; out, those of the first states.
template <class T>
struct RecurrentGrads {
  RecurrentLayer<T> layer;
  const T *output_grads, *gates, *before, *kept;
  T *gate_grads, *state_gate_grads, *hidden_grads, *cell_grads;
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

template <class T>
struct RecurrentKernels {
  long (*states_packed_length)(const RecurrentStates<T>&);  // in elements of T
  void (*states_pack)(const RecurrentStates<T>&, T* packed);
  long (*states_workspace)(const RecurrentStates<T>&);
  void (*states)(const RecurrentStates<T>&, long begin, long end, char* workspace);
  long (*grads_packed_length)(const RecurrentGrads<T>&);
  void (*grads_pack)(const RecurrentGrads<T>&, T* packed);
  long (*grads_workspace)(const RecurrentGrads<T>&);
  void (*grads)(const RecurrentGrads<T>&, long begin, long end, char* workspace);
};

template <template <class> class Kernels>
struct Both {
  Kernels<float> f32;
  Kernels<double> f64;
};

EXPUNGE_ISA_TABLE(Both<LinearKernels>, linear_table)
EXPUNGE_ISA_TABLE(Both<ConvKernels>, conv_table)
EXPUNGE_ISA_TABLE(Both<LayerKernels>, layer_table)
EXPUNGE_ISA_TABLE(Both<ProbeKernels>, probe_table)
EXPUNGE_ISA_TABLE(Both<RecurrentKernels>, recurrent_table)

}  // namespace expunge::grad_norms
