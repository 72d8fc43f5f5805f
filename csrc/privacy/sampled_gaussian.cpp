// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "privacy/sampled_gaussian.hpp"

#include "privacy/sampled_gaussian_math.hpp"

namespace expunge::privacy::EXPUNGE_ISA_NS {
namespace {

void rdp(long begin, long end, bool reverse, const double* order, const double* noise_multiplier,
         const double* probability, double* out) {
  for (long i = begin; i < end; ++i) out[i] = sampled_rdp(reverse, order[i], noise_multiplier[i], probability[i]);
}

}  // namespace

extern const SampledGaussianTable sampled_gaussian_table = {rdp};

}  // namespace expunge::privacy::EXPUNGE_ISA_NS
