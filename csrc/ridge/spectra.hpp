// Eigenvalues and first eigenvector components of records' Jacobi matrices, a lane a matrix: implicit QL one rotation
// at a time, so that a lane can let several take turns and the lanes of a warp stay together.
#pragma once

#include <math.h>

#include "ridge/jacobi.hpp"

namespace expunge::ridge {
namespace {

// Implicit QL as in jacobi.hpp with one column. Each rotation waits on a square root and a division, which others can
// hide.
struct TridiagonalQl {
  double* d;
  double* e;
  double* first;
  long n;
  double negligible;
  long l, m, i;
  long split;    // no coupling between l and it is negligible, its own is; below l: not known
  double above;  // d[i + 2]
  int sweep;
  double g, s, c, p;
  bool done, failed;
};

EXPUNGE_HD static inline bool ql_negligible(const TridiagonalQl& q, double coupling, double lower, double upper) {
  return magnitude(coupling) <= 2.220446049250313e-16 * (magnitude(lower) + magnitude(upper)) + q.negligible;
}

// Moves to the next unconverged eigenvalue and sets up its sweep. A sweep notes on its way where the matrix falls
// apart, so that only its lower end is looked at here.
EXPUNGE_HD static inline void ql_next_sweep(TridiagonalQl* q) {
  double *d = q->d, *e = q->e;
  for (;; ++q->l, q->sweep = 0) {
    const long l = q->l;
    if (l >= q->n) {
      q->done = true;
      return;
    }
    if (l > q->split) {
      long m = l;
      while (m < q->n - 1 && !ql_negligible(*q, e[m], d[m], d[m + 1])) ++m;
      q->split = m;
    } else if (l < q->split && ql_negligible(*q, e[l], d[l], d[l + 1])) {
      continue;
    }
    if (q->split > l) break;
  }
  if (q->sweep++ == 60) {
    q->done = q->failed = true;
    return;
  }
  const long l = q->l, m = q->split;
  const double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
  const double r = sqrt(g * g + 1.0);
  q->g = d[m] - d[l] + e[l] / (g + (g >= 0.0 ? r : -r));
  q->s = q->c = 1.0;
  q->p = 0.0;
  q->m = m;
  q->i = m - 1;
}

// One rotation; true if it was the last of its sweep.
EXPUNGE_HD static inline bool ql_rotate(TridiagonalQl* q) {
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
    q->split = -1;
    return true;
  }
  const double inverse = 1.0 / r;
  const double s = f * inverse, c = q->g * inverse;
  const double g = d[i + 1] - q->p;
  const double coupling = r;
  r = (d[i] - g) * s + 2.0 * c * b;
  const double p = s * r;
  const double settled = g + p;
  d[i + 1] = settled;
  const double x = z[i + 1], y = z[i];
  z[i + 1] = s * y + c * x;
  z[i] = c * y - s * x;
  if (i + 1 < q->m && ql_negligible(*q, coupling, settled, q->above)) q->split = i + 1;
  q->above = settled;
  q->s = s;
  q->c = c;
  q->p = p;
  q->g = c * r - b;
  q->i = i - 1;
  if (i > q->l) return false;
  d[i] -= p;
  e[i] = q->g;
  e[q->m] = 0.0;
  return true;
}

// Insertion sort by falling key, carrying a companion: QL leaves eigenvalues nearly sorted.
EXPUNGE_HD static void sort_falling(double* key, double* companion, long n) {
  for (long i = 1; i < n; ++i) {
    const double k = key[i], c = companion[i];
    long j = i;
    for (; j > 0 && key[j - 1] < k; --j) {
      key[j] = key[j - 1];
      companion[j] = companion[j - 1];
    }
    key[j] = k;
    companion[j] = c;
  }
}

// Eigenvalues (falling) and first eigenvector components of a record's Jacobi matrix J and of J - |x|^2 e_1 e_1^T.
struct Spectrum {
  double* values[2];
  double* first[2];
  double* off[2];
};

EXPUNGE_HD static inline long spectrum_size(long r) { return 6 * r; }

EXPUNGE_HD static inline Spectrum place_spectrum(double* memory, long r) {
  return {{memory, memory + r}, {memory + 2 * r, memory + 3 * r}, {memory + 4 * r, memory + 5 * r}};
}

// Side `which % 2` of the spectrum of the leading ranks[which / 2] rows of one Jacobi matrix, for begin <= which < end,
// at most `Runs` side by side. This lane does it alone. False if one did not converge.
template <int Runs>
EXPUNGE_HD static bool jacobi_spectra(const double* diagonal, const double* squares, const long* ranks, int begin,
                                      int end, const Spectrum* out) {
  TridiagonalQl run[Runs];
  for (int slot = 0; slot < Runs; ++slot) {
    run[slot].done = true;
    run[slot].failed = false;
    run[slot].n = 0;
    const int which = begin + slot;
    if (which >= end) continue;
    const long r = ranks[which / 2];
    const long side = which % 2;
    double* values = out[which / 2].values[side];
    double* off = out[which / 2].off[side];
    double* first = out[which / 2].first[side];
    double largest = 0.0;
    for (long k = 0; k < r; ++k) {
      values[k] = diagonal[k];
      off[k] = k + 1 < r ? sqrt(squares[k + 1]) : 0.0;
      first[k] = 0.0;
      largest = values[k] > largest ? values[k] : largest;
    }
    if (side == 1) values[0] -= squares[0];
    first[0] = 1.0;
    run[slot] = {values, off, first, r, 5e-17 * largest, 0, 0, 0, -1, 0.0, 0, 0.0, 0.0, 0.0, 0.0, false, false};
    ql_next_sweep(&run[slot]);
  }
  for (bool left = true; left;) {
    left = false;
    for (int slot = 0; slot < Runs; ++slot)
      if (!run[slot].done) {
        if (ql_rotate(&run[slot]) && !run[slot].done) ql_next_sweep(&run[slot]);
        left = true;
      }
  }
  bool failed = false;
  for (int slot = 0; slot < Runs; ++slot) failed = failed || run[slot].failed;
  if (failed) return false;
  for (int slot = 0; slot < Runs; ++slot) sort_falling(run[slot].d, run[slot].first, run[slot].n);
  return true;
}

}  // namespace
}  // namespace expunge::ridge
