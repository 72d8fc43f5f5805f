#include "bindings/bind_privacy.hpp"

#include <atomic>
#include <memory>
#include <new>

#include "bindings/arrays.hpp"
#include "bindings/visible.hpp"
#include "common/thread_pool.hpp"

namespace expunge::bindings {
namespace {

using Elementwise = void (*)(const double*, const double*, double*, long, long);

// Grains are multiples of every vector width, so that an item's lane never depends on the thread count.
constexpr long kGdpGrain = 256;

enum class Rounded { up, down };

void elementwise(Elementwise kernel, Rounded rounded, const py::array& a, const py::array& b, py::array& out,
                 const char* a_name, const char* b_name, int threads) {
  const long n = length(a, 0, a_name);
  const double* a_data = input<double>(a, a_name, {n});
  const double* b_data = input<double>(b, b_name, {n});
  double* out_data = output<double>(out, "out", {n});
  py::gil_scoped_release release;
  parallel_ranges(n, kGdpGrain, threads, [&](long begin, long end) { kernel(a_data, b_data, out_data, begin, end); });
  if (rounded == Rounded::up) keep_visible(out_data, n);
}

// Runs body(begin, end, workspace) over ranges with `doubles` of scratch each; false if scratch could not be had.
template <class Body>
bool with_workspace(long n, long grain, long doubles, int threads, Body&& body) {
  std::atomic<bool> enough{true};
  parallel_ranges(n, grain, threads, [&](long begin, long end) {
    std::unique_ptr<double[]> workspace(new (std::nothrow) double[static_cast<std::size_t>(doubles) + 1]);
    if (workspace)
      body(begin, end, workspace.get());
    else
      enough = false;
  });
  return enough;
}

void shifted_mu(const py::array& sensitivity, const py::array& contraction, const py::array& noise_std, py::array out,
                int threads) {
  const long rows = length(sensitivity, 0, "sensitivity");
  const long steps = length(sensitivity, 1, "sensitivity");
  const double* s = input<double>(sensitivity, "sensitivity", {rows, steps});
  const double* c = input<double>(contraction, "contraction", {rows, steps});
  const double* tau = input<double>(noise_std, "noise_std", {rows, steps});
  double* mu = output<double>(out, "out", {rows});
  bool enough;
  {
    py::gil_scoped_release release;
    const auto kernel = privacy::table().shifted_mu;
    enough = with_workspace(rows, 16, 3 * steps, threads, [&](long begin, long end, double* workspace) {
      kernel(s, c, tau, steps, mu, workspace, begin, end);
    });
    keep_visible(mu, rows);
  }
  if (!enough) throw std::bad_alloc();
}

// Pairs are rows of (n, m) arrays, or one row for all n items.
privacy::Pairs pairs_of(const py::array& excess, const py::array& squared_shift, double columns, long n) {
  const long rows = length(excess, 0, "excess");
  const long m = length(excess, 1, "excess");
  if (rows != n && rows != 1)
    throw py::value_error("excess must have 1 or " + std::to_string(n) + " rows, got shape " + shape_text(excess));
  if (!(columns >= 1.0)) throw py::value_error("columns must be at least 1");
  return {input<double>(excess, "excess", {rows, m}), input<double>(squared_shift, "squared_shift", {rows, m}), m,
          rows == 1 ? 0 : m, columns};
}

void pair_delta(const py::array& excess, const py::array& squared_shift, double columns, const py::array& epsilon,
                bool swapped, py::array delta, py::array error, py::array converged, int threads) {
  const long n = length(epsilon, 0, "epsilon");
  const double* epsilons = input<double>(epsilon, "epsilon", {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* deltas = output<double>(delta, "delta", {n});
  double* errors = output<double>(error, "error", {n});
  double* flags = output<double>(converged, "converged", {n});
  bool enough;
  {
    py::gil_scoped_release release;
    const auto kernel = privacy::table().pair_delta;
    enough = with_workspace(n, 8, 2 * pairs.m, threads, [&](long begin, long end, double* workspace) {
      kernel(pairs, epsilons, swapped, deltas, errors, flags, workspace, begin, end);
    });
    keep_visible(deltas, n);
  }
  if (!enough) throw std::bad_alloc();
}

void pair_epsilon(const py::array& excess, const py::array& squared_shift, double columns, const py::array& delta,
                  bool swapped, py::array out, int threads) {
  const long n = length(delta, 0, "delta");
  const double* deltas = input<double>(delta, "delta", {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* epsilons = output<double>(out, "out", {n});
  bool enough;
  {
    py::gil_scoped_release release;
    const auto kernel = privacy::table().pair_epsilon;
    enough = with_workspace(n, 1, 2 * pairs.m, threads, [&](long begin, long end, double* workspace) {
      kernel(pairs, deltas, swapped, epsilons, workspace, begin, end);
    });
    keep_visible(epsilons, n);
  }
  if (!enough) throw std::bad_alloc();
}

void pair_renyi(const py::array& excess, const py::array& squared_shift, double columns, const py::array& order,
                bool swapped, py::array out, int threads) {
  const long n = length(order, 0, "order");
  const double* orders = input<double>(order, "order", {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* divergences = output<double>(out, "out", {n});
  bool enough;
  {
    py::gil_scoped_release release;
    const auto kernel = privacy::table().pair_renyi;
    enough = with_workspace(n, 64, 2 * pairs.m, threads, [&](long begin, long end, double* workspace) {
      kernel(pairs, orders, swapped, divergences, workspace, begin, end);
    });
    keep_visible(divergences, n);
  }
  if (!enough) throw std::bad_alloc();
}

}  // namespace

void bind_privacy(py::module_& module) {
  module.def(
      "gdp_delta",
      [](const py::array& mu, const py::array& epsilon, py::array out, int threads) {
        elementwise(privacy::table().gdp_delta, Rounded::up, mu, epsilon, out, "mu", "epsilon", threads);
      },
      py::arg("mu"), py::arg("epsilon"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
  module.def(
      "gdp_epsilon",
      [](const py::array& mu, const py::array& delta, py::array out, int threads) {
        elementwise(privacy::table().gdp_epsilon, Rounded::up, mu, delta, out, "mu", "delta", threads);
      },
      py::arg("mu"), py::arg("delta"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
  module.def(
      "gdp_mu",
      [](const py::array& epsilon, const py::array& delta, py::array out, int threads) {
        elementwise(privacy::table().gdp_mu, Rounded::down, epsilon, delta, out, "epsilon", "delta", threads);
      },
      py::arg("epsilon"), py::arg("delta"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
  module.def("shifted_mu", &shifted_mu, py::arg("sensitivity"), py::arg("contraction"), py::arg("noise_std"),
             py::arg("out"), py::kw_only(), py::arg("threads") = 0);
  module.def("pair_delta", &pair_delta, py::arg("excess"), py::arg("squared_shift"), py::arg("columns"),
             py::arg("epsilon"), py::arg("swapped"), py::arg("delta"), py::arg("error"), py::arg("converged"),
             py::kw_only(), py::arg("threads") = 0);
  module.def("pair_epsilon", &pair_epsilon, py::arg("excess"), py::arg("squared_shift"), py::arg("columns"),
             py::arg("delta"), py::arg("swapped"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
  module.def("pair_renyi", &pair_renyi, py::arg("excess"), py::arg("squared_shift"), py::arg("columns"),
             py::arg("order"), py::arg("swapped"), py::arg("out"), py::kw_only(), py::arg("threads") = 0);
}

}  // namespace expunge::bindings
