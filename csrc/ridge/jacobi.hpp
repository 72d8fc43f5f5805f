// Small symmetric eigenproblems of the exact quote. Everything here has internal linkage.
#pragma once

#include <math.h>
#include <string.h>

#include "common/isa.hpp"

namespace expunge::ridge {
namespace {

// Records whose Jacobi matrices are built together, one per lane.
constexpr long kLanes = 8;
typedef double Half __attribute__((vector_size(32)));
typedef long long HalfMask __attribute__((vector_size(32)));
struct Lanes {
  Half part[2];
};

// First r rows of the Jacobi matrices of the measures sum_j weights[lane][j]^2 at nodes[j] (Gragg and Harwood 1984,
// RKPW; Gautschi's OPQ routine `lanczos`). The sweep of a node goes down the matrix, so stopping at row r is exact.
// diagonal, squares: (r) Lanes; squares[0] is the total weight, squares[k] the square of the k-th off-diagonal.
static void jacobi_matrices(const double* nodes, const double* const* rows, long p, long r, Lanes* diagonal,
                            Lanes* squares) {
  const Half one = {1.0, 1.0, 1.0, 1.0};
  const Half zero = {0.0, 0.0, 0.0, 0.0};
  for (long k = 0; k < r; ++k)
    for (int c = 0; c < 2; ++c) {
      diagonal[k].part[c] = zero;
      squares[k].part[c] = zero;
    }
  for (long j = 0; j < p; ++j) {
    const Half node = {nodes[j], nodes[j], nodes[j], nodes[j]};
    Half mass[2], gamma[2], sigma[2], t[2];
    for (int c = 0; c < 2; ++c) {
      const double* const* row = rows + 4 * c;
      const Half x = {row[0][j], row[1][j], row[2][j], row[3][j]};
      mass[c] = x * x;
      gamma[c] = one;
      sigma[c] = zero;
      t[c] = zero;
      if (j < r) diagonal[j].part[c] = node;
    }
    const long rows_now = j + 1 < r ? j + 1 : r;
    for (long k = 0; k < rows_now; ++k)
      for (int c = 0; c < 2; ++c) {
        const Half p0 = diagonal[k].part[c];
        const Half p1 = squares[k].part[c];
        const Half rho = p1 + mass[c];
        const Half previous = sigma[c];
        squares[k].part[c] = gamma[c] * rho;
        const HalfMask alive = rho > zero;
        const Half inverse = one / (alive ? rho : one);
        gamma[c] = alive ? p1 * inverse : one;
        sigma[c] = alive ? mass[c] * inverse : zero;
        const Half next = sigma[c] * (p0 - node) - gamma[c] * t[c];
        diagonal[k].part[c] = p0 - (next - t[c]);
        t[c] = next;
        const HalfMask moving = sigma[c] > zero;
        mass[c] = moving ? next * next / (moving ? sigma[c] : one) : previous * p1;
      }
  }
}

// The same for one record, without lanes.
static void jacobi_matrix(const double* nodes, const double* row, long p, long r, double* diagonal, double* squares) {
  for (long k = 0; k < r; ++k) diagonal[k] = squares[k] = 0.0;
  for (long j = 0; j < p; ++j) {
    double mass = row[j] * row[j], gamma = 1.0, sigma = 0.0, t = 0.0;
    if (j < r) diagonal[j] = nodes[j];
    const long rows_now = j + 1 < r ? j + 1 : r;
    for (long k = 0; k < rows_now; ++k) {
      const double p1 = squares[k], rho = p1 + mass, previous = sigma;
      squares[k] = gamma * rho;
      gamma = rho > 0.0 ? p1 / rho : 1.0;
      sigma = rho > 0.0 ? mass / rho : 0.0;
      const double next = sigma * (diagonal[k] - nodes[j]) - gamma * t;
      diagonal[k] -= next - t;
      t = next;
      mass = sigma > 0.0 ? next * next / sigma : previous * p1;
    }
  }
}

static inline double magnitude(double x) { return x < 0.0 ? -x : x; }

// Implicit QL on a symmetric tridiagonal matrix (diagonal d, off-diagonal e with e[n-1] free). The rotations are
// applied to consecutive rows of `columns` (n x width, may be null with width 0), so that on return d holds the
// eigenvalues and columns the matrix of eigenvectors transposed times the input columns. Couplings below `negligible`
// are dropped, which moves no eigenvalue by more. False if it did not converge.
static bool tridiagonal_ql(double* EXPUNGE_RESTRICT d, double* EXPUNGE_RESTRICT e, long n,
                           double* EXPUNGE_RESTRICT columns, long width, double negligible) {
  const double epsilon = 2.220446049250313e-16;
  e[n - 1] = 0.0;
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
        r = sqrt(f * f + g * g);
        e[i + 1] = r;
        if (!(r > 0.0)) {
          if (r != r) return false;
          d[i + 1] -= p;
          e[m] = 0.0;
          break;
        }
        const double inverse = 1.0 / r;
        s = f * inverse;
        c = g * inverse;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        double* EXPUNGE_RESTRICT low = columns + i * width;
        double* EXPUNGE_RESTRICT high = low + width;
        for (long q = 0; q < width; ++q) {
          const double x = high[q];
          const double y = low[q];
          high[q] = s * y + c * x;
          low[q] = c * y - s * x;
        }
      }
      if (i >= l) continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0.0;
    }
  }
  return true;
}

// Implicit QL as above with one column, one rotation at a time, so that several can take turns: each rotation waits on a
// square root and a division, which others can hide.
struct TridiagonalQl {
  double* d;
  double* e;
  double* first;
  long n;
  double negligible;
  long l, m, i;
  int sweep;
  double g, s, c, p;
  bool done, failed;
};

// Moves to the next unconverged eigenvalue and sets up its sweep.
static void ql_next_sweep(TridiagonalQl* q) {
  const double epsilon = 2.220446049250313e-16;
  double *d = q->d, *e = q->e;
  for (;;) {
    const long l = q->l;
    if (l >= q->n) {
      q->done = true;
      return;
    }
    long m = l;
    for (; m < q->n - 1; ++m)
      if (magnitude(e[m]) <= epsilon * (magnitude(d[m]) + magnitude(d[m + 1])) + q->negligible) break;
    if (m > l) {
      q->m = m;
      break;
    }
    ++q->l;
    q->sweep = 0;
  }
  if (q->sweep++ == 60) {
    q->done = q->failed = true;
    return;
  }
  const long l = q->l, m = q->m;
  const double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
  const double r = sqrt(g * g + 1.0);
  q->g = d[m] - d[l] + e[l] / (g + (g >= 0.0 ? r : -r));
  q->s = q->c = 1.0;
  q->p = 0.0;
  q->i = m - 1;
}

static inline void ql_rotate(TridiagonalQl* q) {
  const long i = q->i;
  double *d = q->d, *e = q->e, *z = q->first;
  const double f = q->s * e[i];
  const double b = q->c * e[i];
  double r = sqrt(f * f + q->g * q->g);
  e[i + 1] = r;
  if (!(r > 0.0)) {
    q->failed = r != r;
    q->done = q->failed;
    d[i + 1] -= q->p;
    e[q->m] = 0.0;
    if (!q->done) ql_next_sweep(q);
    return;
  }
  const double inverse = 1.0 / r;
  const double s = f * inverse, c = q->g * inverse;
  const double g = d[i + 1] - q->p;
  r = (d[i] - g) * s + 2.0 * c * b;
  const double p = s * r;
  d[i + 1] = g + p;
  const double x = z[i + 1], y = z[i];
  z[i + 1] = s * y + c * x;
  z[i] = c * y - s * x;
  q->s = s;
  q->c = c;
  q->p = p;
  q->g = c * r - b;
  q->i = i - 1;
  if (i > q->l) return;
  d[i] -= p;
  e[i] = q->g;
  e[q->m] = 0.0;
  ql_next_sweep(q);
}

// Rows k.. of an n x n matrix hold nothing above `limit`.
static bool negligible_from(const double* a, long n, long k, double limit) {
  for (long i = k; i < n; ++i)
    for (long j = k; j < n; ++j)
      if (magnitude(a[i * n + j]) > limit) return false;
  return true;
}

// Eigenvalues (into d) of the symmetric n x n matrix a (destroyed), and columns <- W^T columns for a = W diag(d) W^T, to
// an absolute error of a few 1e-14 of the largest entry. Householder tridiagonalisation, then QL; both act on the few
// columns, so the eigenvectors are never formed. The matrices here have small numerical rank and their largest entries
// first, so the reduction ends early. work: 3 n + 16 doubles.
static bool symmetric_eigen(double* EXPUNGE_RESTRICT a, long n, double* d, double* columns, long width, double* work) {
  double* e = work;
  double* EXPUNGE_RESTRICT v = work + n;
  double* EXPUNGE_RESTRICT w = work + 2 * n;
  double largest = 0.0;
  for (long i = 0; i < n * n; ++i) largest = magnitude(a[i]) > largest ? magnitude(a[i]) : largest;
  const double negligible = 1e-16 * largest;
  for (long k = 0; k < n; ++k) e[k] = 0.0;
  for (long k = 0; k + 2 < n; ++k) {
    double* row = a + k * n;
    double tail = 0.0;
    for (long j = k + 2; j < n; ++j) tail += row[j] * row[j];
    const double first = row[k + 1];
    d[k] = row[k];
    if (!(tail > negligible * negligible)) {
      if (tail != tail) return false;
      e[k] = first;
      continue;
    }
    const double norm = sqrt(first * first + tail);
    if (norm < 100.0 * negligible && negligible_from(a, n, k + 1, 100.0 * negligible)) {
      for (long j = k + 1; j < n; ++j) a[j * n + j] = 0.0;
      if (n > 1) a[(n - 2) * n + n - 1] = 0.0;
      for (long j = k + 1; j < n; ++j) d[j] = 0.0;
      break;
    }
    const double image = first > 0.0 ? -norm : norm;
    e[k] = image;
    const double scale = 2.0 / ((first - image) * (first - image) + tail);
    for (long j = k + 1; j < n; ++j) v[j] = row[j];
    v[k + 1] = first - image;
    for (long j = k + 1; j < n; ++j) w[j] = 0.0;
    for (long i = k + 1; i < n; ++i) {
      const double factor = v[i];
      const double* EXPUNGE_RESTRICT source = a + i * n;
      for (long j = k + 1; j < n; ++j) w[j] += factor * source[j];
    }
    double inner = 0.0;
    for (long j = k + 1; j < n; ++j) inner += w[j] * v[j];
    const double shift = 0.5 * scale * inner;
    for (long j = k + 1; j < n; ++j) w[j] = scale * (w[j] - shift * v[j]);
    for (long i = k + 1; i < n; ++i) {
      const double vi = v[i], wi = w[i];
      double* EXPUNGE_RESTRICT target = a + i * n;
      for (long j = k + 1; j < n; ++j) target[j] -= vi * w[j] + wi * v[j];
    }
    // columns <- (I - scale v v^T) columns, a few at a time so that rows are read whole
    for (long c = 0; c < width; c += 16) {
      const long count = width - c < 16 ? width - c : 16;
      double sums[16] = {0.0};
      for (long i = k + 1; i < n; ++i)
        for (long q = 0; q < count; ++q) sums[q] += v[i] * columns[i * width + c + q];
      for (long q = 0; q < count; ++q) sums[q] *= scale;
      for (long i = k + 1; i < n; ++i)
        for (long q = 0; q < count; ++q) columns[i * width + c + q] -= sums[q] * v[i];
    }
  }
  if (n > 1) {
    d[n - 2] = a[(n - 2) * n + n - 2];
    e[n - 2] = a[(n - 2) * n + n - 1];
  }
  d[n - 1] = a[(n - 1) * n + n - 1];
  // QL wants the small end first
  for (long i = 0, j = n - 1; i < j; ++i, --j) {
    const double swap = d[i];
    d[i] = d[j];
    d[j] = swap;
    for (long q = 0; q < width; ++q) {
      const double other = columns[i * width + q];
      columns[i * width + q] = columns[j * width + q];
      columns[j * width + q] = other;
    }
  }
  for (long i = 0, j = n - 2; i < j; ++i, --j) {
    const double swap = e[i];
    e[i] = e[j];
    e[j] = swap;
  }
  return tridiagonal_ql(d, e, n, columns, width, negligible);
}

}  // namespace
}  // namespace expunge::ridge
