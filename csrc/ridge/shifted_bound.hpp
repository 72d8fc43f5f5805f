// The shifted-interpolation bound of learn-then-unlearn, solved for the unlearning in closed form.
#pragma once

#include <math.h>

#include "common/team.hpp"
#include "ridge/ridge.hpp"

namespace expunge::ridge {
namespace {

// Smallest root of 1 - sum x_j^2 / (h_j - t), the lowest eigenvalue of H - x x^T, from below. The function is concave
// and falling left of h_0, so an interval [low, high] with values >= 0 and < 0 shrinks onto the root; `low` is
// returned.
EXPUNGE_HD EXPUNGE_OUTLINE static double lowest_root(const double* h, const double* x, long p, double floor_value,
                                                     double slack) {
  double all = 0.0;  // NaN anywhere has to come out as NaN, not as the floor
  for (long j = team::lane(); j < p; j += team::size) all += h[j] + x[j] * x[j];
  all = team::sum(all);
  if (all != all) return all;
  double low = floor_value, high = h[0];
  if (!(low < high)) return floor_value;
  for (int i = 0; i < 200 && high - low > 0.25 * slack && high - low > 1e-15 * high; ++i) {
    // Newton from the right end is monotone; halving guards against its slow start near the pole
    double t = 0.5 * (low + high);
    double sums[4] = {0.0, 0.0, 0.0, 0.0}, slopes[4] = {0.0, 0.0, 0.0, 0.0};
    for (int pass = 0; pass < 2; ++pass) {
      for (int c = 0; c < 4; ++c) sums[c] = slopes[c] = 0.0;
      const long whole = p / 4 * 4;
      for (long j = 4 * team::lane(); j < whole; j += 4 * team::size)
        for (int c = 0; c < 4; ++c) {
          const double inverse = 1.0 / (h[j + c] - t);
          const double term = x[j + c] * x[j + c] * inverse;
          sums[c] += term;
          slopes[c] += term * inverse;
        }
      for (long j = whole + team::lane(); j < p; j += team::size) {
        const double inverse = 1.0 / (h[j] - t);
        sums[0] += x[j] * x[j] * inverse;
        slopes[0] += x[j] * x[j] * inverse * inverse;
      }
      const double value = 1.0 - team::sum(sums[0] + sums[1] + sums[2] + sums[3]);
      if (value >= 0.0)
        low = t > low ? t : low;
      else
        high = t < high ? t : high;
      if (pass == 1) break;
      const double newton = t + value / team::sum(slopes[0] + slopes[1] + slopes[2] + slopes[3]);
      // a hair to the left, so that a converged iterate closes the interval from below
      t = newton - 0.125 * slack;
      if (!(t > low && t < high)) break;
    }
  }
  const double bound = low - slack;
  return bound > floor_value ? bound : floor_value;
}

// A column of the workspace: its entries lie side by side on a CPU, and beside those of the other threads on a GPU.
#if defined(EXPUNGE_DEVICE_CODE)
struct Column {
  double* at;
  long stride;
  EXPUNGE_HD double& operator[](long i) const { return at[i * stride]; }
  EXPUNGE_HD Column operator+(long i) const { return {at + i * stride, stride}; }
};
#else
using Column = double*;
#endif

// Greatest convex minorant of the learning steps (pooled adjacent violators), as blocks of growing slope S / V.
struct Blocks {
  Column v;
  Column s;
  long count;
};

EXPUNGE_HD static Blocks convex_minorant(const double* sensitivity, double contraction, long n_steps, double noise_std,
                                         Column memory) {
  Blocks blocks = {memory, memory + n_steps, 0};
  // weights c^{n-k}, from the last step backwards so that each is one multiplication; steps are filled in place
  double weight = 1.0;
  for (long k = n_steps - 1; k >= 0; --k) {
    blocks.v[k] = weight * noise_std * (weight * noise_std);
    blocks.s[k] = weight * sensitivity[k];
    weight *= contraction;
  }
  long top = -1;
  for (long k = 0; k < n_steps; ++k) {
    double v = blocks.v[k], s = blocks.s[k];
    if (!(v > 0.0) && !(s > 0.0)) continue;  // forgotten entirely
    while (top >= 0 && blocks.s[top] * v >= s * blocks.v[top]) {
      v += blocks.v[top];
      s += blocks.s[top];
      --top;
    }
    ++top;
    blocks.v[top] = v;
    blocks.s[top] = s;
  }
  blocks.count = top + 1;
  return blocks;
}

// Unlearning adds variance at no sensitivity, which is one more point (V + extra, S): the minorant then keeps the first
// m blocks and ends in one straight edge. mu^2 = sum_{b<=m} s^2/v + rest_s^2 / (rest_v + extra), solved for extra.
EXPUNGE_HD EXPUNGE_OUTLINE static void shifted_quote(const ShiftedInput& in, const double* sensitivity,
                                                     double contraction, double* value, double* mu, Column memory) {
  const double rounding = 1.0 + 2.220446049250313e-16 * (1024.0 + 8.0 * static_cast<double>(in.n_steps));
  const Blocks blocks = convex_minorant(sensitivity, contraction, in.n_steps, in.noise_std, memory);
  const double limit = in.mu / (rounding * rounding) * (in.mu / (rounding * rounding));
  const Column prefix = memory + 2 * in.n_steps;  // mu^2 of the first m blocks
  double square = 0.0, total = 0.0;
  for (long b = 0; b < blocks.count; ++b) {
    prefix[b] = square;
    square += blocks.s[b] > 0.0 ? blocks.s[b] * (blocks.s[b] / blocks.v[b]) : 0.0;
    total += blocks.s[b];
  }
  if (total != total || square != square || contraction != contraction) {
    *value = *mu = __builtin_nan("");
    return;
  }
  if (square <= limit) {
    *value = 0.0;
    *mu = sqrt(square) * rounding;
    return;
  }
  // cut after m blocks; walk m down, so that suffix sums grow from increments
  double best = HUGE_VAL, best_square = HUGE_VAL, rest_v = 0.0, rest_s = 0.0;
  for (long m = blocks.count - 1; m >= 0; --m) {
    rest_v += blocks.v[m];
    rest_s += blocks.s[m];
    if (!(prefix[m] < limit)) continue;
    const double room = limit - prefix[m];
    const double extra = rest_s * (rest_s / room) - rest_v;
    if (!(extra > 0.0)) continue;
    // the straight edge must stay below the next point: its slope may not exceed that of block m
    if (room / rest_s * blocks.v[m] > blocks.s[m] * (1.0 + 1e-14)) continue;
    if (extra < best) {
      best = extra;
      best_square = prefix[m] + rest_s * (rest_s / (rest_v + extra));
    }
  }
  if (!(best < HUGE_VAL)) {
    *value = HUGE_VAL;
    *mu = HUGE_VAL;
    return;
  }
  best *= rounding;
  *mu = sqrt(best_square) * rounding;
  const double c = contraction, complement = (1.0 - c) * (1.0 + c);
  if (in.solve_steps) {
    if (!(in.unlearn_noise_std > 0.0)) {
      *value = HUGE_VAL;
      *mu = HUGE_VAL;
      return;
    }
    // c^{-2K} - 1 >= extra (1 - c^2) / tau^2
    const double need = best / in.unlearn_noise_std / in.unlearn_noise_std;
    const double steps = complement > 0.0 ? log1p(need * complement) / (-2.0 * log(c)) : need;
    const double whole = ceil(steps * rounding);
    *value = whole > 1.0 ? whole : 1.0;
    return;
  }
  if (!(in.unlearn_steps > 0.0)) {
    *value = HUGE_VAL;
    *mu = HUGE_VAL;
    return;
  }
  const double log_c = log(c);
  const double sum = complement > 0.0 ? -expm1(2.0 * in.unlearn_steps * log_c) / complement : in.unlearn_steps;
  const double noise = sqrt(best / sum) * (c > 0.0 ? exp(in.unlearn_steps * log_c) : 0.0) * rounding * (1.0 + 1e-15);
  *value = noise > 2.2250738585072014e-308 ? noise : 2.2250738585072014e-308;
}

}  // namespace
}  // namespace expunge::ridge
