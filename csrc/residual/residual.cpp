// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "residual/residual.hpp"

#include <string.h>

#include "residual/residual_math.hpp"

namespace expunge::residual::EXPUNGE_ISA_NS {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 8, kSumVectors = 4;
#else
constexpr int kTileRows = 4, kSumVectors = 2;
#endif
constexpr int kTileOutputs = 3;  // the norms count as one: 8 x 3 sums, 3 parameters and a row fit into 32 registers
constexpr int kSumOutputs = 5;   // 4 x 5 sums, 4 features and a residual likewise
constexpr int kGroup = 8;        // rows whose logits are made together
constexpr int kMostRows = 32;    // rows of a tile
static_assert(kGroup % kTileRows == 0 && kTileRows % kLanes == 0 && kMostRows % kGroup == 0, "whole tiles");
static_assert(kBlock % kMostRows == 0, "whole blocks");

// Rows between whose logits and whose gradient nothing else is read: they and those that come next fit into the second
// cache. More than a few save reading the parameters and the gradient again.
long rows_of(long p) {
  const long fitting = (1 << 15) / (p + 1) / kGroup * kGroup, rows = fitting < kMostRows ? fitting : kMostRows;
  return rows < kGroup ? kGroup : rows < kMostRows && rows > 2 * kGroup ? 2 * kGroup : rows;
}

// Rows of parameters lie an odd number of cache lines apart, so that no few sets of the cache must hold them all.
long padded(long p) { return (p + 7) / 8 * 8 + ((p + 7) / 8 % 2 == 0 ? 8 : 0); }

// Rows side by side. Lanes behind the last feature are read from `tails`, padded with zeros.
struct Tile {
  long rows, filled;  // filled: a whole number of groups
  const double* row[kMostRows];
  double tails[kMostRows][kLanes];
  const double* ahead;  // what comes next: as many numbers as the rows here have
  double weights[kMostRows], labels[kMostRows], squares[kMostRows];
};

struct Space {
  double* theta;     // (q, padded)
  double* gradient;  // of the block, likewise
  double* total;     // of the range, likewise
  double* logits;    // (q, kMostRows), then residuals
  double* targets;   // likewise
};

long workspace(long p, long q) { return 3 * q * padded(p) + 2 * q * kMostRows; }

Space space_of(double* workspace, long p, long q) {
  const long size = q * padded(p);
  return {workspace, workspace + size, workspace + 2 * size, workspace + 3 * size,
          workspace + 3 * size + q * kMostRows};
}

// The sums of the lanes of as many vectors as a vector has lanes, in their order.
EXPUNGE_INLINE F64 totals(const F64* vectors) {
  F64 v[kLanes];
  EXPUNGE_UNROLL(8)
  for (int i = 0; i < kLanes; ++i) v[i] = vectors[i];
  EXPUNGE_UNROLL(8)
  for (int half = kLanes / 2; half >= 1; half /= 2) EXPUNGE_UNROLL(8)
  for (int i = 0; i < half; ++i) v[i] = zip_low(v[i], v[i + half]) + zip_high(v[i], v[i + half]);
  return v[0];
}

EXPUNGE_INLINE double total(F64 x) {
  double sum = 0.0;
  for (int lane = 0; lane < kLanes; ++lane) sum += x[lane];
  return sum;
}

// Keeps a vector that several products share in its register: GCC would rather read it again for each.
EXPUNGE_INLINE F64 held(F64 x) {
#if defined(__SSE2__)
  asm("" : "+v"(x));
#endif
  return x;
}

// Asks for lines of 8 numbers: into the second cache, where they do not drive out the rows at work.
EXPUNGE_INLINE void ask_for(const double* ahead, long lines) {
  for (long line = 0; line < lines; ++line) __builtin_prefetch(ahead + 8 * line, 0, 2);
}

EXPUNGE_INLINE void add_to(double* sums, F64 x) { store(sums, load(sums) + x); }

enum class Ahead {
  nothing,
  tile,
  group
};  // what is asked for: half of the rows of the tile, or the group that follows

// Logits of `Outputs` outputs, and the squares of the norms.
template <int Outputs, bool norms, Ahead ahead>
EXPUNGE_INLINE void tile_logits(Tile* tile, int first, long p, const double* theta, long stride, double* logits) {
  constexpr int columns = Outputs + norms;
  F64 sum[columns][kTileRows] = {};
  const auto add = [&](auto x_at, long j) __attribute__((always_inline)) {
    F64 weight[Outputs];
    EXPUNGE_UNROLL(3)
    for (int c = 0; c < Outputs; ++c) weight[c] = load(theta + c * stride + j);
    EXPUNGE_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) {
      const F64 x = held(x_at(r));
      EXPUNGE_UNROLL(3)
      for (int c = 0; c < Outputs; ++c) sum[c][r] += x * weight[c];
      if (norms) sum[Outputs][r] += x * x;
    }
  };
  const double* next = tile->ahead + first * p / 2;
  long j = 0;
  for (; j + kLanes <= p; j += kLanes) {
    if (ahead == Ahead::tile) {
      ask_for(next, kTileRows * kLanes / 16);
      next += kTileRows * kLanes / 2;
    }
    if (ahead == Ahead::group) {
      EXPUNGE_UNROLL(8)
      for (int r = 0; r < kTileRows; ++r) __builtin_prefetch(tile->row[first + r] + kGroup * p + j);
    }
    add([&](int r) __attribute__((always_inline)) { return load(tile->row[first + r] + j); }, j);
  }
  if (j < p) add([&](int r) __attribute__((always_inline)) { return load(tile->tails[first + r]); }, j);
  EXPUNGE_UNROLL(4)
  for (int r = 0; r < kTileRows; r += kLanes) {
    EXPUNGE_UNROLL(3)
    for (int c = 0; c < Outputs; ++c) store(logits + c * kMostRows + first + r, totals(sum[c] + r));
    if (norms) store(tile->squares + first + r, totals(sum[Outputs] + r));
  }
}

template <int Outputs, bool norms, Ahead ahead>
EXPUNGE_INLINE void group_logits(Tile* tile, int group, long p, const double* theta, long stride, double* logits) {
  for (int first = group; first < group + kGroup; first += kTileRows)
    tile_logits<Outputs, norms, ahead>(tile, first, p, theta, stride, logits);
}

void all_logits(Tile* tile, long p, long q, const double* theta, long stride, double* logits) {
  for (int group = 0; group < tile->filled; group += kGroup) {
    group_logits<2, true, Ahead::tile>(tile, group, p, theta, stride, logits);
    for (long c = kTileOutputs - 1; c < q; c += kTileOutputs) {
      const double* of_outputs = theta + c * stride;
      double* const to = logits + c * kMostRows;
      if (q - c == 1)
        group_logits<1, false, Ahead::nothing>(tile, group, p, of_outputs, stride, to);
      else if (q - c == 2)
        group_logits<2, false, Ahead::nothing>(tile, group, p, of_outputs, stride, to);
      else if (c > kTileOutputs)
        group_logits<3, false, Ahead::nothing>(tile, group, p, of_outputs, stride, to);
      else
        group_logits<3, false, Ahead::group>(tile, group, p, of_outputs, stride, to);
    }
  }
}

// Where sums over a tile's rows begin and go: those of a block in `gradient`, from its first tile to its last, which
// adds them to the range's.
struct Sums {
  double *gradient, *total;
  bool first, last;
};

EXPUNGE_INLINE F64 begun(const Sums& sums, long at) { return sums.first ? splat(0.0) : load(sums.gradient + at); }
EXPUNGE_INLINE void put(const Sums& sums, long at, F64 x) {
  if (sums.last)
    add_to(sums.total + at, x);
  else
    store(sums.gradient + at, x);
}

// residuals^T rows for several outputs and vectors of features at once, whose sums stay in registers. Row i is at
// x + i * next.
template <int Vectors, int Outputs>
EXPUNGE_INLINE void add_tile(const double* x, long next, long rows, const double* residuals, const Sums& sums, long at,
                             long stride) {
  F64 sum[Outputs][Vectors];
  EXPUNGE_UNROLL(5)
  for (int c = 0; c < Outputs; ++c) EXPUNGE_UNROLL(4)
  for (int v = 0; v < Vectors; ++v) sum[c][v] = begun(sums, at + c * stride + v * kLanes);
  for (long i = 0; i < rows; ++i, x += next) {
    F64 features[Vectors];
    EXPUNGE_UNROLL(4)
    for (int v = 0; v < Vectors; ++v) features[v] = held(load(x + v * kLanes));
    EXPUNGE_UNROLL(5)
    for (int c = 0; c < Outputs; ++c) {
      const F64 r = held(splat(residuals[c * kMostRows + i]));
      EXPUNGE_UNROLL(4)
      for (int v = 0; v < Vectors; ++v) sum[c][v] += r * features[v];
    }
  }
  EXPUNGE_UNROLL(5)
  for (int c = 0; c < Outputs; ++c) EXPUNGE_UNROLL(4)
  for (int v = 0; v < Vectors; ++v) put(sums, at + c * stride + v * kLanes, sum[c][v]);
}

template <int Vectors>
EXPUNGE_INLINE void add_vectors(const double* x, long next, long rows, long q, const double* residuals,
                                const Sums& sums, long j, long stride) {
  for (long c = 0; c < q; c += kSumOutputs) {
    const double* r = residuals + c * kMostRows;
    const long at = c * stride + j;
    switch (q - c) {
      case 1: add_tile<Vectors, 1>(x, next, rows, r, sums, at, stride); break;
      case 2: add_tile<Vectors, 2>(x, next, rows, r, sums, at, stride); break;
      case 3: add_tile<Vectors, 3>(x, next, rows, r, sums, at, stride); break;
      case 4: add_tile<Vectors, 4>(x, next, rows, r, sums, at, stride); break;
      default: add_tile<Vectors, 5>(x, next, rows, r, sums, at, stride); break;
    }
  }
}

void add_outputs(const Tile& tile, long p, long q, const double* residuals, const Sums& sums, long stride) {
  constexpr long step = kSumVectors * kLanes;
  const long rows = tile.rows;
  const double *x = tile.row[0], *ahead = tile.ahead + tile.filled * p / 2;
  long j = 0;
  for (; j + step <= p; j += step) {
    ask_for(ahead, rows * step / 16);
    ahead += rows * step / 2;
    add_vectors<kSumVectors>(x + j, p, rows, q, residuals, sums, j, stride);
  }
  for (; j + kLanes <= p; j += kLanes) add_vectors<1>(x + j, p, rows, q, residuals, sums, j, stride);
  if (j < p) add_vectors<1>(tile.tails[0], kLanes, rows, q, residuals, sums, j, stride);
}

// Rows [row, row + rows) of the call; lanes behind them repeat the last row with weight 0.
EXPUNGE_INLINE void load_tile(const Pass& call, long row, long rows, Tile* tile, double* targets) {
  const long whole = call.p / kLanes * kLanes;
  tile->rows = rows;
  tile->filled = (rows + kGroup - 1) / kGroup * kGroup;
  for (long i = 0; i < tile->filled; ++i) {
    const bool here = i < rows;
    const long at = row + (here ? i : rows - 1);
    tile->row[i] = call.x + at * call.p;
    for (long j = whole; j < call.p; ++j) tile->tails[i][j - whole] = tile->row[i][j];
    tile->weights[i] = !here ? 0.0 : call.weights == nullptr ? 1.0 : call.weights[at];
    tile->labels[i] = call.labels == nullptr ? 0.0 : static_cast<double>(call.labels[at]);
    if (call.loss == Loss::squared)
      for (long c = 0; c < call.q; ++c) targets[c * kMostRows + i] = call.targets[at * call.q + c];
  }
  tile->ahead = call.x + (row + 2 * tile->filled <= call.n ? row + tile->filled : row) * call.p;
}

constexpr int kStrip = 4;      // rows side by side: 4 x 2 sums of products, 4 residuals and a parameter
constexpr int kStepRows = 16;  // rows whose residuals are made together, at most
constexpr int kLine = 8;       // numbers of a cache line
constexpr long kFarAhead = 6144;  // numbers between what is read and what is asked for
static_assert(kBlock % kStepRows == 0 && kStepRows % kStrip == 0 && kStepRows % kLanes == 0, "whole steps");
static_assert(kLine % kLanes == 0, "whole lines");

// Rows of a step. Lanes behind the last one have weight 0, strips behind the last one are left out.
struct Step {
  const double* x;  // the first row
  long rows;
  double tails[kStepRows][kLanes];  // as in a tile
  double weights[kStepRows], labels[kStepRows], targets[kStepRows], squares[kStepRows];
  double residuals[kStepRows];  // logits at first
};

// So many that a step's rows, those of the two before and those asked for fit into the second cache.
long step_rows(long p) { return p <= 1024 ? kStepRows : p <= 2048 ? kStepRows / 2 : kStrip; }

EXPUNGE_INLINE void load_step(const Pass& call, long row, long rows, Step* step) {
  const long whole = call.p / kLanes * kLanes;
  step->x = call.x + row * call.p;
  step->rows = rows;
  if (whole < call.p)
    for (long i = 0; i < rows; ++i)
      for (long j = whole; j < call.p; ++j) step->tails[i][j - whole] = step->x[i * call.p + j];
  for (long i = 0; i < rows; ++i) step->weights[i] = call.weights == nullptr ? 1.0 : call.weights[row + i];
  if (call.labels != nullptr)
    for (long i = 0; i < rows; ++i) step->labels[i] = static_cast<double>(call.labels[row + i]);
  if (call.loss == Loss::squared) memcpy(step->targets, call.targets + row, static_cast<size_t>(rows) * sizeof(double));
  for (long i = rows; i < kStepRows; ++i) step->weights[i] = step->residuals[i] = step->squares[i] = 0.0;
}

// Logits and squares of the norms of a strip's rows, from memory, and the share in the gradient of a strip two steps
// before, which lies in the second cache: the one's additions fill the time in which the other waits for its rows.
// Rows behind the last one are read as the last one.
template <bool logits, bool gradient>
void add_strip(Step* now, const Step* old, int first, long p, const double* theta, const Sums& sums, long ahead) {
  F64 logit[kStrip] = {}, square[kStrip] = {}, r[kStrip];
  const double *x[kStrip], *before[kStrip];
  EXPUNGE_UNROLL(4)
  for (int i = 0; i < kStrip; ++i) {
    if (logits) x[i] = now->x + (first + i < now->rows ? first + i : now->rows - 1) * p;
    if (gradient) {
      before[i] = old->x + (first + i < old->rows ? first + i : old->rows - 1) * p;
      r[i] = splat(old->residuals[first + i]);
    }
  }
  const auto add = [&](auto x_at, auto before_at, long j) __attribute__((always_inline)) {
    if (logits) {
      const F64 weight = load(theta + j);
      EXPUNGE_UNROLL(4)
      for (int i = 0; i < kStrip; ++i) {
        const F64 value = held(x_at(i));
        logit[i] += value * weight;
        square[i] += value * value;
      }
    }
    if (gradient) {
      F64 sum = begun(sums, j);
      EXPUNGE_UNROLL(4)
      for (int i = 0; i < kStrip; ++i) sum += r[i] * before_at(i);
      put(sums, j, sum);
    }
  };
  const auto add_whole = [&](long j) __attribute__((always_inline)) {
    add([&](int i) __attribute__((always_inline)) { return load(x[i] + j); },
        [&](int i) __attribute__((always_inline)) { return load(before[i] + j); }, j);
  };
  long j = 0;
  for (; j + kLine <= p; j += kLine) {
    if (logits) {
      EXPUNGE_UNROLL(4)
      for (int i = 0; i < kStrip; ++i) ask_for(x[i] + ahead + j, 1);
    }
    EXPUNGE_UNROLL(4)
    for (int part = 0; part < kLine; part += kLanes) add_whole(j + part);
  }
  for (; j + kLanes <= p; j += kLanes) add_whole(j);
  if (j < p)
    add([&](int i) __attribute__((always_inline)) { return load(now->tails[first + i]); },
        [&](int i) __attribute__((always_inline)) { return load(old->tails[first + i]); }, j);
  if (logits) {
    double found[2][kStrip];
    EXPUNGE_UNROLL(4)
    for (int i = 0; i < kStrip; ++i) {
      found[0][i] = total(logit[i]);
      found[1][i] = total(square[i]);
    }
    memcpy(now->residuals + first, found[0], sizeof found[0]);
    memcpy(now->squares + first, found[1], sizeof found[1]);
  }
}

// As the sum over tiles below: the gradient of a step is added while the logits of the second one behind it are formed,
// so that residuals are ready long before they are needed.
void pass_one(const Pass& call, long begin, long end, const Space& space, double theta_norm, double gamma,
              double* sums) {
  const long p = call.p, most = step_rows(p), count = (end - begin + most - 1) / most, of_block = kBlock / most;
  Step ring[3] = {};
  F64 error = splat(0.0), size = error, loss = error, right = error;
  for (long at = 0; at < count + 2; ++at) {
    Step* const now = ring + at % 3;
    const Step* const old = ring + (at + 1) % 3;
    const long row = begin + at * most, before = at - 2;
    const Sums whole = {space.gradient, space.total, before % of_block == 0,
                        before % of_block == of_block - 1 || before == count - 1};
    const auto strip_sums = [&](int first) {
      return Sums{whole.gradient, whole.total, whole.first && first == 0, whole.last && first + kStrip >= old->rows};
    };
    if (at >= count) {
      if (before < 0) continue;
      for (int first = 0; first < old->rows; first += kStrip)
        add_strip<false, true>(now, old, first, p, space.theta, strip_sums(first), 0);
      continue;
    }
    load_step(call, row, end - row < most ? end - row : most, now);
    const long ahead = (call.n - row - most) * p >= kFarAhead ? kFarAhead : 0;
    // Only the last step of a range has fewer rows, so that the step before has as many strips, or more.
    const long strips = before >= 0 ? most : now->rows;
    for (int first = 0; first < strips; first += kStrip) {
      if (first >= now->rows)
        add_strip<false, true>(now, old, first, p, space.theta, strip_sums(first), 0);
      else if (before >= 0)
        add_strip<true, true>(now, old, first, p, space.theta, strip_sums(first), ahead);
      else
        add_strip<true, false>(now, old, first, p, space.theta, whole, ahead);
    }
    // All rows of its strips, so that those behind the last one get residual 0.
    for (long lane = 0; lane < now->rows || lane % kStrip != 0; lane += kLanes) {
      const RowSums found =
          residuals_of(call.loss, 1, p, theta_norm, gamma,
                       {load(now->squares + lane), load(now->weights + lane), load(now->labels + lane)},
                       now->residuals + lane, kStepRows, now->targets + lane, kStepRows);
      error += found.error;
      size += found.size;
      loss += found.loss;
      right += found.right;
    }
    if (call.residuals != nullptr)
      memcpy(call.residuals + row, now->residuals, static_cast<size_t>(now->rows) * sizeof(double));
  }
  sums[0] = total(error);
  sums[1] = total(size);
  sums[2] = total(loss);
  sums[3] = total(right);
}

void pass(const Pass& call, long begin, long end, double* gradient, double* sums, double* memory) {
  const long p = call.p, q = call.q, stride = padded(p), most = rows_of(p);
  const Space space = space_of(memory, p, q);
  memset(space.theta, 0, static_cast<size_t>(3 * q * stride) * sizeof(double));
  double theta_square = 0.0;
  for (long c = 0; c < q; ++c)
    for (long j = 0; j < p; ++j) {
      const double value = call.theta[c * p + j];
      space.theta[c * stride + j] = value;
      theta_square += value * value;
    }
  const double theta_norm = norm_above(theta_square, p * q), gamma = product_error(p);
  if (q == 1) {
    pass_one(call, begin, end, space, theta_norm, gamma, sums);
    memcpy(gradient, space.total, static_cast<size_t>(p) * sizeof(double));
    return;
  }
  F64 error = splat(0.0), size = error, loss = error, right = error;
  Tile tile = {};
  for (long block = begin; block < end; block += kBlock) {
    const long stop = block + kBlock < end ? block + kBlock : end;
    for (long row = block; row < stop; row += most) {
      load_tile(call, row, stop - row < most ? stop - row : most, &tile, space.targets);
      all_logits(&tile, p, q, space.theta, stride, space.logits);
      for (long at = 0; at < tile.filled; at += kLanes) {
        const RowSums found = residuals_of(call.loss, q, p, theta_norm, gamma,
                                           {load(tile.squares + at), load(tile.weights + at), load(tile.labels + at)},
                                           space.logits + at, kMostRows, space.targets + at, kMostRows);
        error += found.error;
        size += found.size;
        loss += found.loss;
        right += found.right;
      }
      if (call.residuals != nullptr)
        for (long i = 0; i < tile.rows; ++i)
          for (long c = 0; c < q; ++c) call.residuals[(row + i) * q + c] = space.logits[c * kMostRows + i];
      const Sums block_sums = {space.gradient, space.total, row == block, row + most >= stop};
      add_outputs(tile, p, q, space.logits, block_sums, stride);
    }
  }
  for (long c = 0; c < q; ++c)
    memcpy(gradient + c * p, space.total + c * stride, static_cast<size_t>(p) * sizeof(double));
  sums[0] = total(error);
  sums[1] = total(size);
  sums[2] = total(loss);
  sums[3] = total(right);
}

}  // namespace

extern const Table table = {pass, workspace};

}  // namespace expunge::residual::EXPUNGE_ISA_NS
