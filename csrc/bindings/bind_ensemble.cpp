// Binding of the kernel for many small networks, which is on the host alone.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#include "ensemble/ensemble.hpp"

namespace expunge::bindings {
namespace {

using ensemble::Call;
using ensemble::Kind;
using ensemble::Layer;

constexpr long kColumns = 14;            // of the plan
constexpr long kMost = 1L << 20;         // of every entry, so that their products fit 64 bits
constexpr long kMembersAtOnce = 4;       // that share scratch memory
constexpr long kMostNumbers = 1L << 30;  // between two layers, for one row

[[noreturn]] void refuse_layer(long k, const std::string& text) {
  refuse("plan", "have " + text + ", got another in layer " + std::to_string(k));
}

long weights_of(const Layer& layer) {
  switch (layer.kind) {
    case Kind::convolution: return layer.out_channels * layer.channels * layer.size[0] * layer.size[1];
    case Kind::matrix: return layer.out_channels * layer.channels;
    default: return layer.channels;
  }
}

// A row of the plan: kind, the input's height, width and channels, size, stride and padding of windows (down, across),
// output channels, groups, and where a member's parameters have the weight and the bias.
Layer layer_of(long k, const std::int64_t* row, double eps, const Layer* before, long n_parameters) {
  for (long j = 0; j < 12; ++j)
    if (row[j] < 0 || row[j] > kMost) refuse_layer(k, "entries from 0 to " + std::to_string(kMost));
  if (row[0] >= ensemble::kKinds) refuse_layer(k, "known kinds");
  Layer layer = {};
  layer.kind = static_cast<Kind>(row[0]);
  layer.height = row[1];
  layer.width = row[2];
  layer.channels = row[3];
  for (long i = 0; i < 2; ++i) {
    layer.size[i] = row[4 + i];
    layer.stride[i] = row[6 + i];
    layer.padding[i] = row[8 + i];
  }
  layer.groups = row[11];
  layer.weight = row[12];
  layer.bias = row[13];
  layer.eps = eps;
  if (layer.height < 1 || layer.width < 1 || layer.channels < 1) refuse_layer(k, "inputs that are not empty");
  if (before != nullptr && (layer.height != before->out_height || layer.width != before->out_width ||
                            layer.channels != before->out_channels))
    refuse_layer(k, "inputs of the shape that the layer before makes");
  layer.out_height = layer.height;
  layer.out_width = layer.width;
  layer.out_channels = layer.channels;
  if (layer.windowed()) {
    long out[2];
    const long within[2] = {layer.height, layer.width};
    for (long i = 0; i < 2; ++i) {
      const long padded = within[i] + 2 * layer.padding[i];
      if (layer.stride[i] < 1 || layer.size[i] < 1 || layer.size[i] > padded)
        refuse_layer(k, "windows that fit into the input");
      if (layer.kind == Kind::max_pool && 2 * layer.padding[i] > layer.size[i])
        refuse_layer(k, "windows of a pool that are half in the input");
      out[i] = (padded - layer.size[i]) / layer.stride[i] + 1;
    }
    layer.out_height = out[0];
    layer.out_width = out[1];
  }
  if (layer.kind == Kind::flatten) {
    layer.out_height = layer.out_width = 1;
    layer.out_channels = layer.in();
  }
  const bool changes = layer.kind == Kind::convolution || layer.kind == Kind::matrix;
  if (changes) layer.out_channels = row[10];
  if (layer.out_channels < 1) refuse_layer(k, "at least one output");
  if (layer.kind == Kind::matrix && (layer.height != 1 || layer.width != 1)) refuse_layer(k, "matrices behind vectors");
  if (layer.kind == Kind::norm && (layer.groups < 1 || layer.channels % layer.groups != 0))
    refuse_layer(k, "groups that divide the channels");
  if (layer.kind == Kind::norm && !(eps > 0.0)) refuse("eps", "be above 0 for a norm");
  const double across = static_cast<double>(layer.width + 2 * layer.padding[1]);
  const double largest = static_cast<double>(layer.height + 2 * layer.padding[0]) * across *
                         static_cast<double>(layer.channels + layer.out_channels);
  if (!(largest <= static_cast<double>(kMostNumbers))) refuse_layer(k, "less than 2**30 numbers in an input");
  if (changes || layer.kind == Kind::norm) {
    const long n = weights_of(layer);
    const auto fits = [&](long at, long count) {
      return at >= 0 && count <= n_parameters && at <= n_parameters - count;
    };
    if (!(layer.weight == -1 && !changes) && !fits(layer.weight, n)) refuse_layer(k, "weights among the parameters");
    if (layer.bias != -1 && !fits(layer.bias, layer.out_channels)) refuse_layer(k, "biases among the parameters");
  }
  return layer;
}

template <class T>
long scratch_of(const Call<T>& call) {
  if constexpr (sizeof(T) == 8)
    return ensemble::table().scratch_f64(call);
  else
    return ensemble::table().scratch_f32(call);
}

template <class T>
void gradients_of(const Call<T>& call, long begin, long end, double* scratch) {
  if constexpr (sizeof(T) == 8)
    ensemble::table().gradients_f64(call, begin, end, scratch);
  else
    ensemble::table().gradients_f32(call, begin, end, scratch);
}

template <class T>
void run_members(const Array& plan, const Array& eps, const Array& parameters, const Array& images, const Array& labels,
                 const Array& rows, const Array& ends, const Array& gradients, const Array& losses, Place& place) {
  Call<T> call = {};
  call.n_layers = length(plan, 0);
  const std::int64_t* const lines = input<std::int64_t>(plan, {call.n_layers, kColumns});
  const double* const each = input<double>(eps, {call.n_layers});
  const long members = call.members = length(parameters, 0);
  call.n_parameters = length(parameters, 1);
  call.parameters = input<T>(parameters, {members, call.n_parameters});
  const long n = length(images, 0);
  if (call.n_layers < 1) refuse("plan", "have at least one layer, got shape " + shape_text(plan));
  std::vector<Layer> layers;
  for (long k = 0; k < call.n_layers; ++k)
    layers.push_back(layer_of(k, lines + k * kColumns, each[k], k > 0 ? &layers.back() : nullptr, call.n_parameters));
  call.layers = layers.data();
  call.images = input<T>(images, {n, layers.front().in()});
  call.labels = input<std::int64_t>(labels, {n});
  const long taken = length(rows, 0);
  call.rows = input<std::int64_t>(rows, {taken});
  call.ends = input<std::int64_t>(ends, {members});
  call.gradients = output<T>(gradients, {members, call.n_parameters});
  call.losses = output<T>(losses, {taken});
  const long classes = layers.back().out();
  for (long i = 0; i < taken; ++i) {
    if (call.rows[i] < 0 || call.rows[i] >= n)
      refuse("rows", "be below " + std::to_string(n) + ", got " + std::to_string(call.rows[i]));
    const std::int64_t label = call.labels[call.rows[i]];
    if (label < 0 || label >= classes)
      refuse("labels", "be below " + std::to_string(classes) + ", got " + std::to_string(label));
  }
  for (long m = 0; m < members; ++m)
    if (call.ends[m] < (m > 0 ? call.ends[m - 1] : 0) || call.ends[m] > taken)
      refuse("ends", "increase up to " + std::to_string(taken) + ", got " + std::to_string(call.ends[m]));
  if (taken > 0 && (members == 0 || call.ends[members - 1] != taken))
    refuse("ends", "end with " + std::to_string(taken) + ", the number of rows");
  const long threads = place.threads > 0 ? place.threads : default_threads();
  long grain = (members + threads - 1) / threads;
  grain = grain < 1 ? 1 : grain > kMembersAtOnce ? kMembersAtOnce : grain;
  place.run_with_scratch(members, grain, scratch_of(call),
                         [&](long begin, long end, double* scratch) { gradients_of(call, begin, end, scratch); });
}

void network_gradients(const Array& plan, const Array& eps, const Array& parameters, const Array& images,
                       const Array& labels, const Array& rows, const Array& ends, const Array& gradients,
                       const Array& losses, Place& place) {
  const auto run = parameters.is<double>() ? &run_members<double> : &run_members<float>;
  run(plan, eps, parameters, images, labels, rows, ends, gradients, losses, place);
}

}  // namespace

void bind_ensemble(py::module_& module) {
  define<9>(module, "network_gradients", &network_gradients,
            {"plan", "eps", "parameters", "images", "labels", "rows", "ends", "gradients", "losses"});
}

}  // namespace expunge::bindings
