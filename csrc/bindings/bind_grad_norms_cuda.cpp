#include "bindings/bind_grad_norms_cuda.hpp"

#include <optional>

#include "bindings/arrays.hpp"
#include "bindings/device_arrays.hpp"
#include "grad_norms/grad_norms.cuh"

namespace expunge::bindings {
namespace {

using namespace expunge::grad_norms;

using Stream = std::uintptr_t;

constexpr long kMostPixels = 2147483647;  // offsets are 32-bit

static_assert(sizeof(long) == sizeof(std::int64_t), "token indices are int64");

// Workspaces are float64 arrays: they count doubles.
long doubles(long bytes) { return (bytes + 7) / 8; }

char* scratch_of(const Array& workspace_array, long bytes) {
  return reinterpret_cast<char*>(workspace<double>(workspace_array, doubles(bytes)));
}

const long* indices_of(const Array& array, std::initializer_list<long> shape) {
  return input<std::int64_t>(array, shape);
}

void require_group_count(long groups, long channels, const char* name, const char* of) {
  if (groups < 1 || channels % groups != 0)
    throw py::value_error(std::string(name) + " must divide the " + std::to_string(channels) + " channels of " + of +
                          ", got " + std::to_string(groups));
}

// The kernel's dtype by its size in bytes: what the *_workspace functions are told.
template <class Run>
long by_itemsize(int itemsize, Run run) {
  if (itemsize == 8) return run(double{});
  if (itemsize == 4) return run(float{});
  throw py::value_error("itemsize must be 4 or 8, got " + std::to_string(itemsize));
}

// out is (items), or (2, items) with the norms of weights in row 0 and those of biases in row 1.
template <class Call>
void set_out(Call& call, const Array& out, long items) {
  const bool apart = out.ndim() == 2;
  call.out = apart ? output<double>(out, {2, items}) : output<double>(out, {items});
  call.bias_out = apart ? call.out + items : nullptr;
}

// --- linear ----------------------------------------------------------------------------------------

long linear_grad_norms_workspace(long examples, long positions, long d_in, long d_out, bool bias, int itemsize) {
  const auto bytes = [&](auto zero) {
    LinearNorms<decltype(zero)> call{};
    call.positions = positions;
    call.d_in = d_in;
    call.d_out = d_out;
    call.bias = bias;
    return doubles(device::linear_norms_workspace(call, examples));
  };
  return itemsize == 2 ? bytes(bfloat16{}) : by_itemsize(itemsize, bytes);
}

template <class T>
void linear_grad_norms_of(const Array& activations, const Array& output_grads, bool bias, bool squared,
                          const Array& out, const Array& scratch, Stream stream) {
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
  char* work = scratch_of(scratch, device::linear_norms_workspace(call, items));
  run_on_device({&activations, &output_grads, &out, &scratch}, stream,
                [&](cudaStream_t on) { return device::linear_norms(call, items, work, on); });
}

void linear_grad_norms(const py::object& activations_array, const py::object& output_grads_array, bool bias,
                       bool squared, const py::object& out_array, const py::object& workspace_array, Stream stream) {
  const Array activations(activations_array, "activations"), output_grads(output_grads_array, "output_grads"),
      out(out_array, "out"), scratch(workspace_array, "workspace");
  if (has_type<bfloat16>(activations))
    return linear_grad_norms_of<bfloat16>(activations, output_grads, bias, squared, out, scratch, stream);
  by_dtype(activations, [&](auto zero) {
    linear_grad_norms_of<decltype(zero)>(activations, output_grads, bias, squared, out, scratch, stream);
  });
}

long linear_grad_dots_workspace(long examples, long positions_1, long positions_2, long d_in, long d_out,
                                int itemsize) {
  return by_itemsize(itemsize, [&](auto zero) {
    LinearDots<decltype(zero)> call{};
    call.positions_1 = positions_1;
    call.positions_2 = positions_2;
    call.d_in = d_in;
    call.d_out = d_out;
    return doubles(device::linear_dots_workspace(call, examples));
  });
}

void linear_grad_dots(const py::object& activations_1_array, const py::object& output_grads_1_array,
                      const py::object& activations_2_array, const py::object& output_grads_2_array,
                      const py::object& out_array, const py::object& workspace_array, Stream stream) {
  const Array activations_1(activations_1_array, "activations_1"),
      output_grads_1(output_grads_1_array, "output_grads_1"), activations_2(activations_2_array, "activations_2"),
      output_grads_2(output_grads_2_array, "output_grads_2"), out(out_array, "out"),
      scratch(workspace_array, "workspace");
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
    char* work = scratch_of(scratch, device::linear_dots_workspace(call, items));
    run_on_device({&activations_1, &output_grads_1, &activations_2, &output_grads_2, &out, &scratch}, stream,
                  [&](cudaStream_t on) { return device::linear_dots(call, items, work, on); });
  });
}

long embedding_linear_grad_dots_workspace(long examples, long n_tokens, long positions, long rows, long width,
                                          int itemsize) {
  return by_itemsize(itemsize, [&](auto zero) {
    EmbeddingLinearDots<decltype(zero)> call{};
    call.n_tokens = n_tokens;
    call.positions = positions;
    call.rows = rows;
    call.width = width;
    return doubles(device::embedding_linear_dots_workspace(call, examples));
  });
}

void embedding_linear_grad_dots(const py::object& indices_array, const py::object& embedding_grads_array,
                                const py::object& row_factors_array, const py::object& column_factors_array,
                                long padding_idx, const py::object& out_array, const py::object& workspace_array,
                                Stream stream) {
  const Array indices(indices_array, "indices"), embedding_grads(embedding_grads_array, "embedding_grads"),
      row_factors(row_factors_array, "row_factors"), column_factors(column_factors_array, "column_factors"),
      out(out_array, "out"), scratch(workspace_array, "workspace");
  by_dtype(embedding_grads, [&](auto zero) {
    using T = decltype(zero);
    EmbeddingLinearDots<T> call{};
    const long items = length(indices, 0);
    call.n_tokens = length(indices, 1);
    call.width = length(embedding_grads, 2);
    call.positions = length(row_factors, 1);
    call.rows = length(row_factors, 2);
    call.tokens = indices_of(indices, {items, call.n_tokens});
    call.embedding_grads = input<T>(embedding_grads, {items, call.n_tokens, call.width});
    call.row_factors = input<T>(row_factors, {items, call.positions, call.rows});
    call.column_factors = input<T>(column_factors, {items, call.positions, call.width});
    call.padding_token = padding_idx;
    call.out = output<double>(out, {items});
    char* work = scratch_of(scratch, device::embedding_linear_dots_workspace(call, items));
    run_on_device({&indices, &embedding_grads, &row_factors, &column_factors, &out, &scratch}, stream,
                  [&](cudaStream_t on) { return device::embedding_linear_dots(call, items, work, on); });
  });
}

// --- convolutions -----------------------------------------------------------------------------------

// `padded` is host memory, like a shape: three lengths.
void padded_lengths(const py::array& padded, long (&lengths)[3]) {
  const long* given = input<long>(padded, "padded", {3});
  long plane = 1;
  for (int axis = 0; axis < 3; ++axis) {
    lengths[axis] = given[axis];
    if (lengths[axis] < 0 || lengths[axis] > kMostPixels)
      throw py::value_error("padded must be within [0, " + std::to_string(kMostPixels + 1) + "), got " +
                            std::to_string(lengths[axis]));
    plane *= lengths[axis];
    if (plane > kMostPixels) throw py::value_error("padded must have fewer than 2**31 entries in all");
  }
}

long conv_grad_norms_workspace(long examples, long channels, long out_channels, long groups, long padded_entries,
                               long positions, long features, bool bias, int itemsize) {
  require_group_count(groups, channels, "groups", "activations");
  require_group_count(groups, out_channels, "groups", "output_grads");
  return by_itemsize(itemsize, [&](auto zero) {
    ConvNorms<decltype(zero)> call{};
    call.channels = channels;
    call.out_channels = out_channels;
    call.groups = groups;
    call.padded[0] = call.padded[1] = 1;
    call.padded[2] = padded_entries;
    call.positions = positions;
    call.features = features;
    call.bias = bias;
    return doubles(device::conv_norms_workspace(call, examples));
  });
}

void conv_grad_norms(const py::object& activations_array, const py::object& output_grads_array, long groups,
                     const py::array& padded, const py::object& pad_maps_array,
                     const py::object& position_offsets_array, const py::object& feature_offsets_array, bool bias,
                     bool squared, const py::object& out_array, const py::object& workspace_array, Stream stream) {
  const Array activations(activations_array, "activations"), output_grads(output_grads_array, "output_grads"),
      position_offsets(position_offsets_array, "position_offsets"),
      feature_offsets(feature_offsets_array, "feature_offsets"), out(out_array, "out"),
      scratch(workspace_array, "workspace");
  std::optional<Array> pad_maps;
  if (!pad_maps_array.is_none()) pad_maps.emplace(pad_maps_array, "pad_maps");
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
    padded_lengths(padded, call.padded);
    if (pad_maps) {
      const int* map = input<std::int32_t>(*pad_maps, {call.padded[0] + call.padded[1] + call.padded[2]});
      for (int axis = 0; axis < 3; ++axis) {
        call.pad_map[axis] = map;
        map += call.padded[axis];
      }
    } else {
      for (int axis = 0; axis < 3; ++axis) {
        call.pad_map[axis] = nullptr;
        if (call.padded[axis] != call.source[axis])
          throw py::value_error("padded must be the spatial shape of activations without pad_maps");
      }
    }
    call.position_offsets = input<std::int32_t>(position_offsets, {call.positions});
    call.features = length(feature_offsets, 0);
    call.feature_offsets = input<std::int32_t>(feature_offsets, {call.features});
    const long in_channels = call.channels / groups;
    if (in_channels == 0 ? call.features != 0 : call.features % in_channels != 0)
      throw py::value_error("feature_offsets must have as many entries for every channel of a group of activations");
    if (in_channels * call.padded[0] * call.padded[1] * call.padded[2] > kMostPixels)
      throw py::value_error("padded must have fewer than 2**31 entries in all channels of a group");
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    char* work = scratch_of(scratch, device::conv_norms_workspace(call, items));
    run_on_device({&activations, &output_grads, &position_offsets, &feature_offsets, &out, &scratch,
                   pad_maps ? &*pad_maps : nullptr},
                  stream, [&](cudaStream_t on) { return device::conv_norms(call, items, work, on); });
  });
}

// --- embeddings and normalising layers ---------------------------------------------------------------

long embedding_grad_norms_workspace(long examples, long n_tokens, long width, int itemsize) {
  return by_itemsize(itemsize, [&](auto zero) {
    EmbeddingNorms<decltype(zero)> call{};
    call.n_tokens = n_tokens;
    call.width = width;
    return doubles(device::embedding_norms_workspace(call, examples));
  });
}

void embedding_grad_norms(const py::object& indices_array, const py::object& output_grads_array, long padding_idx,
                          bool squared, const py::object& out_array, const py::object& workspace_array, Stream stream) {
  const Array indices(indices_array, "indices"), output_grads(output_grads_array, "output_grads"),
      out(out_array, "out"), scratch(workspace_array, "workspace");
  by_dtype(output_grads, [&](auto zero) {
    using T = decltype(zero);
    EmbeddingNorms<T> call{};
    const long items = length(indices, 0);
    call.n_tokens = length(indices, 1);
    call.width = length(output_grads, 2);
    call.tokens = indices_of(indices, {items, call.n_tokens});
    call.output_grads = input<T>(output_grads, {items, call.n_tokens, call.width});
    call.padding_token = padding_idx;
    call.squared = squared;
    call.out = output<double>(out, {items});
    char* work = scratch_of(scratch, device::embedding_norms_workspace(call, items));
    run_on_device({&indices, &output_grads, &out, &scratch}, stream,
                  [&](cudaStream_t on) { return device::embedding_norms(call, items, work, on); });
  });
}

NormKind norm_kind(int kind) {
  if (kind < 0 || kind > 2) throw py::value_error("kind must be 0, 1 or 2, got " + std::to_string(kind));
  return static_cast<NormKind>(kind);
}

long norm_layer_grad_norms_workspace(long examples, long positions, long width, int kind, long n_groups,
                                     bool normalized, bool weight, int itemsize) {
  return by_itemsize(itemsize, [&](auto zero) {
    NormLayerNorms<decltype(zero)> call{};
    call.positions = positions;
    call.width = width;
    call.kind = norm_kind(kind);
    call.n_groups = n_groups;
    call.normalized = normalized;
    call.weight = weight;
    return doubles(device::norm_layer_norms_workspace(call, examples));
  });
}

void norm_layer_grad_norms(const py::object& activations_array, const py::object& output_grads_array, int kind,
                           long n_groups, double eps, bool normalized, bool weight, bool bias, bool squared,
                           const py::object& out_array, const py::object& workspace_array, Stream stream) {
  const Array activations(activations_array, "activations"), output_grads(output_grads_array, "output_grads"),
      out(out_array, "out"), scratch(workspace_array, "workspace");
  by_dtype(activations, [&](auto zero) {
    using T = decltype(zero);
    NormLayerNorms<T> call{};
    const long items = length(activations, 0);
    call.kind = norm_kind(kind);
    const bool group = call.kind == NormKind::group;
    call.width = length(activations, group ? 1 : 2);
    call.positions = length(activations, group ? 2 : 1);
    const long rows = group ? call.width : call.positions, columns = group ? call.positions : call.width;
    call.activations = input<T>(activations, {items, rows, columns});
    call.output_grads = input<T>(output_grads, {items, rows, columns});
    if (group && !normalized) require_group_count(n_groups, call.width, "n_groups", "activations");
    call.n_groups = n_groups;
    call.eps = eps;
    call.normalized = normalized;
    call.weight = weight;
    call.bias = bias;
    call.squared = squared;
    set_out(call, out, items);
    char* work = scratch_of(scratch, device::norm_layer_norms_workspace(call, items));
    run_on_device({&activations, &output_grads, &out, &scratch}, stream,
                  [&](cudaStream_t on) { return device::norm_layer_norms(call, items, work, on); });
  });
}

// --- probes --------------------------------------------------------------------------------------------

long probe_grad_norms_workspace(long checkpoints) {
  ProbeNorms<double> call{};
  call.checkpoints = checkpoints;
  return doubles(device::probe_norms_workspace(call, 0));
}

void probe_grad_norms(const py::object& X_array, const py::object& weights_array, const py::object& y_array, int loss,
                      double alpha, const py::object& checkpoint_weights_array, bool squared,
                      const py::object& out_array, const py::object& logits_array, const py::object& workspace_array,
                      Stream stream) {
  const Array X(X_array, "X"), weights(weights_array, "weights"), y(y_array, "y"), out(out_array, "out"),
      logits(logits_array, "logits"), scratch(workspace_array, "workspace");
  std::optional<Array> checkpoint_weights;
  if (!checkpoint_weights_array.is_none()) checkpoint_weights.emplace(checkpoint_weights_array, "checkpoint_weights");
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    ProbeNorms<T> call{};
    const long items = length(X, 0);
    if (loss < 0 || loss > 2) throw py::value_error("loss must be 0, 1 or 2, got " + std::to_string(loss));
    call.loss = static_cast<ProbeLoss>(loss);
    call.d = length(X, 1);
    call.checkpoints = length(weights, 0);
    call.classes = length(weights, 2);
    call.x = input<T>(X, {items, call.d});
    call.weights = input<T>(weights, {call.checkpoints, call.d, call.classes});
    if (call.loss == ProbeLoss::squared)
      call.targets = input<T>(y, {items, call.classes});
    else
      call.labels = indices_of(y, {items});
    if (call.loss == ProbeLoss::logistic && call.classes != 1)
      throw py::value_error("weights must have length 1 along axis 2 for the logistic loss, got shape " +
                            weights.shape_text());
    if (checkpoint_weights) call.checkpoint_weights = input<double>(*checkpoint_weights, {call.checkpoints});
    call.alpha = alpha;
    call.squared = squared;
    call.out = checkpoint_weights ? output<double>(out, {items}) : output<double>(out, {items, call.checkpoints});
    const T* products = input<T>(logits, {items, call.checkpoints, call.classes});
    char* work = scratch_of(scratch, device::probe_norms_workspace(call, items));
    run_on_device({&X, &weights, &y, &out, &logits, &scratch, checkpoint_weights ? &*checkpoint_weights : nullptr},
                  stream, [&](cudaStream_t on) { return device::probe_norms(call, products, items, work, on); });
  });
}

}  // namespace

void bind_grad_norms_cuda(py::module_& module) {
  using py::arg;
  module.def("linear_grad_norms_workspace", &linear_grad_norms_workspace, arg("examples"), arg("positions"),
             arg("d_in"), arg("d_out"), arg("bias"), arg("itemsize"));
  module.def("linear_grad_norms", &linear_grad_norms, arg("activations"), arg("output_grads"), arg("bias"),
             arg("squared"), arg("out"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("linear_grad_dots_workspace", &linear_grad_dots_workspace, arg("examples"), arg("positions_1"),
             arg("positions_2"), arg("d_in"), arg("d_out"), arg("itemsize"));
  module.def("linear_grad_dots", &linear_grad_dots, arg("activations_1"), arg("output_grads_1"), arg("activations_2"),
             arg("output_grads_2"), arg("out"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("embedding_linear_grad_dots_workspace", &embedding_linear_grad_dots_workspace, arg("examples"),
             arg("n_tokens"), arg("positions"), arg("rows"), arg("width"), arg("itemsize"));
  module.def("embedding_linear_grad_dots", &embedding_linear_grad_dots, arg("indices"), arg("embedding_grads"),
             arg("row_factors"), arg("column_factors"), arg("padding_idx"), arg("out"), py::kw_only(), arg("workspace"),
             arg("stream"));
  module.def("conv_grad_norms_workspace", &conv_grad_norms_workspace, arg("examples"), arg("channels"),
             arg("out_channels"), arg("groups"), arg("padded_entries"), arg("positions"), arg("features"), arg("bias"),
             arg("itemsize"));
  module.def("conv_grad_norms", &conv_grad_norms, arg("activations"), arg("output_grads"), arg("groups"), arg("padded"),
             arg("pad_maps").none(true), arg("position_offsets"), arg("feature_offsets"), arg("bias"), arg("squared"),
             arg("out"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("embedding_grad_norms_workspace", &embedding_grad_norms_workspace, arg("examples"), arg("n_tokens"),
             arg("width"), arg("itemsize"));
  module.def("embedding_grad_norms", &embedding_grad_norms, arg("indices"), arg("output_grads"), arg("padding_idx"),
             arg("squared"), arg("out"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("norm_layer_grad_norms_workspace", &norm_layer_grad_norms_workspace, arg("examples"), arg("positions"),
             arg("width"), arg("kind"), arg("n_groups"), arg("normalized"), arg("weight"), arg("itemsize"));
  module.def("norm_layer_grad_norms", &norm_layer_grad_norms, arg("activations"), arg("output_grads"), arg("kind"),
             arg("n_groups"), arg("eps"), arg("normalized"), arg("weight"), arg("bias"), arg("squared"), arg("out"),
             py::kw_only(), arg("workspace"), arg("stream"));
  module.def("probe_grad_norms_workspace", &probe_grad_norms_workspace, arg("checkpoints"));
  module.def("probe_grad_norms", &probe_grad_norms, arg("X"), arg("weights"), arg("y"), arg("loss"), arg("alpha"),
             arg("checkpoint_weights").none(true), arg("squared"), arg("out"), py::kw_only(), arg("logits"),
             arg("workspace"), arg("stream"));
}

}  // namespace expunge::bindings
