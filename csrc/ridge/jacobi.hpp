// Small symmetric eigenproblems of the exact quote. Everything here has internal linkage.
#pragma once

#include <math.h>

#include "common/team.hpp"

namespace expunge::ridge {
namespace {

// A node on its way down a Jacobi matrix (Gragg and Harwood 1984, RKPW; Gautschi's OPQ routine `lanczos`).
struct Sweep {
  double mass, gamma, sigma, t;
};

EXPUNGE_HD static inline void sweep_row(double node, Sweep* sweep, double* diagonal, double* square) {
  const double p1 = *square, rho = p1 + sweep->mass, previous = sweep->sigma;
  *square = sweep->gamma * rho;
  sweep->gamma = rho > 0.0 ? p1 / rho : 1.0;
  sweep->sigma = rho > 0.0 ? sweep->mass / rho : 0.0;
  const double next = sweep->sigma * (*diagonal - node) - sweep->gamma * sweep->t;
  *diagonal -= next - sweep->t;
  sweep->t = next;
  sweep->mass = sweep->sigma > 0.0 ? next * next / sweep->sigma : previous * p1;
}

// First r rows of the Jacobi matrix of the measure sum_j row[j]^2 at nodes[j]. The sweep of a node goes down the
// matrix, so stopping at row r is exact, and the next node can follow one row behind: lanes own rows and hand it on.
// squares[0] is the total weight, squares[k] the square of the k-th off-diagonal.
EXPUNGE_HD EXPUNGE_OUTLINE static void jacobi_matrix(const double* nodes, const double* row, long p, long r,
                                                     double* diagonal, double* squares) {
  const long rows_each = (r + team::size - 1) / team::size;
  const long begin = team::lane() * rows_each, end = begin + rows_each < r ? begin + rows_each : r;
  for (long k = begin; k < end; ++k) diagonal[k] = squares[k] = 0.0;
  Sweep sweep = {0.0, 1.0, 0.0, 0.0};
  for (long turn = 0; turn < p + team::size - 1; ++turn) {
    const long j = turn - team::lane();
    if (team::leads() && j < p) sweep = {row[j] * row[j], 1.0, 0.0, 0.0};
    if (j >= begin && j < p) {
      if (j < end) diagonal[j] = nodes[j];
      const long stop = j + 1 < end ? j + 1 : end;
      for (long k = begin; k < stop; ++k) sweep_row(nodes[j], &sweep, diagonal + k, squares + k);
    }
    sweep = {team::from_previous(sweep.mass), team::from_previous(sweep.gamma), team::from_previous(sweep.sigma),
             team::from_previous(sweep.t)};
  }
  team::sync();
}

EXPUNGE_HD static inline double magnitude(double x) { return x < 0.0 ? -x : x; }

// Implicit QL on a symmetric tridiagonal matrix (diagonal d, off-diagonal e with e[n-1] free). The rotations are
// applied to consecutive rows of `columns` (n x width, may be null with width 0), so that on return d holds the
// eigenvalues and columns the matrix of eigenvectors transposed times the input columns. Couplings below `negligible`
// are dropped, which moves no eigenvalue by more. False if it did not converge. Lanes own columns.
EXPUNGE_HD EXPUNGE_OUTLINE static bool tridiagonal_ql(double* EXPUNGE_RESTRICT d, double* EXPUNGE_RESTRICT e, long n,
                                                      double* EXPUNGE_RESTRICT columns, long width, double negligible) {
  const double epsilon = 2.220446049250313e-16;
  if (team::leads()) e[n - 1] = 0.0;
  team::sync();
  for (long l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      long m = l;
      for (; m < n - 1; ++m)
        if (magnitude(e[m]) <= epsilon * (magnitude(d[m]) + magnitude(d[m + 1])) + negligible) break;
      if (m == l) break;
      if (sweep == 60) return false;
      double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
      double r = sqrt(g * g + 1.0);
      g = d[m] - d[l] + e[l] / (g + (g >= 0.0 ? r : -r));
      double s = 1.0, c = 1.0, p = 0.0;
      long i = m - 1;
      for (; i >= l; --i) {
        const double f = s * e[i];
        const double b = c * e[i];
        const double upper = d[i + 1], lower = d[i];
        r = sqrt(f * f + g * g);
        team::sync();  // all have read what is written now
        if (team::leads()) e[i + 1] = r;
        if (!(r > 0.0)) {
          if (r != r) return false;
          if (team::leads()) {
            d[i + 1] = upper - p;
            e[m] = 0.0;
          }
          break;
        }
        const double inverse = 1.0 / r;
        s = f * inverse;
        c = g * inverse;
        g = upper - p;
        r = (lower - g) * s + 2.0 * c * b;
        p = s * r;
        if (team::leads()) d[i + 1] = g + p;
        g = c * r - b;
        double* EXPUNGE_RESTRICT low = columns + i * width;
        double* EXPUNGE_RESTRICT high = low + width;
        for (long q = team::lane(); q < width; q += team::size) {
          const double x = high[q];
          const double y = low[q];
          high[q] = s * y + c * x;
          low[q] = c * y - s * x;
        }
      }
      if (i < l && team::leads()) {
        d[l] -= p;
        e[l] = g;
        e[m] = 0.0;
      }
      team::sync();
    }
  }
  return true;
}

// Rows k.. of an n x n matrix hold nothing above `limit`.
EXPUNGE_HD static bool negligible_from(const double* a, long n, long k, double limit) {
  bool found = false;
  for (long i = k + team::lane(); i < n && !found; i += team::size)
    for (long j = k; j < n && !found; ++j) found = magnitude(a[i * n + j]) > limit;
  return !team::any(found);
}

// Columns a lane works on together: a few where it is alone, so that rows are read whole.
constexpr long kColumns = team::size > 1 ? 1 : 16;

// Eigenvalues (into d) of the symmetric n x n matrix a (destroyed), and columns <- W^T columns for a = W diag(d) W^T,
// to an absolute error of a few 1e-14 of the largest entry. Householder tridiagonalisation, then QL; both act on the
// few columns, so the eigenvectors are never formed. The matrices here have small numerical rank and their largest
// entries first, so the reduction ends early. work: 3 n + 16 doubles. Lanes own columns of the matrix.
EXPUNGE_HD EXPUNGE_OUTLINE static bool symmetric_eigen(double* EXPUNGE_RESTRICT a, long n, double* d, double* columns,
                                                       long width, double* work) {
  double* e = work;
  double* EXPUNGE_RESTRICT v = work + n;
  double* EXPUNGE_RESTRICT w = work + 2 * n;
  team::sync();
  double largest = 0.0;
  for (long i = team::lane(); i < n * n; i += team::size)
    largest = magnitude(a[i]) > largest ? magnitude(a[i]) : largest;
  largest = team::largest(largest);
  const double negligible = 1e-16 * largest;
  for (long k = team::lane(); k < n; k += team::size) e[k] = 0.0;
  team::sync();
  for (long k = 0; k + 2 < n; ++k) {
    double* row = a + k * n;
    double tail = 0.0;
    for (long j = k + 2 + team::lane(); j < n; j += team::size) tail += row[j] * row[j];
    tail = team::sum(tail);
    const double first = row[k + 1];
    if (team::leads()) d[k] = row[k];
    if (!(tail > negligible * negligible)) {
      if (tail != tail) return false;
      if (team::leads()) e[k] = first;
      continue;
    }
    const double norm = sqrt(first * first + tail);
    if (norm < 100.0 * negligible && negligible_from(a, n, k + 1, 100.0 * negligible)) {
      for (long j = k + 1 + team::lane(); j < n; j += team::size) {
        a[j * n + j] = 0.0;
        d[j] = 0.0;
      }
      if (n > 1 && team::leads()) a[(n - 2) * n + n - 1] = 0.0;
      break;
    }
    const double image = first > 0.0 ? -norm : norm;
    if (team::leads()) e[k] = image;
    const double scale = 2.0 / ((first - image) * (first - image) + tail);
    if (team::leads()) v[k + 1] = first - image;
    for (long j = k + 2 + team::lane(); j < n; j += team::size) v[j] = row[j];
    team::sync();
    for (long j = k + 1 + team::lane(); j < n; j += team::size) w[j] = 0.0;
    for (long i = k + 1; i < n; ++i) {
      const double factor = v[i];
      const double* EXPUNGE_RESTRICT source = a + i * n;
      for (long j = k + 1 + team::lane(); j < n; j += team::size) w[j] += factor * source[j];
    }
    double inner = 0.0;
    for (long j = k + 1 + team::lane(); j < n; j += team::size) inner += w[j] * v[j];
    inner = team::sum(inner);
    const double shift = 0.5 * scale * inner;
    for (long j = k + 1 + team::lane(); j < n; j += team::size) w[j] = scale * (w[j] - shift * v[j]);
    team::sync();
    for (long i = k + 1; i < n; ++i) {
      const double vi = v[i], wi = w[i];
      double* EXPUNGE_RESTRICT target = a + i * n;
      for (long j = k + 1 + team::lane(); j < n; j += team::size) target[j] -= vi * w[j] + wi * v[j];
    }
    // columns <- (I - scale v v^T) columns
    for (long c = kColumns * team::lane(); c < width; c += kColumns * team::size) {
      const long count = width - c < kColumns ? width - c : kColumns;
      double sums[kColumns] = {0.0};
      for (long i = k + 1; i < n; ++i)
        for (long q = 0; q < count; ++q) sums[q] += v[i] * columns[i * width + c + q];
      for (long q = 0; q < count; ++q) sums[q] *= scale;
      for (long i = k + 1; i < n; ++i)
        for (long q = 0; q < count; ++q) columns[i * width + c + q] -= sums[q] * v[i];
    }
    team::sync();
  }
  team::sync();
  if (team::leads()) {
    if (n > 1) {
      d[n - 2] = a[(n - 2) * n + n - 2];
      e[n - 2] = a[(n - 2) * n + n - 1];
    }
    d[n - 1] = a[(n - 1) * n + n - 1];
  }
  team::sync();
  // QL wants the small end first
  for (long i = team::lane(); i < n - 1 - i; i += team::size) {
    const long j = n - 1 - i;
    const double swap = d[i];
    d[i] = d[j];
    d[j] = swap;
    for (long q = 0; q < width; ++q) {
      const double other = columns[i * width + q];
      columns[i * width + q] = columns[j * width + q];
      columns[j * width + q] = other;
    }
  }
  for (long i = team::lane(); i < n - 2 - i; i += team::size) {
    const long j = n - 2 - i;
    const double swap = e[i];
    e[i] = e[j];
    e[j] = swap;
  }
  team::sync();
  return tridiagonal_ql(d, e, n, columns, width, negligible);
}

}  // namespace
}  // namespace expunge::ridge
