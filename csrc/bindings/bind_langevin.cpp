// Bindings of the langevin family.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#include "bindings/losses.hpp"
#if defined(EXPUNGE_ON_DEVICE)
#include "langevin/langevin.cuh"
#else
#include <memory>

#include "langevin/langevin.hpp"
#endif

namespace expunge::bindings {
namespace {

using Numbers = std::optional<Array>;

#if defined(EXPUNGE_ON_DEVICE)
namespace device = langevin::device;
#else
constexpr long kNormalsGrain = 1 << 14;  // a multiple of every block of normals
constexpr long kRanges = 64;             // at most this many workspaces per call

template <class T>
const langevin::Kernels<T>& kernels() {
  if constexpr (sizeof(T) == 8)
    return langevin::table().f64;
  else
    return langevin::table().f32;
}
#endif

Loss loss_of(const std::string& name, long q) {
  const Loss loss = loss_named(name);
  if (loss == Loss::logistic && q != 1)
    refuse("targets", "have 1 column for the logistic loss, got " + std::to_string(q));
  return loss;
}

void random_words(const Array& out, uint64_t seed, uint64_t chain, uint32_t step, Place& place) {
  const long blocks = length(out, 0);
  uint32_t* words = output<uint32_t>(out, {blocks, 4});
#if defined(EXPUNGE_ON_DEVICE)
  place.run([&](cudaStream_t stream) { return device::random_words(words, blocks, seed, chain, step, stream); });
#else
  place.run(blocks, kNormalsGrain, [&](long begin, long end) {
    langevin::table().words(words + 4 * begin, static_cast<uint64_t>(begin), end - begin, seed, chain, step);
  });
#endif
}

void standard_normals(const Array& out, uint64_t seed, uint64_t chain, uint32_t step, Place& place) {
  by_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    const long count = length(out, 0);
    T* normals = output<T>(out, {count});
#if defined(EXPUNGE_ON_DEVICE)
    place.run(
        [&](cudaStream_t stream) { return device::standard_normals<T>(normals, count, seed, chain, step, stream); });
#else
    place.run(count, kNormalsGrain, [&](long begin, long end) {
      kernels<T>().normals(normals + begin, static_cast<uint64_t>(begin), end - begin, seed, chain, step);
    });
#endif
  });
}

long padded(long p) { return (p + langevin::kGramBlock - 1) / langevin::kGramBlock * langevin::kGramBlock; }

void gram(const Array& X, const Array& targets, double alpha, const Array& gram_out, const Array& moment,
          Place& place) {
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    const long n = length(X, 0), p = length(X, 1), q = length(targets, 1);
    const T* x = input<T>(X, {n, p});
    const T* t = input<T>(targets, {n, q});
    T* g = output<T>(gram_out, {p, padded(p)});
    T* m = output<T>(moment, {q, p});
#if defined(EXPUNGE_ON_DEVICE)
    place.run([&](cudaStream_t stream) { return device::gram<T>(x, t, n, p, q, alpha, g, m, stream); });
#else
    if (p == 0) return;
    const long width = kernels<T>().gram_workspace(p, q), grain = (p + kRanges - 1) / kRanges;
    const std::unique_ptr<double[]> workspace(new double[static_cast<size_t>(width * ((p + grain - 1) / grain))]);
    place.run(p, grain, [&](long begin, long end) {
      kernels<T>().gram(x, t, n, p, q, alpha, g, m, workspace.get() + begin / grain * width, begin, end);
    });
#endif
  });
}

void row_norms(const Array& X, const Array& out, Place& place) {
  by_dtype(X, [&](auto zero) {
    using T = decltype(zero);
    const long n = length(X, 0), p = length(X, 1);
    const T* x = input<T>(X, {n, p});
    T* norms = output<T>(out, {n});
#if defined(EXPUNGE_ON_DEVICE)
    place.run([&](cudaStream_t stream) { return device::row_norms<T>(x, n, p, norms, stream); });
#else
    place.run(n, 1024, [&](long begin, long end) { kernels<T>().row_norms(x, p, norms, begin, end); });
#endif
  });
}

void chains(const Array& X, const Array& targets, const Numbers& gram_in, const Numbers& moment,
            const Numbers& row_norm, const Array& step_size, const Array& noise_std, const Array& theta0,
            const Array& record, const Array& out, const std::string& loss, double alpha, int64_t threshold,
            double weight, double clip, double radius, uint64_t seed, uint64_t first_chain, uint32_t first_step,
            PlaceWithScratch& place) {
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
    a.gram = input<T>(gram_in, {a.p, padded(a.p)});
    a.moment = input<T>(moment, {a.q, a.p});
    a.row_norm = input<T>(row_norm, {a.n});
    a.step_size = input<T>(step_size, {a.n_steps});
    a.noise_std = input<T>(noise_std, {a.n_steps});
    a.theta0_per_chain = theta0.ndim() == 3;
    a.theta0 = a.theta0_per_chain ? input<T>(theta0, {a.n_chains, a.p, a.q}) : input<T>(theta0, {a.p, a.q});
    a.record = input<int64_t>(record, {a.n_record});
    a.out = output<T>(out, {a.n_record, a.n_chains, a.p, a.q});
    for (long i = 0; !kOnDevice && i < a.n_record; ++i)
      if (a.record[i] < (i > 0 ? a.record[i - 1] + 1 : 0) || a.record[i] > a.n_steps)
        refuse("record", "increase within [0, " + std::to_string(a.n_steps) + "], got " + std::to_string(a.record[i]) +
                             " at index " + std::to_string(i));
    a.loss = loss_of(loss, a.q);
    if ((a.gram != nullptr) != (a.moment != nullptr)) refuse("moment", "come with gram");
    if (a.gram != nullptr && (a.loss != Loss::squared || threshold >= 0 || clip > 0))
      throw py::value_error("gram is for the squared loss on full batches without clipping");
    if (clip > 0 && a.row_norm == nullptr) throw py::value_error("row_norm is needed with clip");
    if (threshold < -1 || threshold > INT64_C(0xffffffff))
      refuse("threshold", "be below 2**32, or -1 for full batches, got " + std::to_string(threshold));
    a.alpha = static_cast<T>(alpha);
    a.poisson = threshold >= 0;
    a.threshold = a.poisson ? static_cast<uint32_t>(threshold) : 0;
    a.weight = static_cast<T>(weight);
    a.clip = static_cast<T>(clip);
    a.radius = static_cast<T>(radius);
    a.seed = seed;
    a.first_chain = first_chain;
    a.first_step = first_step;
#if defined(EXPUNGE_ON_DEVICE)
    const long size = device::chains_workspace(a.n_chains, a.p, a.q, a.gram != nullptr, sizeof(T));
    place.run(size * static_cast<long>(sizeof(T)), [&](double* workspace, cudaStream_t stream) {
      return device::chains<T>(a, reinterpret_cast<T*>(workspace), stream);
    });
#else
    if (a.n_record == 0 || a.n_chains == 0 || a.p == 0 || a.q == 0) return;
    const long lanes = kernels<T>().lanes;
    const long groups = (a.n_chains + lanes - 1) / lanes;
    const long grain = (groups + kRanges - 1) / kRanges * lanes;
    const long size = kernels<T>().chains_workspace(a);
    const std::unique_ptr<T[]> workspace(new T[static_cast<size_t>(size * ((a.n_chains + grain - 1) / grain))]);
    place.run(a.n_chains, grain, [&](long begin, long end) {
      kernels<T>().chains(a, workspace.get() + begin / grain * size, begin, end);
    });
#endif
  });
}

void tail(const Array& theta, const Array& gradient, const Numbers& moment, double alpha, double step_size,
          double noise_std, double radius, uint64_t seed, uint64_t first_chain, uint32_t step, Place& place) {
  by_dtype(theta, [&](auto zero) {
    using T = decltype(zero);
    langevin::Tail<T> a = {};
    const long n_chains = length(theta, 0);
    a.q = length(theta, 1);
    a.p = length(theta, 2);
    a.theta = output<T>(theta, {n_chains, a.q, a.p});
    a.gradient = input<T>(gradient, {n_chains, a.q, a.p});
    a.moment = input<T>(moment, {a.q, a.p});
    a.alpha = static_cast<T>(alpha);
    a.step_size = static_cast<T>(step_size);
    a.noise_std = static_cast<T>(noise_std);
    a.radius = static_cast<T>(radius);
    a.seed = seed;
    a.first_chain = first_chain;
    a.step = step;
#if defined(EXPUNGE_ON_DEVICE)
    place.run([&](cudaStream_t stream) { return device::tail<T>(a, n_chains, stream); });
#else
    if (a.p == 0 || a.q == 0) return;
    place.run(n_chains, 8, [&](long begin, long end) { kernels<T>().tail(a, begin, end); });
#endif
  });
}

void residuals(const Array& linear, const Array& targets, const Numbers& row_norm, const std::string& loss, double clip,
               Place& place) {
  by_dtype(linear, [&](auto zero) {
    using T = decltype(zero);
    langevin::Residuals<T> a = {};
    const long n_chains = length(linear, 0);
    a.q = length(linear, 1);
    a.n = length(linear, 2);
    a.linear = output<T>(linear, {n_chains, a.q, a.n});
    a.targets = input<T>(targets, {a.q, a.n});
    a.row_norm = input<T>(row_norm, {a.n});
    a.loss = loss_of(loss, a.q);
    a.clip = static_cast<T>(clip);
    if (clip > 0 && a.row_norm == nullptr) throw py::value_error("row_norm is needed with clip");
#if defined(EXPUNGE_ON_DEVICE)
    place.run([&](cudaStream_t stream) { return device::residuals<T>(a, n_chains, stream); });
#else
    if (a.q == 0 || a.n == 0) return;
    place.run(n_chains, 1, [&](long begin, long end) { kernels<T>().residuals(a, begin, end); });
#endif
  });
}

}  // namespace

void bind_langevin(py::module_& module) {
  define<1>(module, "random_words", &random_words, {"out", "seed", "chain", "step"});
  define<1>(module, "standard_normals", &standard_normals, {"out", "seed", "chain", "step"});
  define<5>(module, "langevin_gram", &gram, {"X", "targets", "alpha", "gram", "moment"});
  define<2>(module, "langevin_row_norms", &row_norms, {"X", "out"});
  define<10>(module, "langevin_chains", &chains,
             {"X", "targets", "gram", "moment", "row_norm", "step_size", "noise_std", "theta0", "record", "out", "loss",
              "alpha", "threshold", "weight", "clip", "radius", "seed", "first_chain", "first_step"});
  define<3>(
      module, "langevin_tail", &tail,
      {"theta", "gradient", "moment", "alpha", "step_size", "noise_std", "radius", "seed", "first_chain", "step"});
  define<3>(module, "langevin_residuals", &residuals, {"linear", "targets", "row_norm", "loss", "clip"});
}

}  // namespace expunge::bindings
