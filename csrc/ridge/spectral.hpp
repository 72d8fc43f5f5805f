// Geometric sums over the learning and unlearning steps, and their divided differences, without cancellation.
#pragma once

#include <math.h>

#include "ridge/jacobi.hpp"

namespace expunge::ridge {
namespace {

// The map a = 1 - eta h of one step at an eigenvalue h, kept so that neither 1 - a^2 nor log|a| cancels.
struct StepFactor {
  double a;           // in [-1, 1] up to rounding
  double log_a;       // log|a|, -inf at a = 0
  double complement;  // 1 - a^2
};

EXPUNGE_HD static inline StepFactor step_factor(double eigenvalue, double step_size) {
  const double u = step_size * eigenvalue;
  const double v = u < 1.0 ? u : 2.0 - u;  // |a| = 1 - v
  return {1.0 - u, log1p(-v), v * (2.0 - v)};
}

// |a|^n for n >= 0, with 0^0 = 1.
EXPUNGE_HD static inline double power(const StepFactor& x, double n) { return n > 0.0 ? exp(n * x.log_a) : 1.0; }

// sum_{j<n} a^{2j}
EXPUNGE_HD static inline double geometric_sum(const StepFactor& x, double n) {
  if (!(n > 0.0)) return 0.0;
  return x.complement == 0.0 ? n : -expm1(2.0 * n * x.log_a) / x.complement;
}

// G[x, y] for G(x) = sum_{j<n} x^j at x = a^2, y = b^2, where G(x) and G(y) nearly agree; gap = (x - y) exactly.
EXPUNGE_HD EXPUNGE_OUTLINE static double geometric_difference(const StepFactor& a, const StepFactor& b, double n,
                                                              double gap) {
  const double u = a.complement, v = b.complement;
  const double larger = u > v ? u : v;
  if (n * larger < 0.05) {  // binomial series in 1 - x
    double term = 0.5 * n * (n - 1.0), symmetric = 1.0, power_u = 1.0, sum = 0.0;
    for (int j = 1; j < 12; ++j) {
      sum += term * symmetric;
      power_u *= u;
      symmetric = symmetric * v + power_u;  // complete homogeneous polynomial of degree j in u, v
      term *= -(n - 1.0 - j) / (j + 2.0);
    }
    return sum;
  }
  const bool swap = b.log_a < a.log_a;  // the larger of x, y carries the power
  const StepFactor& big = swap ? a : b;
  const double signed_gap = swap ? -gap : gap;  // (smaller) - (larger)
  const double y = big.a * big.a;
  double quotient;  // (x^n - y^n) / (x - y)
  if (!(y > 0.0)) {
    quotient = n == 1.0 ? 1.0 : 0.0;
  } else if (signed_gap == 0.0) {
    quotient = n * exp((n - 1.0) * 2.0 * big.log_a);
  } else {
    const double ratio = signed_gap / y;
    quotient = exp(2.0 * n * big.log_a) * expm1(n * log1p(ratio > -1.0 ? ratio : -1.0)) / signed_gap;
  }
  return (geometric_sum(big, n) - quotient) / (swap ? v : u);
}

// Divided difference f[h, k] of f(h) = sum_{j<n} (1 - eta h)^{2j}; fh, fk its values there.
EXPUNGE_HD static inline double covariance_difference(double h, double k, const StepFactor& a, const StepFactor& b,
                                                      double fh, double fk, double n, double step_size) {
  const double difference = fh - fk;
  const double larger = fh > fk ? fh : fk;
  if (magnitude(difference) > 0.1 * larger) return difference / (h - k);
  const double slope = -step_size * (a.a + b.a);  // (x - y) / (h - k)
  return slope * geometric_difference(a, b, n, slope * (h - k));
}

}  // namespace
}  // namespace expunge::ridge
