// Batched chains, one per thread, all steps in one launch: the noise is made in registers, parameters lie in shared
// memory as long as those of 32 chains fit, the data of small problems too. Compiled with --fmad=false: every sum is
// the CPU's, in its order, so a chain has the same bits.
#include "common/cuda_check.cuh"
#include "langevin/langevin.cuh"
#include "langevin/langevin_math.hpp"

namespace expunge::langevin {
namespace {

constexpr long kRecordBlock = 256;                    // records summed before they join the total, as on the CPU
constexpr long kSharedBytes = 48 * 1024;              // what every device gives a block without asking
constexpr long kDataBytes = 16 * 1024;                // of these, at most for data
constexpr long kMostThreads = 128;                     // of a block
constexpr long kWorkspaceBytes = 256L * 1024 * 1024;  // for parameters that do not fit

// A vector of the chain of this thread: element i of all threads lies together.
template <class T>
struct Own {
  T* first;
  long stride;
  __device__ T& operator[](long i) const { return first[i * stride]; }
  __device__ T* at(long i) const { return first + i * stride; }
};

// The data, in shared or in global memory.
template <class T>
struct Data {
  const T *X, *targets, *row_norm, *gram, *moment;
};

__device__ __host__ inline long padded(long p) { return (p + kGramBlock - 1) / kGramBlock * kGramBlock; }

// Eight numbers that follow one another, in loads of 16 bytes where they lie so.
template <class T, bool aligned>
__device__ void load_eight(const T* from, T* to) {
  memcpy(to, aligned ? __builtin_assume_aligned(from, 16) : from, kGramBlock * sizeof(T));
}

// gradient = gram theta - moment.
template <class T, bool aligned>
__device__ void gram_gradient(const Chains<T>& a, const Data<T>& data, Own<T> theta, Own<T> gradient) {
  const long p = a.p, width = padded(p);
  for (long c = 0; c < a.q; ++c)
    for (long i = 0; i < p; i += kGramBlock) {
      T sum[kGramBlock] = {};
      for (long j = 0; j < p; ++j) {
        alignas(16) T row[kGramBlock];
        load_eight<T, aligned>(data.gram + j * width + i, row);  // the matrix is symmetric
        const T t = theta[c * p + j];
        EXPUNGE_UNROLL(8)
        for (long r = 0; r < kGramBlock; ++r) sum[r] = sum[r] + t * row[r];
      }
      EXPUNGE_UNROLL(8)
      for (long r = 0; r < kGramBlock; ++r)
        if (i + r < p) gradient[c * p + i + r] = sum[r] - data.moment[c * p + i + r];
    }
}

// x . theta_c with the CPU's four interleaved sums.
template <class T>
__device__ T dot(const T* x, Own<T> theta, long first, long p) {
  T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  long j = 0;
  for (; j + 4 <= p; j += 4) {
    s0 = s0 + theta[first + j] * x[j];
    s1 = s1 + theta[first + j + 1] * x[j + 1];
    s2 = s2 + theta[first + j + 2] * x[j + 2];
    s3 = s3 + theta[first + j + 3] * x[j + 3];
  }
  for (; j < p; ++j) s0 = s0 + theta[first + j] * x[j];
  return (s0 + s1) + (s2 + s3);
}

// partial += sum of residual x^T over `count` records from r on; `linear` is scratch for their residuals.
template <class T, long count>
__device__ void add_records(const Chains<T>& a, const Data<T>& data, long r, Own<T> theta, Own<T> partial,
                            Own<T> linear, T weight) {
  using P = Lanes<T>;
  const long p = a.p, q = a.q;
  const T* x = data.X + r * p;
  for (long c = 0; c < q; ++c) {
    if constexpr (count == 1) {
      linear[c] = dot(x, theta, c * p, p);
    } else {
      T sum[count] = {};
      for (long j = 0; j < p; ++j) {
        const T t = theta[c * p + j];
        EXPUNGE_UNROLL(4)
        for (long i = 0; i < count; ++i) sum[i] = sum[i] + t * x[i * p + j];
      }
      EXPUNGE_UNROLL(4)
      for (long i = 0; i < count; ++i) linear[i * q + c] = sum[i];
    }
  }
  for (long i = 0; i < count; ++i) {
    const T* target = data.targets + (r + i) * q;
    T* values = linear.at(i * q);
    residual<P>(a.loss, values, linear.stride, q, [target](long c) { return target[c]; });
    if (a.clip > 0) clip_residual<P>(values, linear.stride, q, data.row_norm[r + i], a.clip);
    if (count == 1 && a.poisson)
      for (long c = 0; c < q; ++c) linear[c] = linear[c] * weight;
  }
  for (long c = 0; c < q; ++c) {
    T factor[count];
    EXPUNGE_UNROLL(4)
    for (long i = 0; i < count; ++i) factor[i] = linear[i * q + c];
    for (long j = 0; j < p; ++j) {
      T total = partial[c * p + j];
      EXPUNGE_UNROLL(4)
      for (long i = 0; i < count; ++i) total = total + factor[i] * x[i * p + j];
      partial[c * p + j] = total;
    }
  }
}

template <class T>
__device__ void record_gradient(const Chains<T>& a, const Data<T>& data, Own<T> theta, Own<T> gradient, Own<T> partial,
                                Own<T> linear, uint64_t chain, uint32_t step) {
  const long size = a.p * a.q;
  for (long i = 0; i < size; ++i) gradient[i] = partial[i] = 0;
  for (long start = 0; start < a.n; start += kRecordBlock) {
    const long stop = start + kRecordBlock < a.n ? start + kRecordBlock : a.n;
    long r = start;
    if (a.poisson) {
      uint32_t words[4] = {};
      for (; r < stop; ++r) {
        if (r % 4 == 0) philox(a.seed, static_cast<uint64_t>(r / 4), step, chain, kSampling, words);
        const uint32_t word = r % 4 == 0 ? words[0] : r % 4 == 1 ? words[1] : r % 4 == 2 ? words[2] : words[3];
        if (word < a.threshold) add_records<T, 1>(a, data, r, theta, partial, linear, a.weight);
      }
    } else {
      for (; r + 4 <= stop; r += 4) add_records<T, 4>(a, data, r, theta, partial, linear, T(1));
      for (; r < stop; ++r) add_records<T, 1>(a, data, r, theta, partial, linear, T(1));
    }
    for (long i = 0; i < size; ++i) {
      gradient[i] += partial[i];
      partial[i] = 0;
    }
  }
  for (long i = 0; i < size; ++i) gradient[i] = gradient[i] + theta[i] * a.alpha;
}

// theta <- theta - step_size gradient + noise_std z, then the projection.
template <class T>
__device__ void update(const Chains<T>& a, Own<T> theta, Own<T> gradient, uint64_t chain, long k) {
  using P = Lanes<T>;
  constexpr long per = Normals<T>::per_block;
  const long size = a.p * a.q;
  const T eta = a.step_size[k], tau = a.noise_std[k];
  const uint32_t step = a.first_step + static_cast<uint32_t>(k);
  if (tau != 0) {  // NaN is not 'no noise'
    for (long i = 0; i < size; i += per) {
      T z[per];
      normals_of_chains<T>(z, static_cast<uint64_t>(i / per), a.seed, chain, step);
      EXPUNGE_UNROLL(4)
      for (long r = 0; r < per; ++r)
        if (i + r < size) theta[i + r] = (theta[i + r] - gradient[i + r] * eta) + z[r] * tau;
    }
  } else {
    for (long i = 0; i < size; ++i) theta[i] = theta[i] - gradient[i] * eta;
  }
  if (a.radius > 0) {
    T square = 0;
    for (long i = 0; i < size; ++i) square = square + theta[i] * theta[i];
    const T scale = shrink<P>(P::sqrt(square), a.radius);
    for (long i = 0; i < size; ++i) theta[i] = theta[i] * scale;
  }
}

// Copies `count` numbers into shared memory; returns what follows them there.
template <class T>
__device__ T* copy_in(T* to, const T* from, long count, const T** where) {
  if (from == nullptr) return to;
  for (long i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
  *where = to;
  return to + count;
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) chains_kernel(Chains<T> a, T* workspace, bool data_in_shared) {
  EXPUNGE_DYNAMIC_SHARED(T, shared);
  Data<T> data = {a.X, a.targets, a.row_norm, a.gram, a.moment};
  T* free_memory = shared;
  if (data_in_shared) {
    if (a.gram != nullptr) {
      free_memory = copy_in(free_memory, a.gram, a.p * padded(a.p), &data.gram);
      free_memory = copy_in(free_memory, a.moment, a.q * a.p, &data.moment);
    } else {
      free_memory = copy_in(free_memory, a.X, a.n * a.p, &data.X);
      free_memory = copy_in(free_memory, a.targets, a.n * a.q, &data.targets);
      free_memory = copy_in(free_memory, a.row_norm, a.n, &data.row_norm);
    }
    __syncthreads();
  }
  const bool gram_is_aligned = reinterpret_cast<uintptr_t>(data.gram) % 16 == 0;  // always, in shared memory
  const long p = a.p, q = a.q, size = p * q, threads = static_cast<long>(gridDim.x) * blockDim.x;
  const long thread = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const long stride = workspace != nullptr ? threads : blockDim.x;
  T* const own = workspace != nullptr ? workspace + thread : free_memory + threadIdx.x;
  const Own<T> theta = {own, stride}, gradient = {own + size * stride, stride};
  const Own<T> partial = {own + 2 * size * stride, stride}, linear = {own + 3 * size * stride, stride};
  for (long index = thread; index < a.n_chains; index += threads) {
    const uint64_t chain = a.first_chain + static_cast<uint64_t>(index);
    const T* start = a.theta0 + (a.theta0_per_chain ? index * size : 0);
    for (long j = 0; j < p; ++j)
      for (long c = 0; c < q; ++c) theta[c * p + j] = start[j * q + c];
    long next = 0;
    for (long k = 0;; ++k) {
      if (next < a.n_record && a.record[next] == k) {
        T* out = a.out + (next * a.n_chains + index) * size;
        for (long j = 0; j < p; ++j)
          for (long c = 0; c < q; ++c) out[j * q + c] = theta[c * p + j];
        ++next;
      }
      if (k == a.n_steps || next == a.n_record) break;
      if (a.gram != nullptr && gram_is_aligned)
        gram_gradient<T, true>(a, data, theta, gradient);
      else if (a.gram != nullptr)
        gram_gradient<T, false>(a, data, theta, gradient);
      else
        record_gradient(a, data, theta, gradient, partial, linear, chain, a.first_step + static_cast<uint32_t>(k));
      update(a, theta, gradient, chain, k);
    }
    for (; next < a.n_record; ++next) {  // never reached: the host could not look at the numbers
      T* out = a.out + (next * a.n_chains + index) * size;
      for (long j = 0; j < size; ++j) out[j] = static_cast<T>(__builtin_nanf(""));
    }
  }
}

// Numbers a chain keeps.
long per_chain(long p, long q, bool gram) { return gram ? 2 * p * q : 3 * p * q + 4 * q; }

// Threads per block with which the chains' numbers fit in shared memory, or 0.
long shared_threads(long p, long q, bool gram, long element_bytes) {
  const long bytes = per_chain(p, q, gram) * element_bytes;
  for (long threads = kMostThreads; threads >= 32; threads /= 2)
    if (threads * bytes <= kSharedBytes - kDataBytes) return threads;
  return 0;
}

constexpr long kWorkspaceThreads = 64;  // per block

long workspace_blocks(long n_chains, long p, long q, bool gram, long element_bytes) {
  const long most = kWorkspaceBytes / (per_chain(p, q, gram) * element_bytes * kWorkspaceThreads);
  return blocks_for(n_chains, kWorkspaceThreads, most < 1 ? 1 : most);
}

}  // namespace

namespace device {

long chains_workspace(long n_chains, long p, long q, bool gram, long element_bytes) {
  if (n_chains == 0 || p == 0 || q == 0 || shared_threads(p, q, gram, element_bytes) != 0) return 0;
  return workspace_blocks(n_chains, p, q, gram, element_bytes) * kWorkspaceThreads * per_chain(p, q, gram);
}

template <class T>
cudaError_t chains(const Chains<T>& a, T* workspace, cudaStream_t stream) {
  if (a.n_chains == 0 || a.p == 0 || a.q == 0) return cudaSuccess;
  const bool gram = a.gram != nullptr;
  const long elements = static_cast<long>(sizeof(T));
  const long values = gram ? a.p * padded(a.p) + a.q * a.p : a.n * (a.p + a.q) + (a.row_norm != nullptr ? a.n : 0);
  const bool data_in_shared = values <= kDataBytes / elements;
  const long data_bytes = data_in_shared ? values * elements : 0;
  const long threads = shared_threads(a.p, a.q, gram, elements);
  if (threads != 0) {
    const size_t bytes = static_cast<size_t>(data_bytes + threads * per_chain(a.p, a.q, gram) * elements);
    EXPUNGE_LAUNCH(chains_kernel<T>, blocks_for(a.n_chains, threads, 1L << 16), static_cast<unsigned>(threads), bytes,
                   stream)
    (a, nullptr, data_in_shared);
  } else {
    const unsigned blocks = static_cast<unsigned>(workspace_blocks(a.n_chains, a.p, a.q, gram, elements));
    EXPUNGE_LAUNCH(chains_kernel<T>, blocks, static_cast<unsigned>(kWorkspaceThreads), static_cast<size_t>(data_bytes),
                   stream)
    (a, workspace, data_in_shared);
  }
  return launched();
}

template cudaError_t chains<double>(const Chains<double>&, double*, cudaStream_t);
template cudaError_t chains<float>(const Chains<float>&, float*, cudaStream_t);

}  // namespace device
}  // namespace expunge::langevin
