// Bindings of the privacy family.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#if defined(EXPUNGE_ON_DEVICE)
#include "privacy/privacy.cuh"
#else
#include "bindings/visible.hpp"
#include "privacy/privacy.hpp"
#include "privacy/sampled_gaussian.hpp"
#endif

namespace expunge::bindings {
namespace {

#if defined(EXPUNGE_ON_DEVICE)
namespace device = privacy::device;
using Elementwise = cudaError_t (*)(const double*, const double*, double*, long, cudaStream_t);
using PairValues = cudaError_t (*)(const privacy::Pairs&, const double*, bool, double*, long, double*, cudaStream_t);
#else
using Elementwise = void (*)(const double*, const double*, double*, long, long);
using PairValues = void (*)(const privacy::Pairs&, const double*, bool, double*, double*, long, long);
#endif

enum class Rounded { up, down };

void elementwise(Elementwise kernel, [[maybe_unused]] Rounded rounded, const Array& a, const Array& b, const Array& out,
                 Place& place) {
  const long n = length(a, 0);
  const double* a_data = input<double>(a, {n});
  const double* b_data = input<double>(b, {n});
  double* out_data = output<double>(out, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run([&](cudaStream_t stream) { return kernel(a_data, b_data, out_data, n, stream); });
#else
  // A multiple of every vector width, so that an item's lane never depends on the thread count.
  place.run(n, 256, [&](long begin, long end) { kernel(a_data, b_data, out_data, begin, end); });
  if (rounded == Rounded::up) keep_visible(out_data, n);
#endif
}

#if defined(EXPUNGE_ON_DEVICE)
#define EXPUNGE_PRIVACY(kernel) &device::kernel
#else
#define EXPUNGE_PRIVACY(kernel) privacy::table().kernel
#endif

void gdp_delta(const Array& mu, const Array& epsilon, const Array& out, Place& place) {
  elementwise(EXPUNGE_PRIVACY(gdp_delta), Rounded::up, mu, epsilon, out, place);
}
void gdp_epsilon(const Array& mu, const Array& delta, const Array& out, Place& place) {
  elementwise(EXPUNGE_PRIVACY(gdp_epsilon), Rounded::up, mu, delta, out, place);
}
void gdp_mu(const Array& epsilon, const Array& delta, const Array& out, Place& place) {
  elementwise(EXPUNGE_PRIVACY(gdp_mu), Rounded::down, epsilon, delta, out, place);
}

void shifted_mu(const Array& sensitivity, const Array& contraction, const Array& noise_std, const Array& out,
                PlaceWithScratch& place) {
  const long rows = length(sensitivity, 0), steps = length(sensitivity, 1);
  const double* s = input<double>(sensitivity, {rows, steps});
  const double* c = input<double>(contraction, {rows, steps});
  const double* tau = input<double>(noise_std, {rows, steps});
  double* mu = output<double>(out, {rows});
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::shifted_workspace(rows, steps), [&](double* workspace, cudaStream_t stream) {
    return device::shifted_mu(s, c, tau, rows, steps, mu, workspace, stream);
  });
#else
  const privacy::Table& kernels = privacy::table();
  place.run_with_scratch(rows, 16, kernels.shifted_mu_workspace(steps), [&](long begin, long end, double* scratch) {
    kernels.shifted_mu(s, c, tau, steps, mu, scratch, begin, end);
  });
  keep_visible(mu, rows);
#endif
}

// Pairs are rows of (n, m) arrays, or one row for all n items.
privacy::Pairs pairs_of(const Array& excess, const Array& squared_shift, double columns, long n) {
  const long rows = length(excess, 0), m = length(excess, 1);
  if (rows != n && rows != 1)
    refuse("excess", "have 1 or " + std::to_string(n) + " rows, got shape " + shape_text(excess));
  if (!(columns >= 1.0)) refuse("columns", "be at least 1");
  return {input<double>(excess, {rows, m}), input<double>(squared_shift, {rows, m}), m, rows == 1 ? 0 : m, columns};
}

void pair_delta(const Array& excess, const Array& squared_shift, double columns, const Array& epsilon, bool swapped,
                const Array& delta, const Array& error, const Array& converged, PlaceWithScratch& place) {
  const long n = length(epsilon, 0);
  const double* epsilons = input<double>(epsilon, {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* deltas = output<double>(delta, {n});
  double* errors = output<double>(error, {n});
  double* flags = output<double>(converged, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::pair_workspace(n, pairs.m), [&](double* workspace, cudaStream_t stream) {
    return device::pair_delta(pairs, epsilons, swapped, deltas, errors, flags, n, workspace, stream);
  });
#else
  const privacy::Table& kernels = privacy::table();
  place.run_with_scratch(n, 8, kernels.pair_workspace(pairs), [&](long begin, long end, double* scratch) {
    kernels.pair_delta(pairs, epsilons, swapped, deltas, errors, flags, scratch, begin, end);
  });
  keep_visible(deltas, n);
#endif
}

void pair_values(PairValues kernel, [[maybe_unused]] long grain, const Array& excess, const Array& squared_shift,
                 double columns, const Array& asked, bool swapped, const Array& out, PlaceWithScratch& place) {
  const long n = length(asked, 0);
  const double* values = input<double>(asked, {n});
  const privacy::Pairs pairs = pairs_of(excess, squared_shift, columns, n);
  double* results = output<double>(out, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run(8 * device::pair_workspace(n, pairs.m), [&](double* workspace, cudaStream_t stream) {
    return kernel(pairs, values, swapped, results, n, workspace, stream);
  });
#else
  place.run_with_scratch(n, grain, privacy::table().pair_workspace(pairs), [&](long begin, long end, double* scratch) {
    kernel(pairs, values, swapped, results, scratch, begin, end);
  });
  keep_visible(results, n);
#endif
}

void pair_epsilon(const Array& excess, const Array& squared_shift, double columns, const Array& delta, bool swapped,
                  const Array& out, PlaceWithScratch& place) {
  pair_values(EXPUNGE_PRIVACY(pair_epsilon), 1, excess, squared_shift, columns, delta, swapped, out, place);
}
void pair_renyi(const Array& excess, const Array& squared_shift, double columns, const Array& order, bool swapped,
                const Array& out, PlaceWithScratch& place) {
  pair_values(EXPUNGE_PRIVACY(pair_renyi), 64, excess, squared_shift, columns, order, swapped, out, place);
}
#undef EXPUNGE_PRIVACY

void sampled_gaussian_rdp(const Array& order, const Array& noise_multiplier, const Array& probability, bool reverse,
                          const Array& out, Place& place) {
  const long n = length(order, 0);
  const double* a = input<double>(order, {n});
  const double* s = input<double>(noise_multiplier, {n});
  const double* q = input<double>(probability, {n});
  double* result = output<double>(out, {n});
#if defined(EXPUNGE_ON_DEVICE)
  place.run([&](cudaStream_t stream) { return device::sampled_gaussian_rdp(a, s, q, reverse, result, n, stream); });
#else
  const auto& table = privacy::sampled_gaussian_table();
  place.run(n, 32, [&](long begin, long end) { table.rdp(begin, end, reverse, a, s, q, result); });
  keep_visible(result, n);
#endif
}

}  // namespace

void bind_privacy(py::module_& module) {
  define<3>(module, "gdp_delta", &gdp_delta, {"mu", "epsilon", "out"});
  define<3>(module, "gdp_epsilon", &gdp_epsilon, {"mu", "delta", "out"});
  define<3>(module, "gdp_mu", &gdp_mu, {"epsilon", "delta", "out"});
  define<4>(module, "shifted_mu", &shifted_mu, {"sensitivity", "contraction", "noise_std", "out"});
  define<8>(module, "pair_delta", &pair_delta,
            {"excess", "squared_shift", "columns", "epsilon", "swapped", "delta", "error", "converged"});
  define<6>(module, "pair_epsilon", &pair_epsilon, {"excess", "squared_shift", "columns", "delta", "swapped", "out"});
  define<6>(module, "pair_renyi", &pair_renyi, {"excess", "squared_shift", "columns", "order", "swapped", "out"});
  define<3>(module, "sampled_gaussian_rdp", &sampled_gaussian_rdp,
            {"order", "noise_multiplier", "sampling_probability", "reverse", "out"});
}

}  // namespace expunge::bindings
