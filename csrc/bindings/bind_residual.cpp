// Bindings of the residual family.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#include "bindings/losses.hpp"
#if defined(EXPUNGE_ON_DEVICE)
#include "residual/residual.cuh"
#else
#include <memory>

#include "residual/residual.hpp"
#endif

namespace expunge::bindings {
namespace {

using Numbers = std::optional<Array>;

[[noreturn]] void missing(const char* name, const std::string& loss) {
  throw py::type_error(std::string(name) + " must be an array for the " + loss + " loss, got None");
}

#if !defined(EXPUNGE_ON_DEVICE)
long residual_depth(const py::object& n, const py::object& p, const py::object& q) {
  const auto length_of = [](const py::object& given, const char* name) {
    const long value = integer<long>(given, name);
    if (value < 0) refuse(name, "be at least 0, got " + std::to_string(value));
    return value;
  };
  return residual::depth(length_of(n, "n"), length_of(p, "p"), length_of(q, "q"));
}
#endif

void residual_pass(const Array& X, const Numbers& targets, const Numbers& labels, const Numbers& weights,
                   const Array& theta, const Array& gradient, const Array& sums, const Numbers& residuals,
                   const std::string& loss, PlaceWithScratch& place) {
  residual::Pass a = {};
  a.loss = loss_named(loss);
  a.n = length(X, 0);
  a.p = length(X, 1);
  a.q = length(theta, 0);
  a.x = input<double>(X, {a.n, a.p});
  a.theta = input<double>(theta, {a.q, a.p});
  if (a.q < 1) refuse("theta", "have at least one row, one for each output");
  a.targets = input<double>(targets, {a.n, a.q});
  a.labels = input<std::int64_t>(labels, {a.n});
  a.weights = input<double>(weights, {a.n});
  double* const g = output<double>(gradient, {a.q, a.p});
  double* const s = output<double>(sums, {residual::kSums});
  if (residuals) a.residuals = output<double>(*residuals, {a.n, a.q});
  const bool with_targets = a.loss == Loss::squared;
  if (!(with_targets ? targets : labels)) missing(with_targets ? "targets" : "labels", loss);
  if (with_targets ? labels.has_value() : targets.has_value())
    refuse(with_targets ? "labels" : "targets", "be None for the " + loss + " loss");
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * residual::device::pass_workspace(a),
            [&](double* workspace, cudaStream_t stream) { return residual::device::pass(a, g, s, workspace, stream); });
#else
  const residual::Table& kernels = residual::table();
  const long count = residual::ranges(a.n, a.p, a.q), size = a.p * a.q;
  // The ranges' gradients and sums, whatever thread made them.
  const std::unique_ptr<double[]> found(new double[static_cast<std::size_t>(count * (size + residual::kSums))]);
  double* const range_sums = found.get() + count * size;
  place.run_with_scratch(count, 1, kernels.workspace(a.p, a.q), [&](long begin, long end, double* scratch) {
    for (long range = begin; range < end; ++range)
      kernels.pass(a, residual::range_begin(range, count, a.n), residual::range_begin(range + 1, count, a.n),
                   found.get() + range * size, range_sums + range * residual::kSums, scratch);
  });
  place.run(size, 4096, [&](long begin, long end) {
    residual::add_ranges(found.get(), count, size, begin, end);
    for (long cell = begin; cell < end; ++cell) g[cell] = found[static_cast<std::size_t>(cell)];
  });
  for (int k = 0; k < residual::kSums; ++k) {
    s[k] = 0.0;
    for (long range = 0; range < count; ++range) s[k] += range_sums[range * residual::kSums + k];
  }
#endif
}

void residual_leverages(const Array& X, const Array& K, const Array& leverages, const Array& squares,
                        const Array& norms, Place& place) {
  residual::Leverages a = {};
  a.n = length(X, 0);
  a.p = length(X, 1);
  a.q = length(K, 1);
  a.x = input<double>(X, {a.n, a.p});
  a.k = input<double>(K, {a.n, a.q, a.q, a.p});
  a.leverages = output<double>(leverages, {a.n, a.q, a.q});
  a.squares = output<double>(squares, {a.n, a.q, a.q});
  a.norms = output<double>(norms, {a.n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run([&](cudaStream_t stream) { return residual::device::leverages(a, stream); });
#else
  place.run(a.n, 64, [&](long begin, long end) { residual::leverage_table().leverages(a, begin, end); });
#endif
}

}  // namespace

void bind_residual(py::module_& module) {
#if !defined(EXPUNGE_ON_DEVICE)
  module.def("residual_depth", &residual_depth, py::arg("n"), py::arg("p"), py::arg("q"));
#endif
  define<8>(module, "residual_pass", &residual_pass,
            {"X", "targets", "labels", "weights", "theta", "gradient", "sums", "residuals", "loss"});
  define<5>(module, "residual_leverages", &residual_leverages, {"X", "K", "leverages", "squares", "norms"});
}

}  // namespace expunge::bindings
