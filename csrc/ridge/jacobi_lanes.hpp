// Jacobi matrices of several records at once, one per vector lane. For the CPU; everything here has internal linkage.
#pragma once

#include "common/lanes.hpp"

namespace expunge::ridge {
namespace {

// Records whose Jacobi matrices are built together, one per lane.
constexpr long kBatch = 8;
constexpr int kVectors = kBatch / kLanes;
struct Batch {
  F64 part[kVectors];
};

EXPUNGE_INLINE double entry_of(const Batch& batch, long record) {
  return lane_of(batch.part[record / kLanes], static_cast<int>(record % kLanes));
}

// First r rows of the Jacobi matrices of the measures sum_j weights[record][j]^2 at nodes[j] (Gragg and Harwood 1984,
// RKPW; Gautschi's OPQ routine `lanczos`). The sweep of a node goes down the matrix, so stopping at row r is exact.
// diagonal, squares: (r) batches; squares[0] is the total weight, squares[k] the square of the k-th off-diagonal.
static void jacobi_matrices(const double* nodes, const double* const* rows, long p, long r, Batch* diagonal,
                            Batch* squares) {
  const F64 one = splat(1.0), zero = splat(0.0), faint = splat(1e-290), raised = splat(0x1p600);
  for (long k = 0; k < r; ++k)
    for (int c = 0; c < kVectors; ++c) {
      diagonal[k].part[c] = zero;
      squares[k].part[c] = zero;
    }
  for (long j = 0; j < p; ++j) {
    const F64 node = splat(nodes[j]);
    F64 mass[kVectors], gamma[kVectors], sigma[kVectors], t[kVectors];
    for (int c = 0; c < kVectors; ++c) {
      F64 x = zero;
      for (int lane = 0; lane < kLanes; ++lane) set_lane(&x, lane, rows[kLanes * c + lane][j]);
      mass[c] = x * x;
      gamma[c] = one;
      sigma[c] = zero;
      t[c] = zero;
      if (j < r) diagonal[j].part[c] = node;
    }
    const long rows_now = j + 1 < r ? j + 1 : r;
    for (long k = 0; k < rows_now; ++k)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        const F64 p0 = diagonal[k].part[c];
        const F64 p1 = squares[k].part[c];
        const F64 rho = p1 + mass[c];
        const F64 previous = sigma[c];
        squares[k].part[c] = gamma[c] * rho;
        const I64 alive = rho > zero;
        // Weights of nodes that the record hardly sees sink below the normal numbers, where 1/rho would be infinite.
        const F64 lift = select(rho < faint, raised, one);
        const F64 inverse = one / select(alive, rho * lift, one);
        gamma[c] = select(alive, p1 * lift * inverse, one);
        sigma[c] = select(alive, mass[c] * lift * inverse, zero);
        const F64 next = sigma[c] * (p0 - node) - gamma[c] * t[c];
        diagonal[k].part[c] = p0 - (next - t[c]);
        t[c] = next;
        const I64 moving = sigma[c] > zero;
        mass[c] = select(moving, next * next / select(moving, sigma[c], one), previous * p1);
      }
  }
}

}  // namespace
}  // namespace expunge::ridge
