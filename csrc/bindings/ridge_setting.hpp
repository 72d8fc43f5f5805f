// What every exact ridge kernel is told about learning, unlearning and the target: one class for all modules.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "ridge/ridge.hpp"

namespace expunge::bindings {

struct RidgeSetting {
  double step_size, noise_std, unlearn_steps, unlearn_noise_std;
  bool solve_steps;
  double epsilon, log_delta, mu, tolerance;
};

inline RidgeSetting ridge_setting(double step_size, double noise_std, double unlearn_steps, double unlearn_noise_std,
                                  bool solve_steps, double epsilon, double log_delta, double mu, double tolerance) {
  return {step_size, noise_std, unlearn_steps, unlearn_noise_std, solve_steps, epsilon, log_delta, mu, tolerance};
}

inline ridge::QuoteInput quote_input(const RidgeSetting& s, const double* eigenvalues, const double* projected,
                                     const double* residuals, long p, long q, long n_steps, long rank) {
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

inline void check_rank(long rank, long p, long lowest) {
  if (rank < lowest || rank > p)
    throw pybind11::value_error("rank must be between " + std::to_string(lowest) + " and " + std::to_string(p) +
                                ", got " + std::to_string(rank));
}

}  // namespace expunge::bindings
