// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "langevin/langevin.hpp"

#include "langevin/langevin_math.hpp"

namespace expunge::langevin {
namespace {

constexpr long kRecordsAtOnce = 4;  // records that share one pass over the parameters
constexpr long kRecordBlock = 256;  // records summed before they join the total: bounds the rounding of long sums

template <class T>
void normals(T* out, uint64_t first, long count, uint64_t seed, uint64_t chain, uint32_t step) {
  fill_normals<T>(out, first, count, seed, chain, step);
}

void words(uint32_t* out, uint64_t first_block, long blocks, uint64_t seed, uint64_t chain, uint32_t step) {
  constexpr long W = Lanes<double>::W;
  for (long done = 0; done < blocks; done += W) {
    const auto x =
        Words<double, 1>::of<LanesAre::blocks>(seed, first_block + static_cast<uint64_t>(done), step, chain, kNormals);
    for (long lane = 0; lane < W && done + lane < blocks; ++lane)
      for (int k = 0; k < 4; ++k) out[4 * (done + lane) + k] = static_cast<uint32_t>(x.w[k][0][lane]);
  }
}

long gram_workspace(long p, long q) { return 2 * (padded_columns(p) + q); }

template <class T>
void gram(const T* X, const T* targets, long n, long p, long q, double alpha, T* gram_out, T* moment, double* workspace,
          long begin, long end) {
  const long padded = padded_columns(p), width = padded + q;
  double *total = workspace, *partial = workspace + width;
  for (long i = begin; i < end; ++i) {
    for (long j = 0; j < 2 * width; ++j) workspace[j] = 0.0;
    for (long start = 0; start < n; start += kRecordBlock) {
      const long stop = start + kRecordBlock < n ? start + kRecordBlock : n;
      for (long r = start; r < stop; ++r) {
        const double xi = static_cast<double>(X[r * p + i]);
        for (long j = 0; j < p; ++j) partial[j] += xi * static_cast<double>(X[r * p + j]);
        for (long c = 0; c < q; ++c) partial[padded + c] += xi * static_cast<double>(targets[r * q + c]);
      }
      for (long j = 0; j < width; ++j) {
        total[j] += partial[j];
        partial[j] = 0.0;
      }
    }
    total[i] += alpha;
    for (long j = 0; j < padded; ++j) gram_out[i * padded + j] = static_cast<T>(total[j]);
    for (long c = 0; c < q; ++c) moment[c * p + i] = static_cast<T>(total[padded + c]);
  }
}

template <class T>
void row_norms(const T* X, long p, T* out, long begin, long end) {
  for (long r = begin; r < end; ++r) {
    double square = 0.0;
    for (long j = 0; j < p; ++j) square += static_cast<double>(X[r * p + j]) * static_cast<double>(X[r * p + j]);
    out[r] = static_cast<T>(__builtin_sqrt(square));
  }
}

// gradient = gram theta - moment for one column, eight rows at a time: eight independent sums hide the latency.
template <class T>
EXPUNGE_INLINE void gram_gradient(const Chains<T>& a, const T* theta, T* gradient) {
  using P = Lanes<T>;
  using F = typename P::F;
  const long p = a.p, padded = padded_columns(p);
  for (long c = 0; c < a.q; ++c) {
    const T* column = theta + c * p * P::W;
    for (long i = 0; i < p; i += kGramBlock) {
      F sum[kGramBlock] = {};
      for (long j = 0; j < p; ++j) {
        const F t = P::load(column + j * P::W);
        const T* row = a.gram + j * padded + i;  // the matrix is symmetric
#pragma GCC unroll 8
        for (long r = 0; r < kGramBlock; ++r) sum[r] = sum[r] + t * row[r];
      }
#pragma GCC unroll 8
      for (long r = 0; r < kGramBlock; ++r)
        if (i + r < p) P::store(gradient + (c * p + i + r) * P::W, sum[r] - a.moment[c * p + i + r]);
    }
  }
}

// Which chains take record r: all bits set in their lane. Four records share one Philox block.
template <class T>
EXPUNGE_INLINE typename Lanes<T>::I taken(const typename Lanes<T>::U word, uint32_t threshold) {
  using I = typename Lanes<T>::I;
  if constexpr (sizeof(T) == 8) {
    return bits_as<I>(word & uint64_t(0xffffffff)) < static_cast<int64_t>(threshold);
  } else {  // unsigned order through the signed comparison
    const uint32_t flip = 0x80000000u;
    return bits_as<I>(word ^ flip) < static_cast<int32_t>(threshold ^ flip);
  }
}

// linear[c] = x . theta_c with four interleaved sums, in one fixed order.
template <class T>
EXPUNGE_INLINE typename Lanes<T>::F dot(const T* x, const T* column, long p) {
  using P = Lanes<T>;
  using F = typename P::F;
  F s0 = {}, s1 = {}, s2 = {}, s3 = {};
  long j = 0;
  for (; j + 4 <= p; j += 4) {
    s0 = s0 + P::load(column + j * P::W) * x[j];
    s1 = s1 + P::load(column + (j + 1) * P::W) * x[j + 1];
    s2 = s2 + P::load(column + (j + 2) * P::W) * x[j + 2];
    s3 = s3 + P::load(column + (j + 3) * P::W) * x[j + 3];
  }
  for (; j < p; ++j) s0 = s0 + P::load(column + j * P::W) * x[j];
  return (s0 + s1) + (s2 + s3);
}

// Residuals of `count` records from r on, each with its clip, into linear[(record * q + c) * W].
template <class T, long count>
EXPUNGE_INLINE void record_residuals(const Chains<T>& a, long r, const T* theta, T* linear) {
  using P = Lanes<T>;
  using F = typename P::F;
  constexpr long W = P::W;
  const long p = a.p, q = a.q;
  const T* x = a.X + r * p;
  for (long c = 0; c < q; ++c) {
    const T* column = theta + c * p * W;
    if constexpr (count == 1) {
      P::store(linear + c * W, dot<T>(x, column, p));
    } else {
      F sum[count] = {};
      for (long j = 0; j < p; ++j) {
        const F t = P::load(column + j * W);
#pragma GCC unroll 4
        for (long i = 0; i < count; ++i) sum[i] = sum[i] + t * x[i * p + j];
      }
      for (long i = 0; i < count; ++i) P::store(linear + (i * q + c) * W, sum[i]);
    }
  }
  for (long i = 0; i < count; ++i) {
    const T* target = a.targets + (r + i) * q;
    T* values = linear + i * q * W;
    residual<P>(a.loss, values, W, q, [target](long c) __attribute__((always_inline)) { return P::splat(target[c]); });
    if (a.clip > 0) clip_residual<P>(values, W, q, P::splat(a.row_norm[r + i]), a.clip);
  }
}

// partial += sum of residual x^T over `count` records from r on.
template <class T, long count>
EXPUNGE_INLINE void add_records(const Chains<T>& a, long r, const T* linear, T* partial) {
  using P = Lanes<T>;
  using F = typename P::F;
  constexpr long W = P::W;
  const T* x = a.X + r * a.p;
  for (long c = 0; c < a.q; ++c) {
    F factor[count];
    for (long i = 0; i < count; ++i) factor[i] = P::load(linear + (i * a.q + c) * W);
    T* sum = partial + c * a.p * W;
    for (long j = 0; j < a.p; ++j) {
      F total = P::load(sum + j * W);
#pragma GCC unroll 4
      for (long i = 0; i < count; ++i) total = total + factor[i] * x[i * a.p + j];
      P::store(sum + j * W, total);
    }
  }
}

// The gradient at theta as a loop over records; two sums bound the rounding of long ones.
template <class T>
EXPUNGE_INLINE void record_gradient(const Chains<T>& a, const T* theta, T* gradient, T* partial, T* linear,
                                    uint64_t chain, uint32_t step) {
  using P = Lanes<T>;
  using F = typename P::F;
  constexpr long W = P::W;
  const long size = a.p * a.q * W;
  for (long i = 0; i < size; ++i) gradient[i] = partial[i] = 0;
  for (long start = 0; start < a.n; start += kRecordBlock) {
    const long stop = start + kRecordBlock < a.n ? start + kRecordBlock : a.n;
    if (a.poisson) {
      Words<T, 1> sampling = {};
      for (long r = start; r < stop; ++r) {
        if (r % 4 == 0)
          sampling =
              Words<T, 1>::template of<LanesAre::chains>(a.seed, static_cast<uint64_t>(r / 4), step, chain, kSampling);
        const auto in = taken<T>(sampling.w[r % 4][0], a.threshold);
        if (!any_bit(bits_as<U64>(in))) continue;
        const F weight = P::where_bits(in, P::splat(a.weight), F{});
        record_residuals<T, 1>(a, r, theta, linear);
        for (long c = 0; c < a.q; ++c) P::store(linear + c * W, P::load(linear + c * W) * weight);
        add_records<T, 1>(a, r, linear, partial);
      }
    } else {
      long r = start;
      for (; r + kRecordsAtOnce <= stop; r += kRecordsAtOnce) {
        record_residuals<T, kRecordsAtOnce>(a, r, theta, linear);
        add_records<T, kRecordsAtOnce>(a, r, linear, partial);
      }
      for (; r < stop; ++r) {
        record_residuals<T, 1>(a, r, theta, linear);
        add_records<T, 1>(a, r, linear, partial);
      }
    }
    for (long i = 0; i < size; ++i) {
      gradient[i] += partial[i];
      partial[i] = 0;
    }
  }
  for (long i = 0; i < a.p * a.q; ++i)
    P::store(gradient + i * W, P::load(gradient + i * W) + P::load(theta + i * W) * a.alpha);
}

// theta <- theta - step_size gradient + noise_std z, then the projection. `noise` is scratch for the normals.
template <class T>
EXPUNGE_INLINE void update(const Chains<T>& a, T* theta, const T* gradient, T* noise, uint64_t chain, long k) {
  using P = Lanes<T>;
  using F = typename P::F;
  constexpr long W = P::W, per = Normals<T>::per_block, batch = per * Normals<T>::groups;
  const long size = a.p * a.q;
  const T eta = a.step_size[k], tau = a.noise_std[k];
  const uint32_t step = a.first_step + static_cast<uint32_t>(k);
  if (tau != 0) {  // NaN is not 'no noise'
    F z[batch];
    long i = 0;
    for (; i + batch <= size; i += batch) {
      normals_of_chains<T>(z, static_cast<uint64_t>(i / per), a.seed, chain, step);
#pragma GCC unroll 8
      for (long r = 0; r < batch; ++r) P::store(noise + (i + r) * W, z[r]);
    }
    if (i < size) {
      normals_of_chains<T>(z, static_cast<uint64_t>(i / per), a.seed, chain, step);
      for (long r = 0; i + r < size; ++r) P::store(noise + (i + r) * W, z[r]);
    }
    for (i = 0; i < size; ++i) {
      T* t = theta + i * W;
      P::store(t, (P::load(t) - P::load(gradient + i * W) * eta) + P::load(noise + i * W) * tau);
    }
  } else {
    for (long i = 0; i < size; ++i) P::store(theta + i * W, P::load(theta + i * W) - P::load(gradient + i * W) * eta);
  }
  if (a.radius > 0) {
    F square = {};
    for (long i = 0; i < size; ++i) {
      const F t = P::load(theta + i * W);
      square = square + t * t;
    }
    const F scale = shrink<P>(P::sqrt(square), a.radius);
    for (long i = 0; i < size; ++i) P::store(theta + i * W, P::load(theta + i * W) * scale);
  }
}

// Of each lane: parameters, gradient and a part of it, and linear predictions of the records that are taken together.
template <class T>
long chains_workspace(const Chains<T>& a) {
  return Lanes<T>::W * (3 * a.p * a.q + kRecordsAtOnce * a.q);
}

template <class T>
void chains(const Chains<T>& a, T* workspace, long begin_chain, long end_chain) {
  constexpr long W = Lanes<T>::W;
  const long p = a.p, q = a.q, size = p * q;
  T *theta = workspace, *gradient = theta + size * W, *partial = gradient + size * W, *linear = partial + size * W;
  for (long begin = begin_chain; begin < end_chain; begin += W) {
    const long lanes = end_chain - begin < W ? end_chain - begin : W;
    const uint64_t chain = a.first_chain + static_cast<uint64_t>(begin);
    for (long lane = 0; lane < W; ++lane) {
      // Spare lanes repeat the last chain's start: never uninitialised, never denormal where a chain is not.
      const long source = a.theta0_per_chain ? begin + (lane < lanes ? lane : lanes - 1) : 0;
      for (long j = 0; j < p; ++j)
        for (long c = 0; c < q; ++c) theta[(c * p + j) * W + lane] = a.theta0[(source * p + j) * q + c];
    }
    long next = 0;
    for (long k = 0;; ++k) {
      if (next < a.n_record && a.record[next] == k) {
        T* out = a.out + (next * a.n_chains + begin) * size;
        for (long lane = 0; lane < lanes; ++lane)
          for (long j = 0; j < p; ++j)
            for (long c = 0; c < q; ++c) out[lane * size + j * q + c] = theta[(c * p + j) * W + lane];
        ++next;
      }
      if (k == a.n_steps || next == a.n_record) break;
      if (a.gram != nullptr)
        gram_gradient(a, theta, gradient);
      else
        record_gradient(a, theta, gradient, partial, linear, chain, a.first_step + static_cast<uint32_t>(k));
      update(a, theta, gradient, partial, chain, k);
    }
  }
}

template <class T>
void tail(const Tail<T>& a, long begin_chain, long end_chain) {
  constexpr long kChunk = 512;
  const long size = a.p * a.q;
  T z[kChunk];
  for (long i = 0; i < kChunk; ++i) z[i] = 0;
  for (long chain = begin_chain; chain < end_chain; ++chain) {
    T* EXPUNGE_RESTRICT theta = a.theta + chain * size;
    const T* EXPUNGE_RESTRICT gradient = a.gradient + chain * size;
    for (long start = 0; start < size; start += kChunk) {
      const long count = size - start < kChunk ? size - start : kChunk;
      if (a.noise_std > 0)
        fill_normals<T>(z, static_cast<uint64_t>(start), count, a.seed, a.first_chain + static_cast<uint64_t>(chain),
                        a.step);
      T* EXPUNGE_RESTRICT t = theta + start;
      const T* EXPUNGE_RESTRICT g = gradient + start;
      if (a.moment != nullptr) {
        const T* EXPUNGE_RESTRICT b = a.moment + start;
        for (long i = 0; i < count; ++i) t[i] = (t[i] - (g[i] - b[i]) * a.step_size) + z[i] * a.noise_std;
      } else {
        for (long i = 0; i < count; ++i) t[i] = (t[i] - (g[i] + t[i] * a.alpha) * a.step_size) + z[i] * a.noise_std;
      }
    }
    if (a.radius > 0) {
      T sums[16] = {};  // sixteen sums whatever the width of a vector
      long i = 0;
      for (; i + 16 <= size; i += 16)
        for (long r = 0; r < 16; ++r) sums[r] += theta[i + r] * theta[i + r];
      for (; i < size; ++i) sums[i % 16] += theta[i] * theta[i];
      T square = 0;
      for (long r = 0; r < 16; ++r) square += sums[r];
      const T scale = shrink<One<T>>(One<T>::sqrt(square), a.radius);
      for (i = 0; i < size; ++i) theta[i] *= scale;
    }
  }
}

template <class T, class P>
EXPUNGE_INLINE void residual_lanes(const Residuals<T>& a, T* linear, long i) {
  const T* target = a.targets + i;
  const long n = a.n;
  residual<P>(a.loss, linear + i, n, a.q,
              [target, n](long c) __attribute__((always_inline)) { return P::load(target + c * n); });
  if (a.clip > 0) clip_residual<P>(linear + i, n, a.q, P::load(a.row_norm + i), a.clip);
}

template <class T>
void residuals(const Residuals<T>& a, long begin_chain, long end_chain) {
  constexpr long W = Lanes<T>::W;
  for (long chain = begin_chain; chain < end_chain; ++chain) {
    T* linear = a.linear + chain * a.q * a.n;
    long i = 0;
    for (; i + W <= a.n; i += W) residual_lanes<T, Lanes<T>>(a, linear, i);
    for (; i < a.n; ++i) residual_lanes<T, One<T>>(a, linear, i);
  }
}

template <class T>
constexpr Kernels<T> kernels() {
  return {Lanes<T>::W,     &normals<T>, &chains_workspace<T>, &chains<T>, &tail<T>, &residuals<T>,
          &gram_workspace, &gram<T>,    &row_norms<T>};
}

}  // namespace

namespace EXPUNGE_ISA_NS {

extern const Table table = {kernels<double>(), kernels<float>(), &words};

}  // namespace EXPUNGE_ISA_NS
}  // namespace expunge::langevin
