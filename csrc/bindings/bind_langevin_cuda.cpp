#include "bindings/bind_langevin_cuda.hpp"

#include <optional>

#include "bindings/device_arrays.hpp"
#include "langevin/langevin.cuh"

namespace expunge::bindings {
namespace {

using Stream = std::uintptr_t;

void random_words(const py::object& out_array, uint64_t seed, uint64_t chain, uint32_t step, Stream stream) {
  const Array out(out_array, "out");
  const long blocks = length(out, 0);
  uint32_t* words = output<uint32_t>(out, {blocks, 4});
  run_on_device({&out}, stream,
                [&](cudaStream_t s) { return langevin::device::random_words(words, blocks, seed, chain, step, s); });
}

void standard_normals(const py::object& out_array, uint64_t seed, uint64_t chain, uint32_t step, Stream stream) {
  const Array out(out_array, "out");
  by_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    const long count = length(out, 0);
    T* normals = output<T>(out, {count});
    run_on_device({&out}, stream, [&](cudaStream_t s) {
      return langevin::device::standard_normals<T>(normals, count, seed, chain, step, s);
    });
  });
}

int loss_number(const std::string& loss) {
  if (loss == "ridge") return langevin::kRidge;
  if (loss == "logistic") return langevin::kLogistic;
  if (loss == "softmax") return langevin::kSoftmax;
  throw py::value_error("loss must be 'ridge', 'logistic' or 'softmax', got '" + loss + "'");
}

void check_logistic(int loss, long q) {
  if (loss == langevin::kLogistic && q != 1)
    throw py::value_error("targets must have 1 column for the logistic loss, got " + std::to_string(q));
}

std::optional<Array> optional_array(const py::object& object, const char* name) {
  if (object.is_none()) return std::nullopt;
  return std::optional<Array>(std::in_place, object, name);
}

const Array* pointer(const std::optional<Array>& array) { return array ? &*array : nullptr; }

template <class T>
const T* optional_input(const std::optional<Array>& array, std::initializer_list<long> shape) {
  return array ? input<T>(*array, shape) : nullptr;
}

long padded(long p) { return (p + langevin::kGramBlock - 1) / langevin::kGramBlock * langevin::kGramBlock; }

void gram(const py::object& X_array, const py::object& targets_array, double alpha, const py::object& gram_array,
          const py::object& moment_array, Stream stream) {
  const Array X(X_array, "X"), targets(targets_array, "targets"), gram_out(gram_array, "gram"),
      moment(moment_array, "moment");
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    const long n = length(X, 0), p = length(X, 1), q = length(targets, 1);
    const T* x = input<T>(X, {n, p});
    const T* t = input<T>(targets, {n, q});
    T* g = output<T>(gram_out, {p, padded(p)});
    T* m = output<T>(moment, {q, p});
    run_on_device({&X, &targets, &gram_out, &moment}, stream,
                  [&](cudaStream_t s) { return langevin::device::gram<T>(x, t, n, p, q, alpha, g, m, s); });
  });
}

void row_norms(const py::object& X_array, const py::object& out_array, Stream stream) {
  const Array X(X_array, "X"), out(out_array, "out");
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    const long n = length(X, 0), p = length(X, 1);
    const T* x = input<T>(X, {n, p});
    T* norms = output<T>(out, {n});
    run_on_device({&X, &out}, stream,
                  [&](cudaStream_t s) { return langevin::device::row_norms<T>(x, n, p, norms, s); });
  });
}

long chains_workspace(long n_chains, long p, long q, bool gram_given, long element_bytes) {
  return langevin::device::chains_workspace(n_chains, p, q, gram_given, element_bytes);
}

void chains(const py::object& X_array, const py::object& targets_array, const py::object& gram_array,
            const py::object& moment_array, const py::object& row_norm_array, const py::object& step_size_array,
            const py::object& noise_std_array, const py::object& theta0_array, const py::object& record_array,
            const py::object& out_array, const std::string& loss, double alpha, int64_t threshold, double weight,
            double clip, double radius, uint64_t seed, uint64_t first_chain, uint32_t first_step,
            const py::object& workspace_array, Stream stream) {
  const Array X(X_array, "X"), targets(targets_array, "targets"), step_size(step_size_array, "step_size"),
      noise_std(noise_std_array, "noise_std"), theta0(theta0_array, "theta0"), record(record_array, "record"),
      out(out_array, "out"), scratch(workspace_array, "workspace");
  const auto gram_in = optional_array(gram_array, "gram"), moment = optional_array(moment_array, "moment"),
             row_norm = optional_array(row_norm_array, "row_norm");
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    langevin::Chains<T> a = {};
    a.n = length(X, 0);
    a.p = length(X, 1);
    a.q = length(targets, 1);
    a.n_steps = length(step_size, 0);
    a.n_record = length(record, 0);
    a.n_chains = length(out, 1);
    a.X = input<T>(X, {a.n, a.p});
    a.targets = input<T>(targets, {a.n, a.q});
    a.gram = optional_input<T>(gram_in, {a.p, padded(a.p)});
    a.moment = optional_input<T>(moment, {a.q, a.p});
    a.row_norm = optional_input<T>(row_norm, {a.n});
    a.step_size = input<T>(step_size, {a.n_steps});
    a.noise_std = input<T>(noise_std, {a.n_steps});
    a.theta0_per_chain = theta0.ndim() == 3;
    a.theta0 = a.theta0_per_chain ? input<T>(theta0, {a.n_chains, a.p, a.q}) : input<T>(theta0, {a.p, a.q});
    a.record = input<int64_t>(record, {a.n_record});
    a.out = output<T>(out, {a.n_record, a.n_chains, a.p, a.q});
    a.loss = loss_number(loss);
    check_logistic(a.loss, a.q);
    if ((a.gram != nullptr) != (a.moment != nullptr)) throw py::value_error("moment must come with gram");
    if (a.gram != nullptr && (a.loss != langevin::kRidge || threshold >= 0 || clip > 0))
      throw py::value_error("gram is for full-batch ridge without clipping");
    if (clip > 0 && a.row_norm == nullptr) throw py::value_error("row_norm is needed with clip");
    if (threshold > INT64_C(0xffffffff))
      throw py::value_error("threshold must be below 2**32, got " + std::to_string(threshold));
    a.alpha = static_cast<T>(alpha);
    a.poisson = threshold >= 0;
    a.threshold = a.poisson ? static_cast<uint32_t>(threshold) : 0;
    a.weight = static_cast<T>(weight);
    a.clip = static_cast<T>(clip);
    a.radius = static_cast<T>(radius);
    a.seed = seed;
    a.first_chain = first_chain;
    a.first_step = first_step;
    T* work = workspace<T>(scratch, chains_workspace(a.n_chains, a.p, a.q, a.gram != nullptr, sizeof(T)));
    run_on_device({&X, &targets, pointer(gram_in), pointer(moment), pointer(row_norm), &step_size, &noise_std, &theta0,
                   &record, &out, &scratch},
                  stream, [&](cudaStream_t s) { return langevin::device::chains<T>(a, work, s); });
  });
}

void tail(const py::object& theta_array, const py::object& gradient_array, const py::object& moment_array, double alpha,
          double step_size, double noise_std, double radius, uint64_t seed, uint64_t first_chain, uint32_t step,
          Stream stream) {
  const Array theta(theta_array, "theta"), gradient(gradient_array, "gradient");
  const auto moment = optional_array(moment_array, "moment");
  by_dtype(theta, [&](auto zero) {
    using T = decltype(zero);
    langevin::Tail<T> a = {};
    const long n_chains = length(theta, 0);
    a.q = length(theta, 1);
    a.p = length(theta, 2);
    a.theta = output<T>(theta, {n_chains, a.q, a.p});
    a.gradient = input<T>(gradient, {n_chains, a.q, a.p});
    a.moment = optional_input<T>(moment, {a.q, a.p});
    a.alpha = static_cast<T>(alpha);
    a.step_size = static_cast<T>(step_size);
    a.noise_std = static_cast<T>(noise_std);
    a.radius = static_cast<T>(radius);
    a.seed = seed;
    a.first_chain = first_chain;
    a.step = step;
    run_on_device({&theta, &gradient, pointer(moment)}, stream,
                  [&](cudaStream_t s) { return langevin::device::tail<T>(a, n_chains, s); });
  });
}

void residuals(const py::object& linear_array, const py::object& targets_array, const py::object& row_norm_array,
               const std::string& loss, double clip, Stream stream) {
  const Array linear(linear_array, "linear"), targets(targets_array, "targets");
  const auto row_norm = optional_array(row_norm_array, "row_norm");
  by_dtype(linear, [&](auto zero) {
    using T = decltype(zero);
    langevin::Residuals<T> a = {};
    const long n_chains = length(linear, 0);
    a.q = length(linear, 1);
    a.n = length(linear, 2);
    a.linear = output<T>(linear, {n_chains, a.q, a.n});
    a.targets = input<T>(targets, {a.q, a.n});
    a.row_norm = optional_input<T>(row_norm, {a.n});
    a.loss = loss_number(loss);
    check_logistic(a.loss, a.q);
    a.clip = static_cast<T>(clip);
    if (clip > 0 && a.row_norm == nullptr) throw py::value_error("row_norm is needed with clip");
    run_on_device({&linear, &targets, pointer(row_norm)}, stream,
                  [&](cudaStream_t s) { return langevin::device::residuals<T>(a, n_chains, s); });
  });
}

}  // namespace

void bind_langevin_cuda(py::module_& module) {
  using py::arg;
  module.def("random_words", &random_words, arg("out"), py::kw_only(), arg("seed"), arg("chain"), arg("step"),
             arg("stream"));
  module.def("standard_normals", &standard_normals, arg("out"), py::kw_only(), arg("seed"), arg("chain"), arg("step"),
             arg("stream"));
  module.def("langevin_gram", &gram, arg("X"), arg("targets"), arg("alpha"), arg("gram"), arg("moment"), py::kw_only(),
             arg("stream"));
  module.def("langevin_row_norms", &row_norms, arg("X"), arg("out"), py::kw_only(), arg("stream"));
  module.def("langevin_chains_workspace", &chains_workspace, arg("n_chains"), arg("p"), arg("q"), arg("gram"),
             arg("element_bytes"));
  module.def("langevin_chains", &chains, arg("X"), arg("targets"), arg("gram").none(true), arg("moment").none(true),
             arg("row_norm").none(true), arg("step_size"), arg("noise_std"), arg("theta0"), arg("record"), arg("out"),
             py::kw_only(), arg("loss"), arg("alpha"), arg("threshold"), arg("weight"), arg("clip"), arg("radius"),
             arg("seed"), arg("first_chain"), arg("first_step"), arg("workspace"), arg("stream"));
  module.def("langevin_tail", &tail, arg("theta"), arg("gradient"), arg("moment").none(true), py::kw_only(),
             arg("alpha"), arg("step_size"), arg("noise_std"), arg("radius"), arg("seed"), arg("first_chain"),
             arg("step"), arg("stream"));
  module.def("langevin_residuals", &residuals, arg("linear"), arg("targets"), arg("row_norm").none(true), py::kw_only(),
             arg("loss"), arg("clip"), arg("stream"));
}

}  // namespace expunge::bindings
