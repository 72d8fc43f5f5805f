#include "bindings/bind_ridge.hpp"

#include <memory>

#include "bindings/arrays.hpp"
#include "bindings/ridge_setting.hpp"
#include "common/float_mode.hpp"
#include "common/thread_pool.hpp"

namespace expunge::bindings {

namespace {

using ridge::QuoteInput;
using ridge::QuoteOutput;
using Setting = RidgeSetting;

QuoteOutput quote_output(py::array& value, py::array& epsilon, py::array& pq, py::array& qp, py::array& error,
                         py::array& rank, long n) {
  return {output<double>(value, "value", {n}),     output<double>(epsilon, "epsilon_out", {n}),
          output<double>(pq, "log_delta_pq", {n}), output<double>(qp, "log_delta_qp", {n}),
          output<double>(error, "error", {n}),     output<long>(rank, "rank_out", {n})};
}

void exact_quotes(const py::array& eigenvalues, const py::array& projected, const py::array& residuals,
                  const Setting& s, long rank, py::array value, py::array epsilon, py::array pq, py::array qp,
                  py::array error, py::array rank_out, int threads) {
  const long p = length(eigenvalues, 0, "eigenvalues"), n = length(projected, 0, "projected");
  const long steps = length(residuals, 1, "residuals"), q = length(residuals, 2, "residuals");
  // in the order of the signature, so that the first wrong array is the one that is named
  const double* h = input<double>(eigenvalues, "eigenvalues", {p});
  const double* x = input<double>(projected, "projected", {n, p});
  const double* r = input<double>(residuals, "residuals", {n, steps, q});
  check_rank(rank, p, 0);
  const QuoteInput in = quote_input(s, h, x, r, p, q, steps, rank);
  const QuoteOutput out = quote_output(value, epsilon, pq, qp, error, rank_out, n);
  const py::gil_scoped_release release;
  const ridge::Table& kernels = ridge::table();
  const long size = kernels.quote_workspace(rank > 0 ? rank : p, q);
  parallel_ranges(n, 16, threads, [&](long begin, long end) {
    const std::unique_ptr<double[]> workspace(new double[static_cast<size_t>(size)]);
    kernels.exact_quotes(in, out, begin, end, workspace.get());
  });
}

void gaussian_pairs(const py::array& eigenvalues, const py::array& projected, const py::array& residuals,
                    const Setting& s, long rank, py::array e, py::array d2, py::array rest, py::array count,
                    int threads) {
  const long p = length(eigenvalues, 0, "eigenvalues"), n = length(projected, 0, "projected");
  const long steps = length(residuals, 1, "residuals"), q = length(residuals, 2, "residuals");
  // in the order of the signature, so that the first wrong array is the one that is named
  const double* h = input<double>(eigenvalues, "eigenvalues", {p});
  const double* x = input<double>(projected, "projected", {n, p});
  const double* r = input<double>(residuals, "residuals", {n, steps, q});
  check_rank(rank, p, 1);
  const QuoteInput in = quote_input(s, h, x, r, p, q, steps, rank);
  double* e_out = output<double>(e, "excess_variance", {n, rank});
  double* d2_out = output<double>(d2, "squared_shift", {n, rank});
  double* rest_out = output<double>(rest, "rest", {n});
  long* count_out = output<long>(count, "count", {n});
  const py::gil_scoped_release release;
  const ridge::Table& kernels = ridge::table();
  const long size = kernels.quote_workspace(rank, q);
  parallel_ranges(n, 16, threads, [&](long begin, long end) {
    const std::unique_ptr<double[]> workspace(new double[static_cast<size_t>(size)]);
    kernels.gaussian_pairs(in, e_out, d2_out, rest_out, count_out, begin, end, workspace.get());
  });
}

void solve_reduced(const py::array& eigenvalues, const py::array& difference, const py::array& shift, const Setting& s,
                   long n_steps, py::array value, py::array epsilon, py::array pq, py::array qp, py::array error,
                   py::array rank_out) {
  const long r = length(eigenvalues, 0, "eigenvalues"), q = length(shift, 1, "shift");
  const QuoteInput in = quote_input(s, nullptr, nullptr, nullptr, r, q, n_steps, r);
  const ridge::ReducedInput space = {input<double>(eigenvalues, "eigenvalues", {r}),
                                     input<double>(difference, "difference", {r, r}),
                                     input<double>(shift, "shift", {r, q}), r};
  const QuoteOutput out = quote_output(value, epsilon, pq, qp, error, rank_out, 1);
  const py::gil_scoped_release release;
  const ridge::Table& kernels = ridge::table();
  const std::unique_ptr<double[]> workspace(new double[static_cast<size_t>(kernels.quote_workspace(r, q))]);
  const IeeeArithmetic ieee;
  kernels.solve_reduced(in, space, out, workspace.get());
}

void shifted_quotes(const py::array& sensitivity, const py::array& contraction, double noise_std, double unlearn_steps,
                    double unlearn_noise_std, bool solve_steps, double mu_limit, py::array value, py::array mu,
                    int threads) {
  const long n = length(sensitivity, 0, "sensitivity"), steps = length(sensitivity, 1, "sensitivity");
  const ridge::ShiftedInput in = {input<double>(sensitivity, "sensitivity", {n, steps}),
                                  input<double>(contraction, "contraction", {n}),
                                  steps,
                                  noise_std,
                                  unlearn_steps,
                                  unlearn_noise_std,
                                  solve_steps,
                                  mu_limit};
  double* value_out = output<double>(value, "value", {n});
  double* mu_out = output<double>(mu, "mu", {n});
  const py::gil_scoped_release release;
  const ridge::Table& kernels = ridge::table();
  parallel_ranges(n, 64, threads, [&](long begin, long end) {
    const std::unique_ptr<double[]> workspace(new double[static_cast<size_t>(3 * steps + 1)]);
    kernels.shifted_quotes(in, value_out, mu_out, begin, end, workspace.get());
  });
}

void smallest_eigenvalues(const py::array& eigenvalues, const py::array& projected, double floor, double slack,
                          py::array out, int threads) {
  const long p = length(eigenvalues, 0, "eigenvalues"), n = length(projected, 0, "projected");
  const double* h = input<double>(eigenvalues, "eigenvalues", {p});
  const double* x = input<double>(projected, "projected", {n, p});
  double* target = output<double>(out, "out", {n});
  const py::gil_scoped_release release;
  const ridge::Table& kernels = ridge::table();
  parallel_ranges(n, 64, threads, [&](long begin, long end) {
    kernels.smallest_eigenvalues(h, x, p, floor, slack, target, begin, end);
  });
}

}  // namespace

void bind_ridge(py::module_& module) {
  using py::arg;
  py::class_<RidgeSetting>(module, "RidgeSetting")
      .def(py::init(&ridge_setting), py::kw_only(), arg("step_size"), arg("noise_std"), arg("unlearn_steps"),
           arg("unlearn_noise_std"), arg("solve_steps"), arg("epsilon"), arg("log_delta"), arg("mu"), arg("tolerance"));
  module.def("ridge_exact_quotes", &exact_quotes, arg("eigenvalues"), arg("projected"), arg("residuals"),
             arg("setting"), arg("rank"), arg("value"), arg("epsilon_out"), arg("log_delta_pq"), arg("log_delta_qp"),
             arg("error"), arg("rank_out"), arg("threads") = 0);
  module.def("ridge_gaussian_pairs", &gaussian_pairs, arg("eigenvalues"), arg("projected"), arg("residuals"),
             arg("setting"), arg("rank"), arg("excess_variance"), arg("squared_shift"), arg("rest"), arg("count"),
             arg("threads") = 0);
  module.def("ridge_solve_reduced", &solve_reduced, arg("eigenvalues"), arg("difference"), arg("shift"), arg("setting"),
             arg("n_steps"), arg("value"), arg("epsilon_out"), arg("log_delta_pq"), arg("log_delta_qp"), arg("error"),
             arg("rank_out"));
  module.def("ridge_shifted_quotes", &shifted_quotes, arg("sensitivity"), arg("contraction"), arg("noise_std"),
             arg("unlearn_steps"), arg("unlearn_noise_std"), arg("solve_steps"), arg("mu_limit"), arg("value"),
             arg("mu"), arg("threads") = 0);
  module.def("ridge_smallest_eigenvalues", &smallest_eigenvalues, arg("eigenvalues"), arg("projected"), arg("floor"),
             arg("slack"), arg("out"), arg("threads") = 0);
}

}  // namespace expunge::bindings
