// Jacobi matrices of several records at once, one per vector lane. For the CPU; everything here has internal linkage.
#pragma once

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
  const Half faint = {1e-290, 1e-290, 1e-290, 1e-290};
  const Half raised = {0x1p600, 0x1p600, 0x1p600, 0x1p600};
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
        // Weights of nodes that the record hardly sees sink below the normal numbers, where 1/rho would be infinite.
        const Half lift = rho < faint ? raised : one;
        const Half inverse = one / (alive ? rho * lift : one);
        gamma[c] = alive ? p1 * lift * inverse : one;
        sigma[c] = alive ? mass[c] * lift * inverse : zero;
        const Half next = sigma[c] * (p0 - node) - gamma[c] * t[c];
        diagonal[k].part[c] = p0 - (next - t[c]);
        t[c] = next;
        const HalfMask moving = sigma[c] > zero;
        mass[c] = moving ? next * next / (moving ? sigma[c] : one) : previous * p1;
      }
  }
}

}  // namespace
}  // namespace expunge::ridge
