// Bindings of the grad_norms family.
#include "bindings/families.hpp"
#include "bindings/grad_norm_runs.hpp"
#include "bindings/kernel.hpp"
#include "bindings/losses.hpp"
#if defined(EXPUNGE_ON_DEVICE)
#include "grad_norms/grad_norms.cuh"
#else
#include "common/float_mode.hpp"
#endif

namespace expunge::bindings {
namespace {

using namespace expunge::grad_norms;

#if defined(EXPUNGE_ON_DEVICE)
// The kernel and its workspace, for a call of examples.
#define EXPUNGE_RUN(call, items, place, table, host, on_device)                                  \
  place.run(device::on_device##_workspace(call, items), [&](double* workspace, cudaStream_t s) { \
    return device::on_device(call, items, reinterpret_cast<char*>(workspace), s);                \
  })
#else
#define EXPUNGE_RUN(call, items, place, table, host, on_device) \
  run(call, kernels_of<T>(table()).host, kernels_of<T>(table()).host##_workspace, items, place)

template <class Call, class Kernel, class Workspace>
void run(const Call& call, Kernel kernel, Workspace workspace, long items, const Place& place, long unit = 1) {
  place.run_once([&] {
    if (ran_empty(call, items)) return;
    run_ranges(workspace(call), items, operations(call), place.threads, unit,
               [&](long begin, long end, char* scratch) { kernel(call, begin, end, scratch); });
  });
}
#endif

// Indices address memory: on the CPU they are checked here, on a device by the kernel.
template <class Index>
void require_readable_within(const Index* values, long count, const char* name, long low, long high) {
  if constexpr (!kOnDevice) require_within(values, count, name, low, high);
}

void require_group_count(long groups, long channels, const char* name, const char* of) {
  if (groups < 1 || channels % groups != 0)
    refuse(name, "divide the " + std::to_string(channels) + " channels of " + of + ", got " + std::to_string(groups));
}

void require_token_or_none(long padding_idx) {
  if (padding_idx < -1) refuse("padding_idx", "be a token, or -1 for none, got " + std::to_string(padding_idx));
}

// out is (items), or (2, items) with the norms of weights in row 0 and those of biases in row 1.
template <class Call>
void set_out(Call& call, const Array& out, long items) {
  const bool apart = out.ndim() == 2;
  call.out = apart ? output<double>(out, {2, items}) : output<double>(out, {items});
  call.bias_out = apart ? call.out + items : nullptr;
}

template <class T>
void linear_grad_norms_of(const Array& activations, const Array& output_grads, bool bias, bool squared,
                          const Array& out, PlaceWithScratch& place) {
  LinearNorms<T> call{};
  const long items = length(activations, 0);
  call.positions = length(activations, 1);
  call.d_in = length(activations, 2);
  call.d_out = length(output_grads, 2);
  call.activations = input<T>(activations, {items, call.positions, call.d_in});
  call.output_grads = input<T>(output_grads, {items, call.positions, call.d_out});
  call.bias = bias;
  call.squared = squared;
  set_out(call, out, items);
  EXPUNGE_RUN(call, items, place, linear_table, norms, linear_norms);
}

void linear_grad_norms(const Array& activations, const Array& output_grads, bool bias, bool squared, const Array& out,
                       PlaceWithScratch& place) {
#if defined(EXPUNGE_ON_DEVICE)
  if (activations.is<bfloat16>())
    return linear_grad_norms_of<bfloat16>(activations, output_grads, bias, squared, out, place);
#endif
  by_dtype(activations, [&](auto zero) {
    linear_grad_norms_of<decltype(zero)>(activations, output_grads, bias, squared, out, place);
  });
}

void linear_grad_dots(const Array& activations_1, const Array& output_grads_1, const Array& activations_2,
                      const Array& output_grads_2, const Array& out, PlaceWithScratch& place) {
  by_dtype(activations_1, [&](auto zero) {
    using T = decltype(zero);
    LinearDots<T> call{};
    const long items = length(activations_1, 0);
    call.positions_1 = length(activations_1, 1);
    call.positions_2 = length(activations_2, 1);
    call.d_in = length(activations_1, 2);
    call.d_out = length(output_grads_1, 2);
    call.activations_1 = input<T>(activations_1, {items, call.positions_1, call.d_in});
    call.output_grads_1 = input<T>(output_grads_1, {items, call.positions_1, call.d_out});
    call.activations_2 = input<T>(activations_2, {items, call.positions_2, call.d_in});
    call.output_grads_2 = input<T>(output_grads_2, {items, call.positions_2, call.d_out});
    call.out = output<double>(out, {items});
    EXPUNGE_RUN(call, items, place, linear_table, dots, linear_dots);
  });
}

void embedding_linear_grad_dots(const Array& indices, const Array& embedding_grads, const Array& row_factors,
                                const Array& column_factors, long padding_idx, const Array& out,
                                PlaceWithScratch& place) {
  by_dtype(embedding_grads, [&](auto zero) {
    using T = decltype(zero);
    EmbeddingLinearDots<T> call{};
    const long items = length(indices, 0);
    call.n_tokens = length(indices, 1);
    call.width = length(embedding_grads, 2);
    call.positions = length(row_factors, 1);
    call.rows = length(row_factors, 2);
    call.tokens = input<long>(indices, {items, call.n_tokens});
    require_readable_within(call.tokens, items * call.n_tokens, "indices", 0, call.rows);
    call.embedding_grads = input<T>(embedding_grads, {items, call.n_tokens, call.width});
    call.row_factors = input<T>(row_factors, {items, call.positions, call.rows});
    call.column_factors = input<T>(column_factors, {items, call.positions, call.width});
    require_token_or_none(padding_idx);
    call.padding_token = padding_idx;
    call.out = output<double>(out, {items});
    EXPUNGE_RUN(call, items, place, linear_table, embedding_dots, embedding_linear_dots);
  });
}

// `padded` is host memory, like a shape: three lengths.
void conv_grad_norms(const Array& activations, const Array& output_grads, long groups, const HostArray& padded,
                     const std::optional<Array>& pad_maps, const Array& position_offsets, const Array& feature_offsets,
                     bool bias, bool squared, const Array& out, PlaceWithScratch& place) {
  by_dtype(activations, [&](auto zero) {
    using T = decltype(zero);
    ConvNorms<T> call{};
    const long items = length(activations, 0);
    call.channels = length(activations, 1);
    call.out_channels = length(output_grads, 1);
    call.positions = length(output_grads, 2);
    call.groups = groups;
    for (int axis = 0; axis < 3; ++axis) call.source[axis] = length(activations, 2 + axis);
    call.images = input<T>(activations, {items, call.channels, -1, -1, -1});
    call.output_grads = input<T>(output_grads, {items, call.out_channels, call.positions});
    require_group_count(groups, call.channels, "groups", "activations");
    require_group_count(groups, call.out_channels, "groups", "output_grads");
    const long* lengths = input<long>(padded, {3});
    require_within(lengths, 3, "padded", 0, kMostPixels + 1);
    long plane = 1;
    for (int axis = 0; axis < 3; ++axis) {
      plane *= call.padded[axis] = lengths[axis];
      if (plane > kMostPixels) refuse("padded", "have fewer than 2**31 entries in all");
    }
    const int* map = input<int>(pad_maps, {lengths[0] + lengths[1] + lengths[2]});
    for (int axis = 0; axis < 3; ++axis) {
      call.pad_map[axis] = map;
      if (map == nullptr) {
        if (call.padded[axis] != call.source[axis])
          refuse("padded", "be the spatial shape of activations without pad_maps");
      } else {
        require_readable_within(map, call.padded[axis], "pad_maps", -1, call.source[axis]);
        map += call.padded[axis];
      }
    }
    call.position_offsets = input<int>(position_offsets, {call.positions});
    call.features = length(feature_offsets, 0);
    call.feature_offsets = input<int>(feature_offsets, {call.features});
    const long in_channels = call.channels / groups;
    if (in_channels == 0 ? call.features != 0 : call.features % in_channels != 0)
      refuse("feature_offsets", "have as many entries for every channel of a group of activations");
    if (plane > 0 && in_channels > kMostPixels / plane)
      refuse("padded", "have fewer than 2**31 entries in all channels of a group");
    for (long k = 1; !kOnDevice && k < call.positions; ++k)  // vectors of positions are told by their ends
      if (call.position_offsets[k] <= call.position_offsets[k - 1])
        refuse("position_offsets",
               "increase, got " + std::to_string(call.position_offsets[k]) + " at index " + std::to_string(k));
    if (!kOnDevice && call.positions > 0) {  // the last pixel read is that of the largest position and feature
      require_within(call.feature_offsets, call.features, "feature_offsets", 0, in_channels * plane);
      int last = 0;
      for (long k = 0; k < call.features; ++k) last = call.feature_offsets[k] > last ? call.feature_offsets[k] : last;
      require_within(call.position_offsets, call.positions, "position_offsets", 0,
                     call.features == 0 ? kMostPixels : in_channels * plane - last);
    }
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    EXPUNGE_RUN(call, items, place, conv_table, norms, conv_norms);
  });
}

void embedding_grad_norms(const Array& indices, const Array& output_grads, long padding_idx, bool squared,
                          const Array& out, PlaceWithScratch& place) {
  by_dtype(output_grads, [&](auto zero) {
    using T = decltype(zero);
    EmbeddingNorms<T> call{};
    const long items = length(indices, 0);
    call.n_tokens = length(indices, 1);
    call.width = length(output_grads, 2);
    call.tokens = input<long>(indices, {items, call.n_tokens});
    call.output_grads = input<T>(output_grads, {items, call.n_tokens, call.width});
    require_token_or_none(padding_idx);
    call.padding_token = padding_idx;
    call.squared = squared;
    call.out = output<double>(out, {items});
    EXPUNGE_RUN(call, items, place, layer_table, embedding, embedding_norms);
  });
}

void norm_layer_grad_norms(const Array& activations, const Array& output_grads, int kind, long n_groups, double eps,
                           bool normalized, bool weight, bool bias, bool squared, const Array& out,
                           PlaceWithScratch& place) {
  by_dtype(activations, [&](auto zero) {
    using T = decltype(zero);
    NormLayerNorms<T> call{};
    const long items = length(activations, 0);
    if (kind < 0 || kind > 2) refuse("kind", "be 0, 1 or 2, got " + std::to_string(kind));
    call.kind = static_cast<NormKind>(kind);
    const bool group = call.kind == NormKind::group;
    call.width = length(activations, group ? 1 : 2);
    call.positions = length(activations, group ? 2 : 1);
    const long rows = group ? call.width : call.positions, columns = group ? call.positions : call.width;
    call.activations = input<T>(activations, {items, rows, columns});
    call.output_grads = input<T>(output_grads, {items, rows, columns});
    if (group && !normalized) require_group_count(n_groups, call.width, "n_groups", "activations");
    call.n_groups = group && !normalized ? n_groups : 1;  // what is normalised already is in no groups
    call.eps = eps;
    call.normalized = normalized;
    call.weight = weight;
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    EXPUNGE_RUN(call, items, place, layer_table, norm_layer, norm_layer_norms);
  });
}
#undef EXPUNGE_RUN

// What a probe is on every place; `last` finishes it there: it is given the call and the number of records.
template <class Last>
void probe(const Array& X, const Array& weights, const Array& y, const std::string& loss, double alpha,
           const std::optional<Array>& checkpoint_weights, bool squared, const Array& out, Last last) {
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    ProbeNorms<T> call{};
    const long items = length(X, 0);
    call.loss = loss_named(loss);
    call.d = length(X, 1);
    call.checkpoints = length(weights, 0);
    call.classes = length(weights, 2);
    if (call.d < 1) refuse("X", "have at least 1 column, got shape " + shape_text(X));
    if (call.classes < 1) refuse("weights", "have at least 1 class, got shape " + shape_text(weights));
    call.x = input<T>(X, {items, call.d});
    call.weights = input<T>(weights, {call.checkpoints, call.d, call.classes});
    if (call.loss == Loss::squared)
      call.targets = input<T>(y, {items, call.classes});
    else
      call.labels = input<long>(y, {items});
    if (call.loss == Loss::logistic && call.classes != 1)
      refuse("weights", "have length 1 along axis 2 for the logistic loss, got shape " + shape_text(weights));
    if (call.labels != nullptr)
      require_readable_within(call.labels, items, "y", 0, call.loss == Loss::logistic ? 2 : call.classes);
    call.checkpoint_weights = input<double>(checkpoint_weights, {call.checkpoints});
    call.alpha = alpha;
    call.squared = squared;
    call.out = checkpoint_weights ? output<double>(out, {items}) : output<double>(out, {items, call.checkpoints});
    last(call, items);
  });
}

#if defined(EXPUNGE_ON_DEVICE)

void probe_grad_norms(const Array& X, const Array& weights, const Array& y, const std::string& loss, double alpha,
                      const std::optional<Array>& checkpoint_weights, bool squared, const Array& out,
                      const Array& logits, PlaceWithScratch& place) {
  probe(X, weights, y, loss, alpha, checkpoint_weights, squared, out, [&](const auto& call, long items) {
    const auto* products = input<std::decay_t<decltype(*call.x)>>(logits, {items, call.checkpoints, call.classes});
    place.run(device::probe_norms_workspace(call, items), [&](double* workspace, cudaStream_t stream) {
      return device::probe_norms(call, products, items, reinterpret_cast<char*>(workspace), stream);
    });
  });
}

#else

void probe_grad_norms(const Array& X, const Array& weights, const Array& y, const std::string& loss, double alpha,
                      const std::optional<Array>& checkpoint_weights, bool squared, const Array& out,
                      const std::optional<Array>& proxies, long early, PlaceWithScratch& place) {
  probe(X, weights, y, loss, alpha, checkpoint_weights, squared, out, [&](auto& call, long items) {
    using T = std::decay_t<decltype(*call.x)>;
    if (proxies) {
      call.proxies = output<double>(*proxies, {items, 3});
      require_within(&early, 1, "early", 0, call.checkpoints);
      call.early = early;
    }
    if (items == 0) return;
    const auto& kernels = kernels_of<T>(probe_table());
    Workspaces packed(kernels.packed_length(call) * static_cast<long>(sizeof(T)), 1);
    std::vector<double> weight_squares(static_cast<std::size_t>(call.checkpoints));
    T* buffer = reinterpret_cast<T*>(packed.take());
    place.run_once([&] {
      const IeeeArithmetic ieee;
      kernels.pack(call, buffer, weight_squares.data());
    });
    call.packed_weights = buffer;
    call.weight_squares = weight_squares.data();
    run(call, kernels.norms, kernels.workspace, items, place, kProbeTileRows);
  });
}

#endif

// An array that some cells need and others may not have.
void require_if(bool needed, const std::optional<Array>& array, const char* name) {
  if (needed != array.has_value()) refuse(name, needed ? "be given for this cell" : "be None for this cell");
}

template <class T>
T* output(const std::optional<Array>& array, std::initializer_list<long> shape) {
  return array ? bindings::output<T>(*array, shape) : nullptr;
}

// What both kernels of a recurrent layer are given: lengths from the weight and from `gates` (B, steps, all gates).
template <class T>
RecurrentLayer<T> recurrent_layer(const Array& gates, const Array& weight, const std::optional<Array>& cells, int cell,
                                  bool backwards) {
  RecurrentLayer<T> layer{};
  if (cell < 0 || cell >= kCells) refuse("cell", "be 0, 1, 2 or 3, got " + std::to_string(cell));
  layer.cell = static_cast<CellKind>(cell);
  layer.backwards = backwards;
  layer.steps = length(gates, 1);
  layer.width = length(weight, 1);
  layer.weight = input<T>(weight, {gates_of(layer.cell) * layer.width, layer.width});
  require_if(layer.cell == CellKind::lstm, cells, "cells");
  layer.cells = input<T>(cells, {length(gates, 0), layer.width});
  return layer;
}

#if !defined(EXPUNGE_ON_DEVICE)
// Sequences of one range: those of a tile, fewer where every thread should have some. Rows do not depend on the others.
long sequences_of_range(long sequences) { return sequences < 4 * kTileSequences ? kTileSequences / 2 : kTileSequences; }

template <class Call, class Length, class Pack, class Kernel, class Workspace>
void run_recurrent(Call& call, Length packed_length, Pack pack, Kernel kernel, Workspace workspace, long items,
                   const Place& place) {
  using T = std::decay_t<decltype(*call.layer.weight)>;
  place.run_once([&] {
    if (items == 0 || call.layer.width == 0) return;  // steps that no memory stands behind are not looped over
    Workspaces packed(packed_length(call) * static_cast<long>(sizeof(T)), 1);
    T* buffer = reinterpret_cast<T*>(packed.take());
    pack(call, buffer);
    call.layer.packed = buffer;
    run_ranges(workspace(call), items, operations(call), place.threads, sequences_of_range(items),
               [&](long begin, long end, char* scratch) { kernel(call, begin, end, scratch); });
  });
}
#endif

void recurrent_states(const Array& gates, const Array& weight, const std::optional<Array>& bias, const Array& hidden,
                      const std::optional<Array>& cells, const Array& before, const Array& outputs,
                      const std::optional<Array>& kept, int cell, bool backwards, Place& place) {
  by_dtype(gates, [&](auto zero) {
    using T = decltype(zero);
    RecurrentStates<T> call{};
    const long items = length(gates, 0);
    call.layer = recurrent_layer<T>(gates, weight, cells, cell, backwards);
    const long steps = call.layer.steps, width = call.layer.width, all = gates_of(call.layer.cell) * width;
    call.sequences = items;
    call.gates = output<T>(gates, {items, steps, all});
    call.bias = input<T>(bias, {all});
    call.hidden = input<T>(hidden, {items, width});
    call.before = output<T>(before, {items, steps, width});
    call.outputs = output<T>(outputs, {steps, items, width});
    const bool keeps = call.layer.cell == CellKind::lstm || call.layer.cell == CellKind::gru;
    require_if(keeps, kept, "kept");
    call.kept = output<T>(kept, {items, steps, width});
#if defined(EXPUNGE_ON_DEVICE)
    place.run([&](cudaStream_t stream) { return device::recurrent_states(call, items, stream); });
#else
    const auto& kernels = kernels_of<T>(recurrent_table());
    run_recurrent(call, kernels.states_packed_length, kernels.states_pack, kernels.states, kernels.states_workspace,
                  items, place);
#endif
  });
}

void recurrent_grads(const Array& output_grads, const Array& gates, const Array& weight,
                     const std::optional<Array>& before, const std::optional<Array>& cells,
                     const std::optional<Array>& kept, const Array& gate_grads,
                     const std::optional<Array>& state_gate_grads, const Array& hidden_grads,
                     const std::optional<Array>& cell_grads, int cell, bool backwards, Place& place) {
  by_dtype(gates, [&](auto zero) {
    using T = decltype(zero);
    RecurrentGrads<T> call{};
    const long items = length(gates, 0);
    call.layer = recurrent_layer<T>(gates, weight, cells, cell, backwards);
    const long steps = call.layer.steps, width = call.layer.width, all = gates_of(call.layer.cell) * width;
    const bool lstm = call.layer.cell == CellKind::lstm, gru = call.layer.cell == CellKind::gru;
    call.output_grads = input<T>(output_grads, {items, steps, width});
    call.gates = input<T>(gates, {items, steps, all});
    call.before = input<T>(before, {items, steps, width});
    require_if(lstm || gru, kept, "kept");
    require_if(gru, before, "before");
    require_if(gru, state_gate_grads, "state_gate_grads");
    require_if(lstm, cell_grads, "cell_grads");
    call.kept = input<T>(kept, {items, steps, width});
    call.gate_grads = output<T>(gate_grads, {items, steps, all});
    call.state_gate_grads = output<T>(state_gate_grads, {items, steps, all});
    call.hidden_grads = output<T>(hidden_grads, {items, width});
    call.cell_grads = output<T>(cell_grads, {items, width});
#if defined(EXPUNGE_ON_DEVICE)
    place.run([&](cudaStream_t stream) { return device::recurrent_grads(call, items, stream); });
#else
    const auto& kernels = kernels_of<T>(recurrent_table());
    run_recurrent(call, kernels.grads_packed_length, kernels.grads_pack, kernels.grads, kernels.grads_workspace, items,
                  place);
#endif
  });
}

}  // namespace

void bind_grad_norms(py::module_& module) {
  define<5>(module, "linear_grad_norms", &linear_grad_norms, {"activations", "output_grads", "bias", "squared", "out"});
  define<5>(module, "linear_grad_dots", &linear_grad_dots,
            {"activations_1", "output_grads_1", "activations_2", "output_grads_2", "out"});
  define<6>(module, "embedding_linear_grad_dots", &embedding_linear_grad_dots,
            {"indices", "embedding_grads", "row_factors", "column_factors", "padding_idx", "out"});
  define<10>(module, "conv_grad_norms", &conv_grad_norms,
             {"activations", "output_grads", "groups", "padded", "pad_maps", "position_offsets", "feature_offsets",
              "bias", "squared", "out"});
  define<5>(module, "embedding_grad_norms", &embedding_grad_norms,
            {"indices", "output_grads", "padding_idx", "squared", "out"});
  define<10>(
      module, "norm_layer_grad_norms", &norm_layer_grad_norms,
      {"activations", "output_grads", "kind", "n_groups", "eps", "normalized", "weight", "bias", "squared", "out"});
#if defined(EXPUNGE_ON_DEVICE)
  define<8>(module, "probe_grad_norms", &probe_grad_norms,
            {"X", "weights", "y", "loss", "alpha", "checkpoint_weights", "squared", "out", "logits"});
#else
  define<8, 2>(module, "probe_grad_norms", &probe_grad_norms,
               {"X", "weights", "y", "loss", "alpha", "checkpoint_weights", "squared", "out", "proxies", "early"});
#endif
  define<8>(module, "recurrent_states", &recurrent_states,
            {"gates", "weight", "bias", "hidden", "cells", "before", "outputs", "kept", "cell", "backwards"});
  define<10>(module, "recurrent_grads", &recurrent_grads,
             {"output_grads", "gates", "weight", "before", "cells", "kept", "gate_grads", "state_gate_grads",
              "hidden_grads", "cell_grads", "cell", "backwards"});
}

}  // namespace expunge::bindings
