#include "bindings/bind_grad_norms.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/grad_norm_runs.hpp"

namespace expunge::bindings {
namespace {

using namespace expunge::grad_norms;

template <class Call, class Kernel>
void run(const Call& call, Kernel kernel, long bytes, long items, int threads, long unit = 1) {
  py::gil_scoped_release release;
  run_ranges(bytes, items, operations(call), threads, unit,
             [&](long begin, long end, char* workspace) { kernel(call, begin, end, workspace); });
}

bool is_float32(const py::array& array) { return py::dtype::of<float>().equal(array.dtype()); }

// Calls body with a value of the dtype of `array`; any dtype but float32 is left to the check for float64.
template <class Body>
void by_dtype(const py::array& array, Body&& body) {
  if (is_float32(array))
    body(float{});
  else
    body(double{});
}

template <class T>
const T* optional_input(const py::object& array, const char* name, std::initializer_list<long> shape) {
  if (array.is_none()) return nullptr;
  if (!py::isinstance<py::array>(array)) throw py::type_error(std::string(name) + " must be an array or None");
  return input<T>(py::reinterpret_borrow<py::array>(array), name, shape);
}

// Indices address memory, so they are checked here: all of values[0..count) within [low, high).
template <class Index>
void require_within(const Index* values, long count, const char* name, long low, long high) {
  for (long i = 0; i < count; ++i)
    if (values[i] < low || values[i] >= high)
      throw py::value_error(std::string(name) + " must be within [" + std::to_string(low) + ", " +
                            std::to_string(high) + "), got " + std::to_string(values[i]));
}

void require_group_count(long groups, long channels, const char* name, const char* of) {
  if (groups < 1 || channels % groups != 0)
    throw py::value_error(std::string(name) + " must divide the " + std::to_string(channels) + " channels of " + of +
                          ", got " + std::to_string(groups));
}

// out is (items), or (2, items) with the norms of weights in row 0 and those of biases in row 1.
template <class Call>
void set_out(Call& call, py::array& out, long items) {
  const bool apart = out.ndim() == 2;
  call.out = apart ? output<double>(out, "out", {2, items}) : output<double>(out, "out", {items});
  call.bias_out = apart ? call.out + items : nullptr;
}

void linear_grad_norms(const py::array& activations, const py::array& output_grads, bool bias, bool squared,
                       py::array& out, int threads) {
  by_dtype(activations, [&](auto zero) {
    using T = decltype(zero);
    LinearNorms<T> call;
    const long items = length(activations, 0, "activations");
    call.positions = length(activations, 1, "activations");
    call.d_in = length(activations, 2, "activations");
    call.d_out = length(output_grads, 2, "output_grads");
    call.activations = input<T>(activations, "activations", {items, call.positions, call.d_in});
    call.output_grads = input<T>(output_grads, "output_grads", {items, call.positions, call.d_out});
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    const auto& kernels = kernels_of<T>(linear_table());
    run(call, kernels.norms, kernels.norms_workspace(call), items, threads);
  });
}

void linear_grad_dots(const py::array& activations_1, const py::array& output_grads_1, const py::array& activations_2,
                      const py::array& output_grads_2, py::array& out, int threads) {
  by_dtype(activations_1, [&](auto zero) {
    using T = decltype(zero);
    LinearDots<T> call;
    const long items = length(activations_1, 0, "activations_1");
    call.positions_1 = length(activations_1, 1, "activations_1");
    call.positions_2 = length(activations_2, 1, "activations_2");
    call.d_in = length(activations_1, 2, "activations_1");
    call.d_out = length(output_grads_1, 2, "output_grads_1");
    call.activations_1 = input<T>(activations_1, "activations_1", {items, call.positions_1, call.d_in});
    call.output_grads_1 = input<T>(output_grads_1, "output_grads_1", {items, call.positions_1, call.d_out});
    call.activations_2 = input<T>(activations_2, "activations_2", {items, call.positions_2, call.d_in});
    call.output_grads_2 = input<T>(output_grads_2, "output_grads_2", {items, call.positions_2, call.d_out});
    call.out = output<double>(out, "out", {items});
    const auto& kernels = kernels_of<T>(linear_table());
    run(call, kernels.dots, kernels.dots_workspace(call), items, threads);
  });
}

void embedding_linear_grad_dots(const py::array& indices, const py::array& embedding_grads,
                                const py::array& row_factors, const py::array& column_factors, long padding_idx,
                                py::array& out, int threads) {
  by_dtype(embedding_grads, [&](auto zero) {
    using T = decltype(zero);
    EmbeddingLinearDots<T> call;
    const long items = length(indices, 0, "indices");
    call.n_tokens = length(indices, 1, "indices");
    call.width = length(embedding_grads, 2, "embedding_grads");
    call.positions = length(row_factors, 1, "row_factors");
    call.rows = length(row_factors, 2, "row_factors");
    static_assert(sizeof(long) == sizeof(std::int64_t), "token indices are int64");
    call.tokens = input<long>(indices, "indices", {items, call.n_tokens});
    require_within(call.tokens, items * call.n_tokens, "indices", 0, call.rows);
    call.embedding_grads = input<T>(embedding_grads, "embedding_grads", {items, call.n_tokens, call.width});
    call.row_factors = input<T>(row_factors, "row_factors", {items, call.positions, call.rows});
    call.column_factors = input<T>(column_factors, "column_factors", {items, call.positions, call.width});
    call.padding_token = padding_idx;
    call.out = output<double>(out, "out", {items});
    const auto& kernels = kernels_of<T>(linear_table());
    run(call, kernels.embedding_dots, kernels.embedding_dots_workspace(call), items, threads);
  });
}

void conv_grad_norms(const py::array& activations, const py::array& output_grads, long groups, const py::array& padded,
                     const py::object& pad_maps, const py::array& position_offsets, const py::array& feature_offsets,
                     bool bias, bool squared, py::array& out, int threads) {
  by_dtype(activations, [&](auto zero) {
    using T = decltype(zero);
    ConvNorms<T> call;
    const long items = length(activations, 0, "activations");
    call.channels = length(activations, 1, "activations");
    call.out_channels = length(output_grads, 1, "output_grads");
    call.positions = length(output_grads, 2, "output_grads");
    call.groups = groups;
    for (int axis = 0; axis < 3; ++axis) call.source[axis] = length(activations, 2 + axis, "activations");
    call.images = input<T>(activations, "activations", {items, call.channels, -1, -1, -1});
    call.output_grads = input<T>(output_grads, "output_grads", {items, call.out_channels, call.positions});
    require_group_count(groups, call.channels, "groups", "activations");
    require_group_count(groups, call.out_channels, "groups", "output_grads");
    const long* lengths = input<long>(padded, "padded", {3});
    require_within(lengths, 3, "padded", 0, kMostPixels + 1);
    long plane = 1, map_length = 0;
    for (int axis = 0; axis < 3; ++axis) {
      call.padded[axis] = lengths[axis];
      map_length += lengths[axis];
      plane *= lengths[axis];
      if (plane > kMostPixels) throw py::value_error("padded must have fewer than 2**31 entries in all");
    }
    const int* map = optional_input<int>(pad_maps, "pad_maps", {map_length});
    for (int axis = 0; axis < 3; ++axis) {
      call.pad_map[axis] = map;
      if (map == nullptr) {
        if (call.padded[axis] != call.source[axis])
          throw py::value_error("padded must be the spatial shape of activations without pad_maps");
      } else {
        require_within(map, call.padded[axis], "pad_maps", -1, call.source[axis]);
        map += call.padded[axis];
      }
    }
    call.position_offsets = input<int>(position_offsets, "position_offsets", {call.positions});
    call.features = length(feature_offsets, 0, "feature_offsets");
    call.feature_offsets = input<int>(feature_offsets, "feature_offsets", {call.features});
    const long in_channels = call.channels / groups;
    if (in_channels == 0 ? call.features != 0 : call.features % in_channels != 0)
      throw py::value_error("feature_offsets must have as many entries for every channel of a group of activations");
    if (call.positions > 0) {  // the last pixel read is that of the largest position and the largest feature
      require_within(call.feature_offsets, call.features, "feature_offsets", 0, in_channels * plane);
      int last = 0;
      for (long k = 0; k < call.features; ++k) last = call.feature_offsets[k] > last ? call.feature_offsets[k] : last;
      require_within(call.position_offsets, call.positions, "position_offsets", 0,
                     call.features == 0 ? kMostPixels : in_channels * plane - last);
    }
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    const auto& kernels = kernels_of<T>(conv_table());
    run(call, kernels.norms, kernels.norms_workspace(call), items, threads);
  });
}

void embedding_grad_norms(const py::array& indices, const py::array& output_grads, long padding_idx, bool squared,
                          py::array& out, int threads) {
  by_dtype(output_grads, [&](auto zero) {
    using T = decltype(zero);
    EmbeddingNorms<T> call;
    const long items = length(indices, 0, "indices");
    call.n_tokens = length(indices, 1, "indices");
    call.width = length(output_grads, 2, "output_grads");
    call.tokens = input<long>(indices, "indices", {items, call.n_tokens});
    call.output_grads = input<T>(output_grads, "output_grads", {items, call.n_tokens, call.width});
    call.padding_token = padding_idx;
    call.squared = squared;
    call.out = output<double>(out, "out", {items});
    const auto& kernels = kernels_of<T>(layer_table());
    run(call, kernels.embedding, kernels.embedding_workspace(call), items, threads);
  });
}

void norm_layer_grad_norms(const py::array& activations, const py::array& output_grads, int kind, long n_groups,
                           double eps, bool normalized, bool weight, bool bias, bool squared, py::array& out,
                           int threads) {
  by_dtype(activations, [&](auto zero) {
    using T = decltype(zero);
    NormLayerNorms<T> call;
    const long items = length(activations, 0, "activations");
    if (kind < 0 || kind > 2) throw py::value_error("kind must be 0, 1 or 2, got " + std::to_string(kind));
    call.kind = static_cast<NormKind>(kind);
    const bool group = call.kind == NormKind::group;
    call.width = length(activations, group ? 1 : 2, "activations");
    call.positions = length(activations, group ? 2 : 1, "activations");
    const long rows = group ? call.width : call.positions, columns = group ? call.positions : call.width;
    call.activations = input<T>(activations, "activations", {items, rows, columns});
    call.output_grads = input<T>(output_grads, "output_grads", {items, rows, columns});
    if (group && !normalized) require_group_count(n_groups, call.width, "n_groups", "activations");
    call.n_groups = n_groups;
    call.eps = eps;
    call.normalized = normalized;
    call.weight = weight;
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    const auto& kernels = kernels_of<T>(layer_table());
    run(call, kernels.norm_layer, kernels.norm_layer_workspace(call), items, threads);
  });
}

void probe_grad_norms(const py::array& X, const py::array& weights, const py::array& y, int loss, double alpha,
                      const py::object& checkpoint_weights, bool squared, py::array& out, int threads,
                      py::object proxies, long early) {
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    ProbeNorms<T> call;
    const long items = length(X, 0, "X");
    if (loss < 0 || loss > 2) throw py::value_error("loss must be 0, 1 or 2, got " + std::to_string(loss));
    call.loss = static_cast<ProbeLoss>(loss);
    call.d = length(X, 1, "X");
    call.checkpoints = length(weights, 0, "weights");
    call.classes = length(weights, 2, "weights");
    call.x = input<T>(X, "X", {items, call.d});
    call.weights = input<T>(weights, "weights", {call.checkpoints, call.d, call.classes});
    call.labels = nullptr;
    call.targets = nullptr;
    if (call.loss == ProbeLoss::squared)
      call.targets = input<T>(y, "y", {items, call.classes});
    else
      call.labels = input<long>(y, "y", {items});
    if (call.loss == ProbeLoss::logistic && call.classes != 1)
      throw py::value_error("weights must have length 1 along axis 2 for the logistic loss, got shape " +
                            shape_text(weights));
    if (call.labels != nullptr)
      require_within(call.labels, items, "y", 0, call.loss == ProbeLoss::logistic ? 2 : call.classes);
    call.checkpoint_weights = optional_input<double>(checkpoint_weights, "checkpoint_weights", {call.checkpoints});
    call.alpha = alpha;
    call.squared = squared;
    call.out = call.checkpoint_weights != nullptr ? output<double>(out, "out", {items})
                                                  : output<double>(out, "out", {items, call.checkpoints});
    if (!proxies.is_none()) {
      if (!py::isinstance<py::array>(proxies)) throw py::type_error("proxies must be an array or None");
      py::array array = py::reinterpret_borrow<py::array>(proxies);
      call.proxies = output<double>(array, "proxies", {items, 3});
      require_within(&early, 1, "early", 0, call.checkpoints);
      call.early = early;
    }
    const auto& kernels = kernels_of<T>(probe_table());
    Workspaces packed(kernels.packed_length(call) * static_cast<long>(sizeof(T)), 1);
    std::vector<double> weight_squares(static_cast<std::size_t>(call.checkpoints));
    T* buffer = reinterpret_cast<T*>(packed.take());
    {
      py::gil_scoped_release release;
      kernels.pack(call, buffer, weight_squares.data());
    }
    call.packed_weights = buffer;
    call.weight_squares = weight_squares.data();
    run(call, kernels.norms, kernels.workspace(call), items, threads, kProbeTileRows);
  });
}

}  // namespace

void bind_grad_norms(py::module_& module) {
  using py::arg;
  module.def("linear_grad_norms", &linear_grad_norms, arg("activations"), arg("output_grads"), arg("bias"),
             arg("squared"), arg("out"), py::kw_only(), arg("threads") = 0);
  module.def("linear_grad_dots", &linear_grad_dots, arg("activations_1"), arg("output_grads_1"), arg("activations_2"),
             arg("output_grads_2"), arg("out"), py::kw_only(), arg("threads") = 0);
  module.def("embedding_linear_grad_dots", &embedding_linear_grad_dots, arg("indices"), arg("embedding_grads"),
             arg("row_factors"), arg("column_factors"), arg("padding_idx"), arg("out"), py::kw_only(),
             arg("threads") = 0);
  module.def("conv_grad_norms", &conv_grad_norms, arg("activations"), arg("output_grads"), arg("groups"), arg("padded"),
             arg("pad_maps").none(true), arg("position_offsets"), arg("feature_offsets"), arg("bias"), arg("squared"),
             arg("out"), py::kw_only(), arg("threads") = 0);
  module.def("embedding_grad_norms", &embedding_grad_norms, arg("indices"), arg("output_grads"), arg("padding_idx"),
             arg("squared"), arg("out"), py::kw_only(), arg("threads") = 0);
  module.def("norm_layer_grad_norms", &norm_layer_grad_norms, arg("activations"), arg("output_grads"), arg("kind"),
             arg("n_groups"), arg("eps"), arg("normalized"), arg("weight"), arg("bias"), arg("squared"), arg("out"),
             py::kw_only(), arg("threads") = 0);
  module.def("probe_grad_norms", &probe_grad_norms, arg("X"), arg("weights"), arg("y"), arg("loss"), arg("alpha"),
             arg("checkpoint_weights").none(true), arg("squared"), arg("out"), py::kw_only(), arg("threads") = 0,
             arg("proxies").none(true) = py::none(), arg("early") = 0);
}

}  // namespace expunge::bindings
