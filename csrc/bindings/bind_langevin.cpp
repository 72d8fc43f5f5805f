#include "bindings/bind_langevin.hpp"

#include <cstdint>
#include <memory>

#include "bindings/arrays.hpp"
#include "common/thread_pool.hpp"

namespace expunge::bindings {
namespace {

using langevin::Chains;
using langevin::Kernels;
using langevin::Residuals;
using langevin::Tail;

constexpr long kNormalsGrain = 1 << 14;  // a multiple of every block of normals
constexpr long kRanges = 64;             // at most this many workspaces per call

template <class T>
const Kernels<T>& kernels() {
  if constexpr (sizeof(T) == 8)
    return langevin::table().f64;
  else
    return langevin::table().f32;
}

template <class T>
const T* optional_input(const py::object& array, const char* name, std::initializer_list<long> shape) {
  if (array.is_none()) return nullptr;
  if (!py::isinstance<py::array>(array)) throw py::type_error(std::string(name) + " must be an array or None");
  return input<T>(py::reinterpret_borrow<py::array>(array), name, shape);
}

// Calls run(T{}) with the T of the array's dtype.
template <class Run>
void by_dtype(const py::array& array, const char* name, Run run) {
  if (py::dtype::of<double>().equal(array.dtype())) return run(double{});
  if (py::dtype::of<float>().equal(array.dtype())) return run(float{});
  throw py::type_error(std::string(name) + " must have dtype float64 or float32, got " +
                       py::str(array.dtype()).cast<std::string>());
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

void random_words(py::array out, uint64_t seed, uint64_t chain, uint32_t step, int threads) {
  const long blocks = length(out, 0, "out");
  uint32_t* words = output<uint32_t>(out, "out", {blocks, 4});
  py::gil_scoped_release release;
  parallel_ranges(blocks, kNormalsGrain, threads, [&](long begin, long end) {
    langevin::table().words(words + 4 * begin, static_cast<uint64_t>(begin), end - begin, seed, chain, step);
  });
}

void standard_normals(py::array out, uint64_t seed, uint64_t chain, uint32_t step, int threads) {
  by_dtype(out, "out", [&](auto zero) {
    using T = decltype(zero);
    const long count = length(out, 0, "out");
    T* normals = output<T>(out, "out", {count});
    py::gil_scoped_release release;
    parallel_ranges(count, kNormalsGrain, threads, [&](long begin, long end) {
      kernels<T>().normals(normals + begin, static_cast<uint64_t>(begin), end - begin, seed, chain, step);
    });
  });
}

long padded(long p) { return (p + langevin::kGramBlock - 1) / langevin::kGramBlock * langevin::kGramBlock; }

void gram(const py::array& X, const py::array& targets, double alpha, py::array gram_out, py::array moment,
          int threads) {
  by_dtype(X, "X", [&](auto zero) {
    using T = decltype(zero);
    const long n = length(X, 0, "X"), p = length(X, 1, "X"), q = length(targets, 1, "targets");
    const T* x = input<T>(X, "X", {n, p});
    const T* t = input<T>(targets, "targets", {n, q});
    T* g = output<T>(gram_out, "gram", {p, padded(p)});
    T* m = output<T>(moment, "moment", {q, p});
    const long width = 2 * (padded(p) + q), grain = (p + kRanges - 1) / kRanges;
    if (p == 0) return;
    std::unique_ptr<double[]> workspace(new double[static_cast<size_t>(width * ((p + grain - 1) / grain))]);
    py::gil_scoped_release release;
    parallel_ranges(p, grain, threads, [&](long begin, long end) {
      kernels<T>().gram(x, t, n, p, q, alpha, g, m, workspace.get() + begin / grain * width, begin, end);
    });
  });
}

void row_norms(const py::array& X, py::array out, int threads) {
  by_dtype(X, "X", [&](auto zero) {
    using T = decltype(zero);
    const long n = length(X, 0, "X"), p = length(X, 1, "X");
    const T* x = input<T>(X, "X", {n, p});
    T* norms = output<T>(out, "out", {n});
    py::gil_scoped_release release;
    parallel_ranges(n, 1024, threads, [&](long begin, long end) { kernels<T>().row_norms(x, p, norms, begin, end); });
  });
}

template <class T>
void run_chains(const py::array& X, const py::array& targets, const py::object& gram_in, const py::object& moment,
                const py::object& row_norm, const py::array& step_size, const py::array& noise_std,
                const py::array& theta0, const py::array& record, py::array& out, const std::string& loss, double alpha,
                int64_t threshold, double weight, double clip, double radius, uint64_t seed, uint64_t first_chain,
                uint32_t first_step, int threads) {
  Chains<T> a = {};
  a.n = length(X, 0, "X");
  a.p = length(X, 1, "X");
  a.q = length(targets, 1, "targets");
  a.n_steps = length(step_size, 0, "step_size");
  a.n_record = length(record, 0, "record");
  a.n_chains = length(out, 1, "out");
  a.X = input<T>(X, "X", {a.n, a.p});
  a.targets = input<T>(targets, "targets", {a.n, a.q});
  a.gram = optional_input<T>(gram_in, "gram", {a.p, padded(a.p)});
  a.moment = optional_input<T>(moment, "moment", {a.q, a.p});
  a.row_norm = optional_input<T>(row_norm, "row_norm", {a.n});
  a.step_size = input<T>(step_size, "step_size", {a.n_steps});
  a.noise_std = input<T>(noise_std, "noise_std", {a.n_steps});
  a.theta0_per_chain = theta0.ndim() == 3;
  a.theta0 =
      a.theta0_per_chain ? input<T>(theta0, "theta0", {a.n_chains, a.p, a.q}) : input<T>(theta0, "theta0", {a.p, a.q});
  a.record = input<int64_t>(record, "record", {a.n_record});
  a.out = output<T>(out, "out", {a.n_record, a.n_chains, a.p, a.q});
  for (long i = 0; i < a.n_record; ++i)
    if (a.record[i] < (i > 0 ? a.record[i - 1] + 1 : 0) || a.record[i] > a.n_steps)
      throw py::value_error("record must increase within [0, " + std::to_string(a.n_steps) + "], got " +
                            std::to_string(a.record[i]) + " at index " + std::to_string(i));
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
  if (a.n_chains == 0 || a.p == 0 || a.q == 0) return;
  const long lanes = kernels<T>().lanes;
  const long groups = (a.n_chains + lanes - 1) / lanes;
  const long grain = (groups + kRanges - 1) / kRanges * lanes;
  const long size = lanes * (3 * a.p * a.q + 4 * a.q);
  std::unique_ptr<T[]> workspace(new T[static_cast<size_t>(size * ((a.n_chains + grain - 1) / grain))]);
  py::gil_scoped_release release;
  parallel_ranges(a.n_chains, grain, threads, [&](long begin, long end) {
    kernels<T>().chains(a, workspace.get() + begin / grain * size, begin, end);
  });
}

void chains(const py::array& X, const py::array& targets, const py::object& gram_in, const py::object& moment,
            const py::object& row_norm, const py::array& step_size, const py::array& noise_std, const py::array& theta0,
            const py::array& record, py::array out, const std::string& loss, double alpha, int64_t threshold,
            double weight, double clip, double radius, uint64_t seed, uint64_t first_chain, uint32_t first_step,
            int threads) {
  by_dtype(X, "X", [&](auto zero) {
    run_chains<decltype(zero)>(X, targets, gram_in, moment, row_norm, step_size, noise_std, theta0, record, out, loss,
                               alpha, threshold, weight, clip, radius, seed, first_chain, first_step, threads);
  });
}

void tail(py::array theta, const py::array& gradient, const py::object& moment, double alpha, double step_size,
          double noise_std, double radius, uint64_t seed, uint64_t first_chain, uint32_t step, int threads) {
  by_dtype(theta, "theta", [&](auto zero) {
    using T = decltype(zero);
    Tail<T> a = {};
    const long n_chains = length(theta, 0, "theta");
    a.q = length(theta, 1, "theta");
    a.p = length(theta, 2, "theta");
    a.theta = output<T>(theta, "theta", {n_chains, a.q, a.p});
    a.gradient = input<T>(gradient, "gradient", {n_chains, a.q, a.p});
    a.moment = optional_input<T>(moment, "moment", {a.q, a.p});
    a.alpha = static_cast<T>(alpha);
    a.step_size = static_cast<T>(step_size);
    a.noise_std = static_cast<T>(noise_std);
    a.radius = static_cast<T>(radius);
    a.seed = seed;
    a.first_chain = first_chain;
    a.step = step;
    py::gil_scoped_release release;
    parallel_ranges(n_chains, 8, threads, [&](long begin, long end) { kernels<T>().tail(a, begin, end); });
  });
}

void residuals(py::array linear, const py::array& targets, const py::object& row_norm, const std::string& loss,
               double clip, int threads) {
  by_dtype(linear, "linear", [&](auto zero) {
    using T = decltype(zero);
    Residuals<T> a = {};
    const long n_chains = length(linear, 0, "linear");
    a.q = length(linear, 1, "linear");
    a.n = length(linear, 2, "linear");
    a.linear = output<T>(linear, "linear", {n_chains, a.q, a.n});
    a.targets = input<T>(targets, "targets", {a.q, a.n});
    a.row_norm = optional_input<T>(row_norm, "row_norm", {a.n});
    a.loss = loss_number(loss);
    check_logistic(a.loss, a.q);
    a.clip = static_cast<T>(clip);
    if (clip > 0 && a.row_norm == nullptr) throw py::value_error("row_norm is needed with clip");
    if (a.q == 0) return;
    py::gil_scoped_release release;
    parallel_ranges(n_chains, 1, threads, [&](long begin, long end) { kernels<T>().residuals(a, begin, end); });
  });
}

}  // namespace

void bind_langevin(py::module_& module) {
  using py::arg;
  module.def("random_words", &random_words, arg("out"), py::kw_only(), arg("seed"), arg("chain"), arg("step"),
             arg("threads"));
  module.def("standard_normals", &standard_normals, arg("out"), py::kw_only(), arg("seed"), arg("chain"), arg("step"),
             arg("threads"));
  module.def("langevin_gram", &gram, arg("X"), arg("targets"), arg("alpha"), arg("gram"), arg("moment"), py::kw_only(),
             arg("threads"));
  module.def("langevin_row_norms", &row_norms, arg("X"), arg("out"), py::kw_only(), arg("threads"));
  module.def("langevin_chains", &chains, arg("X"), arg("targets"), arg("gram").none(true), arg("moment").none(true),
             arg("row_norm").none(true), arg("step_size"), arg("noise_std"), arg("theta0"), arg("record"), arg("out"),
             py::kw_only(), arg("loss"), arg("alpha"), arg("threshold"), arg("weight"), arg("clip"), arg("radius"),
             arg("seed"), arg("first_chain"), arg("first_step"), arg("threads"));
  module.def("langevin_tail", &tail, arg("theta"), arg("gradient"), arg("moment").none(true), py::kw_only(),
             arg("alpha"), arg("step_size"), arg("noise_std"), arg("radius"), arg("seed"), arg("first_chain"),
             arg("step"), arg("threads"));
  module.def("langevin_residuals", &residuals, arg("linear"), arg("targets"), arg("row_norm").none(true), py::kw_only(),
             arg("loss"), arg("clip"), arg("threads"));
}

}  // namespace expunge::bindings
