#include "bindings/bind_sampled_gaussian.hpp"

#include "bindings/arrays.hpp"
#include "bindings/visible.hpp"
#include "common/thread_pool.hpp"
#include "privacy/sampled_gaussian.hpp"

namespace expunge::bindings {
namespace {

void sampled_gaussian_rdp(const py::array& order, const py::array& noise_multiplier, const py::array& probability,
                          bool reverse, py::array out, int threads) {
  const long n = length(order, 0, "order");
  const double* a = input<double>(order, "order", {n});
  const double* s = input<double>(noise_multiplier, "noise_multiplier", {n});
  const double* q = input<double>(probability, "sampling_probability", {n});
  double* result = output<double>(out, "out", {n});
  const auto& table = privacy::sampled_gaussian_table();
  py::gil_scoped_release release;
  parallel_ranges(n, 32, threads, [&](long begin, long end) { table.rdp(begin, end, reverse, a, s, q, result); });
  keep_visible(result, n);
}

}  // namespace

void bind_sampled_gaussian(py::module_& module) {
  module.def("sampled_gaussian_rdp", &sampled_gaussian_rdp, py::arg("order"), py::arg("noise_multiplier"),
             py::arg("sampling_probability"), py::kw_only(), py::arg("reverse"), py::arg("out"),
             py::arg("threads") = 0);
}

}  // namespace expunge::bindings
