// Deletion of one record as a pair of Gaussians in the r dimensions of its Krylov space (theory: all n records at
// once).
#pragma once

#include "ridge/spectra.hpp"
#include "ridge/spectral.hpp"

namespace expunge::ridge {
namespace {

// What all records share: theta <- (1 - eta h) theta + noise, n_steps times from zero.
struct Learning {
  double step_size;
  double n_steps;
  double variance;  // of one step's noise
};

// The two laws at the end of learning, in the eigenbasis of H' restricted to the Krylov space. Memory is borrowed.
struct Reduced {
  long rank;
  long width;            // output columns
  StepFactor* maps;      // (rank) step factors of H'
  double* covariances;   // (rank) of the law without the record
  double* difference;    // (rank, rank) covariance with the record minus covariance without
  double* shift;         // (rank, width) mean with minus mean without
};

// Doubles needed by one Reduced of rank r, and by the scratch of `reduce` and `gaussian_pair` at that rank.
EXPUNGE_HD static inline long reduced_size(long r, long width) { return 3 * r + r + r * r + r * width; }
EXPUNGE_HD static inline long reduce_scratch_size(long r) { return 2 * r * r + 4 * r; }

EXPUNGE_HD static inline Reduced place_reduced(double* memory, long r, long width) {
  Reduced out;
  out.rank = r;
  out.width = width;
  out.maps = reinterpret_cast<StepFactor*>(memory);
  out.covariances = memory + 3 * r;
  out.difference = memory + 4 * r;
  out.shift = memory + 4 * r + r * r;
  return out;
}

// shift[j] = sum_k a_j^{steps-1-k} residual_k for some columns; four directions at once hide the latency of the
// recursion.
template <int Columns>
EXPUNGE_HD EXPUNGE_OUTLINE static void push_residuals(const Reduced& out, const double* residuals, long steps,
                                                      long begin, long end) {
  const long groups = (end - begin) / Columns;
  const long tasks = groups * ((out.rank + 3) / 4);
  for (long task = team::lane(); task < tasks; task += team::size) {
    const long column = begin + task % groups * Columns;
    const long j = task / groups * 4;
    double sums[4][Columns] = {};
    double factors[4];
    for (long b = 0; b < 4; ++b) factors[b] = out.maps[j + b < out.rank ? j + b : j].a;
    for (long k = 0; k < steps; ++k) {
      const double* EXPUNGE_RESTRICT residual = residuals + k * out.width + column;
      for (int b = 0; b < 4; ++b)
        for (int c = 0; c < Columns; ++c) sums[b][c] = factors[b] * sums[b][c] + residual[c];
    }
    for (long b = 0; b < 4; ++b)
      for (int c = 0; c < Columns; ++c)
        if (j + b < out.rank) out.shift[(j + b) * out.width + column + c] = sums[b][c];
  }
}

// Fills `out` from a record's spectrum of rank `out->rank`, its |x|^2 and its mean residuals (n_steps, width).
// With H = sum theta_i u_i u_i^T and H' = H - x x^T = sum h'_j u'_j u'_j^T, both overlaps follow from first components:
// u_i . u'_j = |x|^2 u_1i u'_1j / (theta_i - h'_j) and u_i^T (f(H) - f(H')) u'_j = |x|^2 u_1i u'_1j f[theta_i, h'_j].
EXPUNGE_HD EXPUNGE_OUTLINE static void reduce(const Learning& learning, const Spectrum& spectrum, double mass,
                                              const double* residuals, Reduced* out, double* scratch) {
  const long r = out->rank, width = out->width;
  const double norm = sqrt(mass);
  const double* theta = spectrum.values[0];
  const double* without = spectrum.values[1];
  const double* first = spectrum.first[0];
  const double* first_without = spectrum.first[1];
  double* value_with = scratch;
  StepFactor* map_with = reinterpret_cast<StepFactor*>(value_with + r);
  double* overlap = value_with + 4 * r;
  double* mixed = overlap + r * r;
  for (long i = team::lane(); i < r; i += team::size) {
    map_with[i] = step_factor(theta[i], learning.step_size);
    out->maps[i] = step_factor(without[i], learning.step_size);
    value_with[i] = geometric_sum(map_with[i], learning.n_steps);
    out->covariances[i] = geometric_sum(out->maps[i], learning.n_steps);
  }
  team::sync();
  for (long i = team::lane(); i < r; i += team::size) {
    double* EXPUNGE_RESTRICT c = overlap + i * r;
    double* EXPUNGE_RESTRICT m = mixed + i * r;
    const double scale = mass * first[i];
    long nearest = 0;
    double distance = HUGE_VAL, others = 0.0;
    for (long j = 0; j < r; ++j) {
      const double gap = theta[i] - without[j];
      const double product = scale * first_without[j];
      m[j] = product * learning.variance *
             covariance_difference(theta[i], without[j], map_with[i], out->maps[j], value_with[i], out->covariances[j],
                                   learning.n_steps, learning.step_size);
      c[j] = gap != 0.0 ? product / gap : 0.0;
      if (magnitude(gap) < distance) {
        distance = magnitude(gap);
        nearest = j;
      }
    }
    // Rows of the overlap have norm one: the entry of the closest pair, a quotient of small numbers, comes from that.
    for (long j = 0; j < r; ++j)
      if (j != nearest) others += c[j] * c[j];
    if (others < 0.5) {
      // theta_i >= h'_i >= theta_{i+1}: the sign of the gap is known where rounding hides it
      const bool positive = (scale * first_without[nearest] >= 0.0) == (nearest >= i);
      const double entry = sqrt(1.0 - others);
      c[nearest] = positive ? entry : -entry;
    }
  }
  // difference = overlap^T mixed, symmetrised
  double* EXPUNGE_RESTRICT difference = out->difference;
  for (long j = 0; j < r; ++j)
    for (long k = team::lane(); k < r; k += team::size) difference[j * r + k] = 0.0;
  team::sync();
  for (long i = 0; i < r; ++i) {
    const double* EXPUNGE_RESTRICT m = mixed + i * r;
    for (long j = 0; j < r; ++j) {
      const double c = overlap[i * r + j];
      double* EXPUNGE_RESTRICT target = difference + j * r;
      for (long k = team::lane(); k < r; k += team::size) target[k] += c * m[k];
    }
  }
  team::sync();
  for (long j = team::lane(); j < r; j += team::size)
    for (long k = 0; k < j; ++k) {
      const double mean = 0.5 * (difference[j * r + k] + difference[k * r + j]);
      difference[j * r + k] = mean;
      difference[k * r + j] = mean;
    }
  // D_{k+1} = A' D_k - eta x (x^T M_k - y)^T, Horner in each eigenvalue
  const long steps = static_cast<long>(learning.n_steps);
  double* shift = out->shift;
  // many columns at a time where a lane has them all
  const long by_eight = team::size > 1 ? 0 : width / 8 * 8;
  const long by_two = team::size > 1 ? 0 : width / 2 * 2;
  if constexpr (team::size == 1) {
    push_residuals<8>(*out, residuals, steps, 0, by_eight);
    push_residuals<2>(*out, residuals, steps, by_eight, by_two);
  }
  push_residuals<1>(*out, residuals, steps, by_two, width);
  team::sync();
  for (long j = team::lane(); j < r; j += team::size) {
    const double scale = -learning.step_size * norm * first_without[j];
    for (long c = 0; c < width; ++c) shift[j * width + c] *= scale;
    out->covariances[j] *= learning.variance;
  }
  team::sync();
}

// The pair after n_steps of unlearning with per-step noise of the given variance (the pair at the end of learning where
// either is zero): excess variances e and squared shifts d2, (rank) each. Directions whose effect is below rounding are
// left out of the eigenproblem. Returns how many are filled, -1 if it could not be computed, -2 if the reference law is
// singular where the two differ; *rest is the squared shift of directions whose excess is zero to rounding.
EXPUNGE_HD EXPUNGE_OUTLINE static long gaussian_pair(const Reduced& in, double n_steps, double variance, double* e,
                                                     double* d2, double* rest, double* scratch) {
  const long r = in.rank, width = in.width;
  const bool at_end = !(n_steps > 0.0) || !(variance > 0.0);
  double* s = scratch;
  double* work = s + r;
  double* matrix = work + 3 * r;
  double* columns = matrix + r * r;
  *rest = 0.0;
  bool failed = false, singular = false;
  team::sync();
  for (long i = team::lane(); i < r; i += team::size) {
    double reference = in.covariances[i], factor = 1.0;
    if (!at_end) {
      factor = power(in.maps[i], n_steps);
      reference = factor * factor * reference + variance * geometric_sum(in.maps[i], n_steps);
    }
    s[i] = factor / sqrt(reference);
    if (!(reference > 0.0)) {
      failed = failed || reference != reference;
      double size = 0.0;
      for (long c = 0; c < width; ++c) size += magnitude(in.shift[i * width + c]);
      singular = singular || size > 0.0;
      s[i] = 0.0;
    }
  }
  if (team::any(failed)) return -1;
  if (team::any(singular)) return -2;
  team::sync();
  double largest = 0.0, total = 0.0;
  for (long i = team::lane(); i < r; i += team::size) {
    double peak = 0.0, square = 0.0;
    const double* EXPUNGE_RESTRICT row = in.difference + i * r;
    for (long j = 0; j < r; ++j) {
      const double x = magnitude(row[j] * s[j]);
      peak = x > peak ? x : peak;
    }
    for (long c = 0; c < width; ++c) square += in.shift[i * width + c] * in.shift[i * width + c];
    e[i] = s[i] * peak;
    d2[i] = s[i] * s[i] * square;
    failed = failed || e[i] != e[i] || d2[i] != d2[i];
    largest = e[i] > largest ? e[i] : largest;
    total += d2[i];
  }
  if (team::any(failed)) return -1;
  largest = team::largest(largest);
  total = team::sum(total);
  team::sync();
  double* active = work;  // row numbers, exact in a double
  long n = 0;
  for (long i = r - 1; i >= 0; --i)  // slowly forgotten directions first: they carry the most
    if (e[i] > 1e-14 * largest || d2[i] > 1e-14 * total) {
      if (team::leads()) active[n] = static_cast<double>(i);
      ++n;
    } else {
      *rest += d2[i];
    }
  if (n == 0) return 0;
  team::sync();
  for (long i = 0; i < n; ++i) {
    const long row = static_cast<long>(active[i]);
    for (long j = team::lane(); j < n; j += team::size) {
      const long other = static_cast<long>(active[j]);
      matrix[i * n + j] = s[row] * s[other] * in.difference[row * r + other];
    }
    for (long c = team::lane(); c < width; c += team::size) columns[i * width + c] = s[row] * in.shift[row * width + c];
  }
  if (!symmetric_eigen(matrix, n, e, columns, width, work)) return -1;
  double edge = 0.0;
  for (long i = 0; i < n; ++i) edge = magnitude(e[i]) > edge ? magnitude(e[i]) : edge;
  for (long i = team::lane(); i < n; i += team::size) {
    double square = 0.0;
    for (long c = 0; c < width; ++c) square += columns[i * width + c] * columns[i * width + c];
    d2[i] = square;
  }
  team::sync();
  long kept = 0;
  for (long i = 0; i < n; ++i) {
    const double excess = e[i], square = d2[i];
    if (magnitude(excess) > 1e-13 * edge) {
      team::sync();  // all have read what is written now
      if (team::leads()) {
        e[kept] = excess;
        d2[kept] = square;
      }
      ++kept;
    } else {
      *rest += square;
    }
  }
  team::sync();
  return kept;
}

EXPUNGE_HD static inline long pair_scratch_size(long r, long width) { return 4 * r + r * r + r * width; }

}  // namespace
}  // namespace expunge::ridge
