#include "bindings/bind_privacy_cuda.hpp"

#include "bindings/device_arrays.hpp"
#include "privacy/privacy.cuh"

namespace expunge::bindings {
namespace {

using Stream = std::uintptr_t;
namespace device = privacy::device;

using Elementwise = cudaError_t (*)(const double*, const double*, double*, long, cudaStream_t);

void elementwise(Elementwise kernel, const py::object& first, const char* first_name, const py::object& second,
                 const char* second_name, const py::object& out_array, Stream stream) {
  const Array a(first, first_name), b(second, second_name), out(out_array, "out");
  const long n = length(a, 0);
  const double* a_data = input<double>(a, {n});
  const double* b_data = input<double>(b, {n});
  double* out_data = output<double>(out, {n});
  run_on_device({&a, &b, &out}, stream, [&](cudaStream_t s) { return kernel(a_data, b_data, out_data, n, s); });
}

void shifted_mu(const py::object& sensitivity_array, const py::object& contraction_array,
                const py::object& noise_std_array, const py::object& out_array, const py::object& workspace_array,
                Stream stream) {
  const Array sensitivity(sensitivity_array, "sensitivity"), contraction(contraction_array, "contraction"),
      noise_std(noise_std_array, "noise_std"), out(out_array, "out"), scratch(workspace_array, "workspace");
  const long rows = length(sensitivity, 0), steps = length(sensitivity, 1);
  const double* s = input<double>(sensitivity, {rows, steps});
  const double* c = input<double>(contraction, {rows, steps});
  const double* tau = input<double>(noise_std, {rows, steps});
  double* mu = output<double>(out, {rows});
  double* work = workspace<double>(scratch, device::shifted_workspace(rows, steps));
  run_on_device({&sensitivity, &contraction, &noise_std, &out, &scratch}, stream,
                [&](cudaStream_t on) { return device::shifted_mu(s, c, tau, rows, steps, mu, work, on); });
}

// Pairs are rows of (n, m) arrays, or one row for all n items.
privacy::Pairs pairs_of(const Array& excess, const Array& squared_shift, double columns, long n) {
  const long rows = length(excess, 0), m = length(excess, 1);
  if (rows != n && rows != 1)
    throw py::value_error("excess must have 1 or " + std::to_string(n) + " rows, got shape " + excess.shape_text());
  if (!(columns >= 1.0)) throw py::value_error("columns must be at least 1");
  return {input<double>(excess, {rows, m}), input<double>(squared_shift, {rows, m}), m, rows == 1 ? 0 : m, columns};
}

void pair_delta(const py::object& excess_array, const py::object& shift_array, double columns,
                const py::object& epsilon_array, bool swapped, const py::object& delta_array,
                const py::object& error_array, const py::object& converged_array, const py::object& workspace_array,
                Stream stream) {
  const Array excess(excess_array, "excess"), squared_shift(shift_array, "squared_shift"),
      epsilon(epsilon_array, "epsilon"), delta(delta_array, "delta"), error(error_array, "error"),
      converged(converged_array, "converged"), scratch(workspace_array, "workspace");
  const long n = length(epsilon, 0);
  const double* epsilons = input<double>(epsilon, {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* deltas = output<double>(delta, {n});
  double* errors = output<double>(error, {n});
  double* flags = output<double>(converged, {n});
  double* work = workspace<double>(scratch, device::pair_workspace(n, pairs.m));
  run_on_device({&excess, &squared_shift, &epsilon, &delta, &error, &converged, &scratch}, stream,
                [&](cudaStream_t on) {
                  return device::pair_delta(pairs, epsilons, swapped, deltas, errors, flags, n, work, on);
                });
}

using PairKernel = cudaError_t (*)(const privacy::Pairs&, const double*, bool, double*, long, double*, cudaStream_t);

void pair_values(PairKernel kernel, const py::object& excess_array, const py::object& shift_array, double columns,
                 const py::object& asked_array, const char* asked_name, bool swapped, const py::object& out_array,
                 const py::object& workspace_array, Stream stream) {
  const Array excess(excess_array, "excess"), squared_shift(shift_array, "squared_shift"),
      asked(asked_array, asked_name), out(out_array, "out"), scratch(workspace_array, "workspace");
  const long n = length(asked, 0);
  const double* values = input<double>(asked, {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* results = output<double>(out, {n});
  double* work = workspace<double>(scratch, device::pair_workspace(n, pairs.m));
  run_on_device({&excess, &squared_shift, &asked, &out, &scratch}, stream,
                [&](cudaStream_t on) { return kernel(pairs, values, swapped, results, n, work, on); });
}

void sampled_gaussian_rdp(const py::object& order_array, const py::object& noise_array,
                          const py::object& probability_array, bool reverse, const py::object& out_array,
                          Stream stream) {
  const Array order(order_array, "order"), noise_multiplier(noise_array, "noise_multiplier"),
      probability(probability_array, "sampling_probability"), out(out_array, "out");
  const long n = length(order, 0);
  const double* a = input<double>(order, {n});
  const double* s = input<double>(noise_multiplier, {n});
  const double* q = input<double>(probability, {n});
  double* result = output<double>(out, {n});
  run_on_device({&order, &noise_multiplier, &probability, &out}, stream,
                [&](cudaStream_t on) { return device::sampled_gaussian_rdp(a, s, q, reverse, result, n, on); });
}

}  // namespace

void bind_privacy_cuda(py::module_& module) {
  using py::arg;
  module.def(
      "gdp_delta",
      [](const py::object& mu, const py::object& epsilon, const py::object& out, Stream stream) {
        elementwise(&device::gdp_delta, mu, "mu", epsilon, "epsilon", out, stream);
      },
      arg("mu"), arg("epsilon"), arg("out"), py::kw_only(), arg("stream"));
  module.def(
      "gdp_epsilon",
      [](const py::object& mu, const py::object& delta, const py::object& out, Stream stream) {
        elementwise(&device::gdp_epsilon, mu, "mu", delta, "delta", out, stream);
      },
      arg("mu"), arg("delta"), arg("out"), py::kw_only(), arg("stream"));
  module.def(
      "gdp_mu",
      [](const py::object& epsilon, const py::object& delta, const py::object& out, Stream stream) {
        elementwise(&device::gdp_mu, epsilon, "epsilon", delta, "delta", out, stream);
      },
      arg("epsilon"), arg("delta"), arg("out"), py::kw_only(), arg("stream"));
  module.def("shifted_mu_workspace", &device::shifted_workspace, arg("rows"), arg("steps"));
  module.def("shifted_mu", &shifted_mu, arg("sensitivity"), arg("contraction"), arg("noise_std"), arg("out"),
             py::kw_only(), arg("workspace"), arg("stream"));
  for (const char* name : {"pair_delta_workspace", "pair_epsilon_workspace", "pair_renyi_workspace"})
    module.def(name, &device::pair_workspace, arg("n"), arg("m"));
  module.def("pair_delta", &pair_delta, arg("excess"), arg("squared_shift"), arg("columns"), arg("epsilon"),
             arg("swapped"), arg("delta"), arg("error"), arg("converged"), py::kw_only(), arg("workspace"),
             arg("stream"));
  module.def(
      "pair_epsilon",
      [](const py::object& excess, const py::object& squared_shift, double columns, const py::object& delta,
         bool swapped, const py::object& out, const py::object& scratch, Stream stream) {
        pair_values(&device::pair_epsilon, excess, squared_shift, columns, delta, "delta", swapped, out, scratch,
                    stream);
      },
      arg("excess"), arg("squared_shift"), arg("columns"), arg("delta"), arg("swapped"), arg("out"), py::kw_only(),
      arg("workspace"), arg("stream"));
  module.def(
      "pair_renyi",
      [](const py::object& excess, const py::object& squared_shift, double columns, const py::object& order,
         bool swapped, const py::object& out, const py::object& scratch, Stream stream) {
        pair_values(&device::pair_renyi, excess, squared_shift, columns, order, "order", swapped, out, scratch, stream);
      },
      arg("excess"), arg("squared_shift"), arg("columns"), arg("order"), arg("swapped"), arg("out"), py::kw_only(),
      arg("workspace"), arg("stream"));
  module.def("sampled_gaussian_rdp", &sampled_gaussian_rdp, arg("order"), arg("noise_multiplier"),
             arg("sampling_probability"), py::kw_only(), arg("reverse"), arg("out"), arg("stream"));
}

}  // namespace expunge::bindings
