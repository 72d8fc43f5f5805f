// The optimal shifted-interpolation bound of one run. Header with bodies, internal linkage.
#pragma once

#include <math.h>

#include "common/isa.hpp"

namespace expunge::privacy {
namespace {

// Noise this small beside the largest counts as none (the safe side): its square would lose its digits.
constexpr double kFaint = 1e-150;
// A shift smaller than this beside the largest counts as so large (the safe side): it may be all that is left.
constexpr double kLeastShift = 1e-290;

// mu of one row, rounded up. The best path is the greatest convex minorant of the points (V_k, S_k); its edges come
// from pooling adjacent steps whose slopes dS/dV fall, from the last step to the first. Each edge sums its own
// increments, and carries a power of two, so that neither cancellation nor a long product of contractions hurts.
EXPUNGE_HD static double shifted_row(const double* sensitivity, const double* contraction, const double* noise_std,
                                     long steps, double* workspace) {
  double* const rise = workspace;              // dS of each edge, in units of 2^power
  double* const run = workspace + steps;       // dV, in units of 4^power
  double* const power = workspace + 2 * steps;
  long first = 0;  // of the steps that survive: nothing earlier does
  for (long k = 0; k < steps; ++k) {
    if (!(sensitivity[k] >= 0.0 && noise_std[k] >= 0.0 && contraction[k] >= 0.0)) return NAN;
    if (!(sensitivity[k] < HUGE_VAL && noise_std[k] < HUGE_VAL && contraction[k] < HUGE_VAL)) return NAN;
    if (contraction[k] == 0.0) first = k;
  }
  double top_shift = 0.0;
  double top_noise = 0.0;
  for (long k = first; k < steps; ++k) {
    if (sensitivity[k] > top_shift) top_shift = sensitivity[k];
    if (noise_std[k] > top_noise) top_noise = noise_std[k];
  }
  if (top_shift == 0.0) return 0.0;
  if (top_noise == 0.0) return HUGE_VAL;
  long edges = 0;
  double weight = 1.0;  // product of the later contractions, as weight * 2^exponent
  double exponent = 0.0;
  for (long k = steps - 1; k >= first; --k) {
    const double noise = weight * (noise_std[k] / top_noise);
    double ds = weight * (sensitivity[k] / top_shift);
    if (sensitivity[k] > 0.0 && ds < kLeastShift) ds = kLeastShift;
    double dv = noise < kFaint ? 0.0 : noise * noise;
    double e = exponent;
    if (ds > 0.0 || dv > 0.0) {
      while (edges > 0) {
        const double later_ds = rise[edges - 1];
        const double later_dv = run[edges - 1];
        const double gap = power[edges - 1] - e;
        const int lift = gap > 4000.0 ? 4000 : gap < -4000.0 ? -4000 : static_cast<int>(gap);
        // Keep the two edges apart while the slope grows with time: ds/dv 2^-e < later_ds/later_dv 2^-later_e. As
        // ratios, which do not underflow together.
        if (dv > 0.0 && later_ds > 0.0 && (later_dv == 0.0 || ldexp(ds / later_ds, lift) < dv / later_dv)) break;
        const bool some = ds > 0.0 || later_ds > 0.0;
        if (lift >= 0) {
          ds = later_ds + ldexp(ds, -lift);
          dv = later_dv + ldexp(dv, -2 * lift);
          e = power[edges - 1];
        } else {
          ds += ldexp(later_ds, lift);
          dv += ldexp(later_dv, 2 * lift);
        }
        if (some && ds < kLeastShift) ds = kLeastShift;
        if (dv < kFaint * kFaint) dv = 0.0;
        --edges;
      }
      rise[edges] = ds;
      run[edges] = dv;
      power[edges] = e;
      ++edges;
    }
    if (k == first) break;
    int one = 0;
    int other = 0;
    weight = frexp(weight * frexp(contraction[k], &one), &other);
    exponent += one + other;
  }
  // The norm of the edges' rise / sqrt(run), in units of the largest.
  double largest = 0.0;
  for (long i = 0; i < edges; ++i) {
    if (rise[i] == 0.0) continue;
    if (run[i] == 0.0) return HUGE_VAL;
    rise[i] /= sqrt(run[i]);
    if (rise[i] > largest) largest = rise[i];
  }
  double total = 0.0;
  for (long i = 0; i < edges; ++i) total += (rise[i] / largest) * (rise[i] / largest);
  int shift_power = 0;
  int noise_power = 0;
  const double ratio = frexp(top_shift, &shift_power) / frexp(top_noise, &noise_power);
  // Each weight carries up to `steps` roundings, each edge sum as many again.
  const double up = 1.0 + (4.0 * static_cast<double>(steps) + 24.0) * 1.1102230246251565e-16;
  const double mu = ldexp(largest * sqrt(total) * ratio * up, shift_power - noise_power);
  constexpr double smallest = 2.2250738585072014e-308;  // below it, digits are lost
  return mu < smallest ? smallest : mu;
}

}  // namespace
}  // namespace expunge::privacy
