#include "bindings/bind_ridge_cuda.hpp"

#include "bindings/device_arrays.hpp"
#include "bindings/ridge_setting.hpp"
#include "ridge/ridge.cuh"

namespace expunge::bindings {
namespace {

using Stream = std::uintptr_t;
using ridge::QuoteInput;
using ridge::QuoteOutput;
namespace device = ridge::device;

static_assert(sizeof(long) == sizeof(int64_t), "ranks and counts are int64");

// The records of a call, checked in the order of the signature, so that the first wrong array is the one that is named.
struct Records {
  Array eigenvalues, projected, residuals;
  long n, p, q, n_steps;
  const double* h;
  const double* x;
  const double* r;

  Records(const py::object& h_array, const py::object& x_array, const py::object& r_array)
      : eigenvalues(h_array, "eigenvalues"), projected(x_array, "projected"), residuals(r_array, "residuals") {
    p = length(eigenvalues, 0);
    n = length(projected, 0);
    n_steps = length(residuals, 1);
    q = length(residuals, 2);
    h = input<double>(eigenvalues, {p});
    x = input<double>(projected, {n, p});
    r = input<double>(residuals, {n, n_steps, q});
  }

  QuoteInput with(const RidgeSetting& setting, long rank) const {
    return quote_input(setting, h, x, r, p, q, n_steps, rank);
  }
};

struct Quotes {
  Array value, epsilon, pq, qp, error, rank;
  QuoteOutput out;

  Quotes(const py::object& value_array, const py::object& epsilon_array, const py::object& pq_array,
         const py::object& qp_array, const py::object& error_array, const py::object& rank_array, long n)
      : value(value_array, "value"),
        epsilon(epsilon_array, "epsilon_out"),
        pq(pq_array, "log_delta_pq"),
        qp(qp_array, "log_delta_qp"),
        error(error_array, "error"),
        rank(rank_array, "rank_out"),
        out{output<double>(value, {n}), output<double>(epsilon, {n}), output<double>(pq, {n}),
            output<double>(qp, {n}),    output<double>(error, {n}),   integers(rank, n)} {}

  static long* integers(const Array& array, long n) { return reinterpret_cast<long*>(output<int64_t>(array, {n})); }
};

void exact_quotes(const py::object& eigenvalues, const py::object& projected, const py::object& residuals,
                  const RidgeSetting& setting, long rank, const py::object& value, const py::object& epsilon,
                  const py::object& pq, const py::object& qp, const py::object& error, const py::object& rank_out,
                  const py::object& workspace_array, Stream stream) {
  const Records in(eigenvalues, projected, residuals);
  check_rank(rank, in.p, 0);
  const Quotes to(value, epsilon, pq, qp, error, rank_out, in.n);
  const Array scratch(workspace_array, "workspace");
  double* work = workspace<double>(scratch, device::quote_workspace(in.n, in.p, in.q, rank));
  run_on_device({&in.eigenvalues, &in.projected, &in.residuals, &to.value, &to.epsilon, &to.pq, &to.qp, &to.error,
                 &to.rank, &scratch},
                stream,
                [&](cudaStream_t on) { return device::exact_quotes(in.with(setting, rank), to.out, in.n, work, on); });
}

void gaussian_pairs(const py::object& eigenvalues, const py::object& projected, const py::object& residuals,
                    const RidgeSetting& setting, long rank, const py::object& excess, const py::object& shift,
                    const py::object& rest_array, const py::object& count_array, const py::object& workspace_array,
                    Stream stream) {
  const Records in(eigenvalues, projected, residuals);
  check_rank(rank, in.p, 1);
  const Array e(excess, "excess_variance"), d2(shift, "squared_shift"), rest(rest_array, "rest"),
      count(count_array, "count"), scratch(workspace_array, "workspace");
  double* e_out = output<double>(e, {in.n, rank});
  double* d2_out = output<double>(d2, {in.n, rank});
  double* rest_out = output<double>(rest, {in.n});
  long* count_out = Quotes::integers(count, in.n);
  double* work = workspace<double>(scratch, device::pair_workspace(in.n, in.q, rank));
  run_on_device(
      {&in.eigenvalues, &in.projected, &in.residuals, &e, &d2, &rest, &count, &scratch}, stream, [&](cudaStream_t on) {
        return device::gaussian_pairs(in.with(setting, rank), e_out, d2_out, rest_out, count_out, in.n, work, on);
      });
}

void solve_reduced(const py::object& eigenvalues, const py::object& difference, const py::object& shift,
                   const RidgeSetting& setting, long n_steps, const py::object& value, const py::object& epsilon,
                   const py::object& pq, const py::object& qp, const py::object& error, const py::object& rank_out,
                   const py::object& workspace_array, Stream stream) {
  const Array h(eigenvalues, "eigenvalues"), change(difference, "difference"), moved(shift, "shift");
  const long r = length(h, 0), q = length(moved, 1);
  const QuoteInput in = quote_input(setting, nullptr, nullptr, nullptr, r, q, n_steps, r);
  const ridge::ReducedInput space = {input<double>(h, {r}), input<double>(change, {r, r}), input<double>(moved, {r, q}),
                                     r};
  const Quotes to(value, epsilon, pq, qp, error, rank_out, 1);
  const Array scratch(workspace_array, "workspace");
  double* work = workspace<double>(scratch, device::reduced_workspace(r, q));
  run_on_device({&h, &change, &moved, &to.value, &to.epsilon, &to.pq, &to.qp, &to.error, &to.rank, &scratch}, stream,
                [&](cudaStream_t on) { return device::solve_reduced(in, space, to.out, work, on); });
}

void shifted_quotes(const py::object& sensitivity_array, const py::object& contraction_array, double noise_std,
                    double unlearn_steps, double unlearn_noise_std, bool solve_steps, double mu_limit,
                    const py::object& value_array, const py::object& mu_array, const py::object& workspace_array,
                    Stream stream) {
  const Array sensitivity(sensitivity_array, "sensitivity"), contraction(contraction_array, "contraction"),
      value(value_array, "value"), mu(mu_array, "mu"), scratch(workspace_array, "workspace");
  const long n = length(sensitivity, 0), steps = length(sensitivity, 1);
  const ridge::ShiftedInput in = {input<double>(sensitivity, {n, steps}),
                                  input<double>(contraction, {n}),
                                  steps,
                                  noise_std,
                                  unlearn_steps,
                                  unlearn_noise_std,
                                  solve_steps,
                                  mu_limit};
  double* value_out = output<double>(value, {n});
  double* mu_out = output<double>(mu, {n});
  double* work = workspace<double>(scratch, device::shifted_workspace(n, steps));
  run_on_device({&sensitivity, &contraction, &value, &mu, &scratch}, stream,
                [&](cudaStream_t on) { return device::shifted_quotes(in, value_out, mu_out, n, work, on); });
}

void smallest_eigenvalues(const py::object& eigenvalues, const py::object& projected, double floor, double slack,
                          const py::object& out_array, Stream stream) {
  const Array h_array(eigenvalues, "eigenvalues"), x_array(projected, "projected"), out(out_array, "out");
  const long p = length(h_array, 0), n = length(x_array, 0);
  const double* h = input<double>(h_array, {p});
  const double* x = input<double>(x_array, {n, p});
  double* lowest = output<double>(out, {n});
  run_on_device({&h_array, &x_array, &out}, stream,
                [&](cudaStream_t on) { return device::smallest_eigenvalues(h, x, p, floor, slack, lowest, n, on); });
}

}  // namespace

void bind_ridge_cuda(py::module_& module) {
  using py::arg;
  module.attr("RidgeSetting") = py::module_::import("expunge._core").attr("RidgeSetting");
  module.def("ridge_exact_quotes_workspace", &device::quote_workspace, arg("n"), arg("p"), arg("q"), arg("rank"));
  module.def("ridge_exact_quotes", &exact_quotes, arg("eigenvalues"), arg("projected"), arg("residuals"),
             arg("setting"), arg("rank"), arg("value"), arg("epsilon_out"), arg("log_delta_pq"), arg("log_delta_qp"),
             arg("error"), arg("rank_out"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("ridge_gaussian_pairs_workspace", &device::pair_workspace, arg("n"), arg("q"), arg("rank"));
  module.def("ridge_gaussian_pairs", &gaussian_pairs, arg("eigenvalues"), arg("projected"), arg("residuals"),
             arg("setting"), arg("rank"), arg("excess_variance"), arg("squared_shift"), arg("rest"), arg("count"),
             py::kw_only(), arg("workspace"), arg("stream"));
  module.def("ridge_solve_reduced_workspace", &device::reduced_workspace, arg("r"), arg("q"));
  module.def("ridge_solve_reduced", &solve_reduced, arg("eigenvalues"), arg("difference"), arg("shift"), arg("setting"),
             arg("n_steps"), arg("value"), arg("epsilon_out"), arg("log_delta_pq"), arg("log_delta_qp"), arg("error"),
             arg("rank_out"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("ridge_shifted_quotes_workspace", &device::shifted_workspace, arg("n"), arg("n_steps"));
  module.def("ridge_shifted_quotes", &shifted_quotes, arg("sensitivity"), arg("contraction"), arg("noise_std"),
             arg("unlearn_steps"), arg("unlearn_noise_std"), arg("solve_steps"), arg("mu_limit"), arg("value"),
             arg("mu"), py::kw_only(), arg("workspace"), arg("stream"));
  module.def("ridge_smallest_eigenvalues", &smallest_eigenvalues, arg("eigenvalues"), arg("projected"), arg("floor"),
             arg("slack"), arg("out"), py::kw_only(), arg("stream"));
}

}  // namespace expunge::bindings
