// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "privacy/privacy.hpp"

#include "privacy/privacy_math.hpp"

namespace expunge::privacy::EXPUNGE_ISA_NS {
namespace {

long shifted_mu_workspace(long steps) { return 3 * steps; }

void shifted_mu(const double* sensitivity, const double* contraction, const double* noise_std, long steps, double* mu,
                double* workspace, long begin, long end) {
  for (long row = begin; row < end; ++row) {
    const long at = row * steps;
    mu[row] = shifted_row(sensitivity + at, contraction + at, noise_std + at, steps, workspace);
  }
}

long pair_workspace(const Pairs& pairs) { return 2 * pairs.m; }

void pair_delta(const Pairs& pairs, const double* epsilon, bool swapped, double* delta, double* error,
                double* converged, double* workspace, long begin, long end) {
  ProfilePair pair{};
  for (long row = begin; row < end; ++row) {
    if (row == begin || pairs.stride != 0) pair = row_pair(pairs, row, swapped, workspace);
    const ProfileResult result = profile_at(pair, epsilon[row], kTolerance, 0);
    delta[row] = round_up(result);
    error[row] = result.relative_error;
    converged[row] = delta[row] == delta[row] ? result.converged : NAN;
  }
}

void pair_epsilon(const Pairs& pairs, const double* delta, bool swapped, double* epsilon, double* workspace, long begin,
                  long end) {
  ProfilePair pair{};
  for (long row = begin; row < end; ++row) {
    if (row == begin || pairs.stride != 0) pair = row_pair(pairs, row, swapped, workspace);
    epsilon[row] = solve_epsilon(pair, delta[row]);
  }
}

void pair_renyi(const Pairs& pairs, const double* order, bool swapped, double* divergence, double* workspace,
                long begin, long end) {
  ProfilePair pair{};
  for (long row = begin; row < end; ++row) {
    if (row == begin || pairs.stride != 0) pair = row_pair(pairs, row, swapped, workspace);
    double error = 0.0;
    divergence[row] = gaussian_renyi(pair, order[row], &error);
    divergence[row] += error;
  }
}

}  // namespace

extern const Table table = {gdp_delta,  gdp_epsilon,  gdp_mu,    shifted_mu_workspace, shifted_mu, pair_workspace,
                            pair_delta, pair_epsilon, pair_renyi};

}  // namespace expunge::privacy::EXPUNGE_ISA_NS
