// Bindings of the ridge family.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#if defined(EXPUNGE_ON_DEVICE)
#include "ridge/ridge.cuh"
#else
#include "common/float_mode.hpp"
#include "ridge/ridge.hpp"
#endif

namespace expunge::bindings {

// What every exact kernel is told about learning, unlearning and the target: one class for all modules.
struct RidgeSetting {
  double step_size, noise_std, unlearn_steps, unlearn_noise_std;
  bool solve_steps;
  double epsilon, log_delta, mu, tolerance;
};

namespace {

using Setting = RidgeSetting;
using ridge::QuoteInput;
using ridge::QuoteOutput;
#if defined(EXPUNGE_ON_DEVICE)
namespace device = ridge::device;
#endif

QuoteInput quote_input(const Setting& s, const double* eigenvalues, const double* projected, const double* residuals,
                       long p, long q, long n_steps, long rank) {
  return {eigenvalues,
          projected,
          residuals,
          p,
          q,
          s.step_size,
          double(n_steps),
          s.noise_std,
          s.unlearn_steps,
          s.unlearn_noise_std,
          s.solve_steps,
          s.epsilon,
          s.log_delta,
          s.mu,
          s.tolerance,
          rank};
}

// Kernels look at the smallest eigenvalue before any loop.
void require_entries(const Array& eigenvalues) {
  if (length(eigenvalues, 0) < 1)
    refuse(eigenvalues.name(), "have at least 1 entry, got shape " + shape_text(eigenvalues));
}

// Records of a call, checked in the order of the signature.
struct Records {
  long n, p, q;
  QuoteInput in;

  Records(const Array& eigenvalues, const Array& projected, const Array& residuals, const Setting& setting, long rank,
          long lowest_rank) {
    p = length(eigenvalues, 0);
    require_entries(eigenvalues);
    n = length(projected, 0);
    const long n_steps = length(residuals, 1);
    q = length(residuals, 2);
    const double* h = input<double>(eigenvalues, {p});
    const double* x = input<double>(projected, {n, p});
    const double* r = input<double>(residuals, {n, n_steps, q});
    in = quote_input(setting, h, x, r, p, q, n_steps, rank);
    if (rank < lowest_rank || rank > p)
      refuse("rank", "be between " + std::to_string(lowest_rank) + " and " + std::to_string(p) + ", got " +
                         std::to_string(rank));
  }
};

QuoteOutput quote_output(const Array& value, const Array& epsilon, const Array& pq, const Array& qp, const Array& error,
                         const Array& rank, long n) {
  return {output<double>(value, {n}), output<double>(epsilon, {n}), output<double>(pq, {n}),
          output<double>(qp, {n}),    output<double>(error, {n}),   output<long>(rank, {n})};
}

void exact_quotes(const Array& eigenvalues, const Array& projected, const Array& residuals, const Setting& setting,
                  long rank, const Array& value, const Array& epsilon, const Array& pq, const Array& qp,
                  const Array& error, const Array& rank_out, PlaceWithScratch& place) {
  const Records records(eigenvalues, projected, residuals, setting, rank, 0);
  const long n = records.n, p = records.p, q = records.q;
  const QuoteOutput out = quote_output(value, epsilon, pq, qp, error, rank_out, n);
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::quote_workspace(n, p, q, rank), [&](double* workspace, cudaStream_t stream) {
    return device::exact_quotes(records.in, out, n, workspace, stream);
  });
#else
  const ridge::Table& kernels = ridge::table();
  place.run_with_scratch(
      n, 16, kernels.quote_workspace(rank > 0 ? rank : p, q),
      [&](long begin, long end, double* workspace) { kernels.exact_quotes(records.in, out, begin, end, workspace); });
#endif
}

void gaussian_pairs(const Array& eigenvalues, const Array& projected, const Array& residuals, const Setting& setting,
                    long rank, const Array& excess, const Array& shift, const Array& rest_array, const Array& counts,
                    PlaceWithScratch& place) {
  const Records records(eigenvalues, projected, residuals, setting, rank, 1);
  const long n = records.n;
  double* e = output<double>(excess, {n, rank});
  double* d2 = output<double>(shift, {n, rank});
  double* rest = output<double>(rest_array, {n});
  long* count = output<long>(counts, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::pair_workspace(n, records.q, rank), [&](double* workspace, cudaStream_t stream) {
    return device::gaussian_pairs(records.in, e, d2, rest, count, n, workspace, stream);
  });
#else
  const ridge::Table& kernels = ridge::table();
  place.run_with_scratch(n, 16, kernels.quote_workspace(rank, records.q), [&](long begin, long end, double* workspace) {
    kernels.gaussian_pairs(records.in, e, d2, rest, count, begin, end, workspace);
  });
#endif
}

void solve_reduced(const Array& eigenvalues, const Array& difference, const Array& shift, const Setting& setting,
                   long n_steps, const Array& value, const Array& epsilon, const Array& pq, const Array& qp,
                   const Array& error, const Array& rank_out, PlaceWithScratch& place) {
  const long r = length(eigenvalues, 0), q = length(shift, 1);
  if (n_steps < 0) refuse("n_steps", "be at least 0, got " + std::to_string(n_steps));
  const QuoteInput in = quote_input(setting, nullptr, nullptr, nullptr, r, q, n_steps, r);
  const ridge::ReducedInput space = {input<double>(eigenvalues, {r}), input<double>(difference, {r, r}),
                                     input<double>(shift, {r, q}), r};
  const QuoteOutput out = quote_output(value, epsilon, pq, qp, error, rank_out, 1);
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::reduced_workspace(r, q), [&](double* workspace, cudaStream_t stream) {
    return device::solve_reduced(in, space, out, workspace, stream);
  });
#else
  const ridge::Table& kernels = ridge::table();
  place.run_with_scratch(1, 1, kernels.quote_workspace(r, q), [&](long, long, double* workspace) {
    const IeeeArithmetic ieee;
    kernels.solve_reduced(in, space, out, workspace);
  });
#endif
}

void shifted_quotes(const Array& sensitivity, const Array& contraction, double noise_std, double unlearn_steps,
                    double unlearn_noise_std, bool solve_steps, double mu_limit, const Array& value_array,
                    const Array& mu_array, PlaceWithScratch& place) {
  const long n = length(sensitivity, 0), steps = length(sensitivity, 1);
  const ridge::ShiftedInput in = {input<double>(sensitivity, {n, steps}),
                                  input<double>(contraction, {n}),
                                  steps,
                                  noise_std,
                                  unlearn_steps,
                                  unlearn_noise_std,
                                  solve_steps,
                                  mu_limit};
  double* value = output<double>(value_array, {n});
  double* mu = output<double>(mu_array, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::shifted_workspace(n, steps), [&](double* workspace, cudaStream_t stream) {
    return device::shifted_quotes(in, value, mu, n, workspace, stream);
  });
#else
  const ridge::Table& kernels = ridge::table();
  place.run_with_scratch(n, 64, kernels.shifted_quotes_workspace(in), [&](long begin, long end, double* workspace) {
    kernels.shifted_quotes(in, value, mu, begin, end, workspace);
  });
#endif
}

void smallest_eigenvalues(const Array& eigenvalues, const Array& projected, double floor, double slack,
                          const Array& out, Place& place) {
  const long p = length(eigenvalues, 0), n = length(projected, 0);
  require_entries(eigenvalues);
  const double* h = input<double>(eigenvalues, {p});
  const double* x = input<double>(projected, {n, p});
  double* lowest = output<double>(out, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run(
      [&](cudaStream_t stream) { return device::smallest_eigenvalues(h, x, p, floor, slack, lowest, n, stream); });
#else
  const ridge::Table& kernels = ridge::table();
  place.run(n, 64,
            [&](long begin, long end) { kernels.smallest_eigenvalues(h, x, p, floor, slack, lowest, begin, end); });
#endif
}

}  // namespace

void bind_ridge(py::module_& module) {
  using py::arg;
#if defined(EXPUNGE_ON_DEVICE)
  module.attr("RidgeSetting") = py::module_::import("expunge._core").attr("RidgeSetting");
#else
  py::class_<RidgeSetting>(module, "RidgeSetting")
      .def(py::init([](const py::object& step_size, const py::object& noise_std, const py::object& unlearn_steps,
                       const py::object& unlearn_noise_std, const py::object& solve_steps, const py::object& epsilon,
                       const py::object& log_delta, const py::object& mu, const py::object& tolerance) {
             return Setting{real(step_size, "step_size"),         real(noise_std, "noise_std"),
                            real(unlearn_steps, "unlearn_steps"), real(unlearn_noise_std, "unlearn_noise_std"),
                            flag(solve_steps, "solve_steps"),     real(epsilon, "epsilon"),
                            real(log_delta, "log_delta"),         real(mu, "mu"),
                            real(tolerance, "tolerance")};
           }),
           py::kw_only(), arg("step_size"), arg("noise_std"), arg("unlearn_steps"), arg("unlearn_noise_std"),
           arg("solve_steps"), arg("epsilon"), arg("log_delta"), arg("mu"), arg("tolerance"));
#endif
  define<11>(module, "ridge_exact_quotes", &exact_quotes,
             {"eigenvalues", "projected", "residuals", "setting", "rank", "value", "epsilon_out", "log_delta_pq",
              "log_delta_qp", "error", "rank_out"});
  define<9>(module, "ridge_gaussian_pairs", &gaussian_pairs,
            {"eigenvalues", "projected", "residuals", "setting", "rank", "excess_variance", "squared_shift", "rest",
             "count"});
  define<11>(module, "ridge_solve_reduced", &solve_reduced,
             {"eigenvalues", "difference", "shift", "setting", "n_steps", "value", "epsilon_out", "log_delta_pq",
              "log_delta_qp", "error", "rank_out"});
  define<9>(module, "ridge_shifted_quotes", &shifted_quotes,
            {"sensitivity", "contraction", "noise_std", "unlearn_steps", "unlearn_noise_std", "solve_steps", "mu_limit",
             "value", "mu"});
  define<5>(module, "ridge_smallest_eigenvalues", &smallest_eigenvalues,
            {"eigenvalues", "projected", "floor", "slack", "out"});
}

}  // namespace expunge::bindings
