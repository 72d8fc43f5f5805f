// Bodies shared by the privacy kernels of a CPU and of a GPU. Internal linkage.
#pragma once

#include "privacy/gaussian_profile.hpp"
#include "privacy/gdp.hpp"
#include "privacy/privacy.hpp"
#include "privacy/shifted.hpp"

namespace expunge::privacy {
namespace {

constexpr double kTolerance = 3e-13;

// The row's pair, with its roles exchanged into the workspace where wanted.
EXPUNGE_HD static ProfilePair row_pair(const Pairs& pairs, long row, bool swapped, double* workspace) {
  const double* e = pairs.excess + row * pairs.stride;
  const double* d2 = pairs.squared_shift + row * pairs.stride;
  const double* origin = nullptr;
  if (swapped) {
    origin = e;
    swap_roles(e, d2, pairs.m, workspace, workspace + pairs.m);
    e = workspace;
    d2 = workspace + pairs.m;
  }
  return profile_pair(e, d2, pairs.m, 0.0, pairs.columns, origin);
}

// delta rounded up: the error of the profile, then of exp and of the smallest subnormal.
EXPUNGE_HD static double round_up(const ProfileResult& result) {
  if (result.log_delta == -HUGE_VAL) return 0.0;
  if (!(result.log_delta < 0.0)) return result.log_delta == result.log_delta ? 1.0 : result.log_delta;
  const double margin = result.converged ? result.relative_error : 0.0;
  const double up = ::exp(result.log_delta) * (1.0 + margin + 1e-15) + 4.9406564584124654e-324;
  return up < 1.0 ? up : 1.0;
}

EXPUNGE_HD static double solve_epsilon(const ProfilePair& pair, double delta) {
  if (!pair.valid || !(delta >= 0.0)) return NAN;
  if (delta >= 1.0) return 0.0;
  if (pair.overflows) return HUGE_VAL;  // as its deltas are 1
  if (delta <= 0.0) {
    if (pair.trivial) return 0.0;
    // The laws differ: their largest loss is not 0, however small.
    return pair.max_loss < HUGE_VAL ? ::fmax(loss_ceiling(pair) * (1.0 + 4.5e-16), 2.2250738585072014e-308) : HUGE_VAL;
  }
  double low = 0.0;
  ProfileResult value = profile_at(pair, 0.0, kTolerance, 0);
  if (round_up(value) <= delta) return 0.0;
  const double target = ::log(delta);
  const double noise = 4.0 * 2.220446049250313e-16 * (1.0 - target);
  double high = HUGE_VAL;
  double at = 0.0;
  double last_at = 0.0;
  double last_off = 0.0;
  double slope = 0.0;
  bool found = false;
  for (int round = 0; round < 200; ++round) {
    const double margin = value.converged ? value.relative_error : 0.0;
    const double off = value.log_delta + margin - target;
    if (off > 0.0)
      low = at;
    else
      high = at;
    if (round > 0 && off > -HUGE_VAL && last_off > -HUGE_VAL && at != last_at && off != last_off)
      slope = (last_off - off) / (at - last_at);
    // A bound has no saddle slope of its own; the saddle's is close, and the secant corrects it.
    if (round == 0 || !(slope > 0.0)) slope = value.saddle;
    found = round > 0 && off <= 0.0 && -off <= 2.0 * margin + noise;
    if (found || (high < HUGE_VAL && high - low <= 4.0 * 2.220446049250313e-16 * high)) break;
    last_at = at;
    last_off = off;
    // Aim half an error beyond the target: the answer must lie on the safe side.
    double next = at + (off + margin + 0.5 * noise) / slope;
    if (!(next > low && next < high)) next = high < HUGE_VAL ? 0.5 * (low + high) : 2.0 * at + 1.0 / value.saddle;
    if (high < HUGE_VAL && round % 8 == 7) next = 0.5 * (low + high);
    at = next;
    value = profile_at(pair, at, kTolerance, 0);
  }
  // Every upper end met was proved by the rounded-up profile, up to the rounding of exp: prove it once more.
  double answer = high;
  double growth = 4.0 * 2.220446049250313e-16;
  for (int round = 0; round < 100 && answer < HUGE_VAL; ++round) {
    if (round_up(profile_at(pair, answer, kTolerance, 0)) <= delta) return answer;
    answer *= 1.0 + growth;
    growth *= 2.0;
  }
  return HUGE_VAL;
}

}  // namespace
}  // namespace expunge::privacy
