// Interface of the sampled-Gaussian kernels: serial over a range of items; callers split ranges over threads.
#pragma once

#include "common/isa.hpp"

namespace expunge::privacy {

struct SampledGaussianTable {
  // out[i] >= Renyi divergence of order[i] between (1-q) N(0, s^2) + q N(1, s^2) and N(0, s^2), q = probability[i],
  // s = noise_multiplier[i], for i in [begin, end). reverse: the Gaussian comes first.
  void (*rdp)(long begin, long end, bool reverse, const double* order, const double* noise_multiplier,
              const double* probability, double* out);
};

EXPUNGE_ISA_TABLE(SampledGaussianTable, sampled_gaussian_table)

}  // namespace expunge::privacy
