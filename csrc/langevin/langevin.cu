// Compiled with --fmad=false: random words, normals and chains have the bits of the CPU.
#include "langevin/langevin.cuh"

#include "common/cuda_check.cuh"
#include "langevin/langevin_math.hpp"

namespace expunge::langevin {
namespace {

constexpr unsigned kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    words_kernel(uint32_t* out, long blocks, uint64_t seed, uint64_t chain, uint32_t step) {
  const long stride = static_cast<long>(gridDim.x) * blockDim.x;
  for (long block = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; block < blocks; block += stride) {
    uint32_t w[4];
    philox(seed, static_cast<uint64_t>(block), step, chain, kNormals, w);
    for (int k = 0; k < 4; ++k) out[4 * block + k] = w[k];
  }
}

// A thread makes the normals of one Philox block: 4 in float32, 2 in float64.
template <class T>
__global__ void __launch_bounds__(kThreads)
    normals_kernel(T* out, long count, uint64_t seed, uint64_t chain, uint32_t step) {
  constexpr int per = Normals<T>::per_block;
  const long stride = static_cast<long>(gridDim.x) * blockDim.x, blocks = (count + per - 1) / per;
  for (long block = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; block < blocks; block += stride) {
    const auto words =
        Words<T, 1>::template of<LanesAre::blocks>(seed, static_cast<uint64_t>(block), step, chain, kNormals);
    const Normals<T> normals = Normals<T>::of(words, 0);
    EXPUNGE_UNROLL(4)
    for (int r = 0; r < per; ++r)
      if (block * per + r < count) out[block * per + r] = normals.z[r];
  }
}

// Rows of the Gram matrix and of the moment, four at a time, so that a number that was read serves four products: 32
// columns, eight blocks of records side by side, whose sums join the total in the order of the records.
constexpr int kColumns = 32, kBlocks = 8, kGramRows = 4;
constexpr long kRecordBlock = 256;

template <class T>
__global__ void __launch_bounds__(kColumns* kBlocks)
    gram_kernel(const T* X, const T* targets, long n, long p, long q, double alpha, T* gram, T* moment) {
  EXPUNGE_SHARED(double, partial, [kGramRows][kBlocks][kColumns]);
  const long padded = padded_columns(p);
  const long row = static_cast<long>(blockIdx.y) * kGramRows;
  const long column = static_cast<long>(blockIdx.x) * kColumns + threadIdx.x;
  const int rows = p - row < kGramRows ? static_cast<int>(p - row) : kGramRows;
  // Column j < p of X, nothing between p and its padding, then the targets.
  const T* source = column < p                                ? X + column
                    : column >= padded && column < padded + q ? targets + (column - padded)
                                                              : nullptr;
  const long width = column < p ? p : q;
  double total[kGramRows] = {};
  for (long first = 0; first < n; first += kBlocks * kRecordBlock) {
    const long start = first + threadIdx.y * kRecordBlock, stop = start + kRecordBlock < n ? start + kRecordBlock : n;
    double sum[kGramRows] = {};
    if (source != nullptr)
      for (long r = start; r < stop; ++r) {
        const double value = static_cast<double>(source[r * width]);
        EXPUNGE_UNROLL(4)
        for (int k = 0; k < kGramRows; ++k)
          if (k < rows) sum[k] += static_cast<double>(X[r * p + row + k]) * value;
      }
    EXPUNGE_UNROLL(4)
    for (int k = 0; k < kGramRows; ++k) partial[k][threadIdx.y][threadIdx.x] = sum[k];
    __syncthreads();
    for (int block = 0; block < kBlocks; ++block)
      if (first + block * kRecordBlock < n) EXPUNGE_UNROLL(4)
    for (int k = 0; k < kGramRows; ++k) total[k] += partial[k][block][threadIdx.x];
    __syncthreads();
  }
  if (threadIdx.y != 0) return;
  EXPUNGE_UNROLL(4)
  for (int k = 0; k < kGramRows; ++k) {
    const long i = row + k;
    if (k >= rows) continue;
    if (column == i) total[k] += alpha;
    if (column < padded)
      gram[i * padded + column] = static_cast<T>(total[k]);
    else if (column < padded + q)
      moment[(column - padded) * p + i] = static_cast<T>(total[k]);
  }
}

// A row per thread, summed in the order of its columns; rows are read whole through shared memory.
constexpr int kRows = 128;

template <class T>
__global__ void __launch_bounds__(kRows) row_norms_kernel(const T* X, long n, long p, T* out) {
  EXPUNGE_SHARED(T, tile, [kRows][33]);
  for (long first = static_cast<long>(blockIdx.x) * kRows; first < n; first += static_cast<long>(gridDim.x) * kRows) {
    double square = 0.0;
    for (long column = 0; column < p; column += 32) {
      const long count = p - column < 32 ? p - column : 32;
      for (long cell = threadIdx.x; cell < kRows * 32; cell += kRows) {
        const long r = cell / 32, j = cell % 32;
        if (first + r < n && j < count) tile[r][j] = X[(first + r) * p + column + j];
      }
      __syncthreads();
      if (first + threadIdx.x < n)
        for (long j = 0; j < count; ++j)
          square += static_cast<double>(tile[threadIdx.x][j]) * static_cast<double>(tile[threadIdx.x][j]);
      __syncthreads();
    }
    if (first + threadIdx.x < n) out[first + threadIdx.x] = static_cast<T>(sqrt_lanes(square));
  }
}

constexpr unsigned kTailThreads = 128;

// A block per chain, a thread per Philox block of its noise.
template <class T>
__global__ void __launch_bounds__(kTailThreads) tail_kernel(Tail<T> a, long n_chains) {
  constexpr int per = Normals<T>::per_block;
  EXPUNGE_SHARED(T, sums, [16]);
  const long size = a.p * a.q;
  for (long chain = blockIdx.x; chain < n_chains; chain += gridDim.x) {
    T* theta = a.theta + chain * size;
    const T* gradient = a.gradient + chain * size;
    for (long i = static_cast<long>(threadIdx.x) * per; i < size; i += static_cast<long>(blockDim.x) * per) {
      T z[per] = {};
      if (a.noise_std > 0)
        normals_of_chains<T>(z, static_cast<uint64_t>(i / per), a.seed, a.first_chain + static_cast<uint64_t>(chain),
                             a.step);
      EXPUNGE_UNROLL(4)
      for (int r = 0; r < per; ++r) {
        if (i + r >= size) continue;
        const T t = theta[i + r], g = gradient[i + r];
        const T slope = a.moment != nullptr ? g - a.moment[i + r] : g + t * a.alpha;
        theta[i + r] = (t - slope * a.step_size) + z[r] * a.noise_std;
      }
    }
    if (a.radius > 0) {  // sixteen sums, as on the CPU
      __syncthreads();
      if (threadIdx.x < 16) {
        T sum = 0;
        for (long i = threadIdx.x; i < size; i += 16) sum += theta[i] * theta[i];
        sums[threadIdx.x] = sum;
      }
      __syncthreads();
      T square = 0;
      for (int r = 0; r < 16; ++r) square += sums[r];
      const T scale = shrink<Lanes<T>>(Lanes<T>::sqrt(square), a.radius);
      for (long i = threadIdx.x; i < size; i += blockDim.x) theta[i] *= scale;
      __syncthreads();  // the sums have been read
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) residuals_kernel(Residuals<T> a, long n_chains) {
  using P = Lanes<T>;
  const long stride = static_cast<long>(gridDim.x) * blockDim.x, n = a.n;
  for (long item = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; item < n_chains * n; item += stride) {
    const long chain = item / n, i = item % n;
    T* linear = a.linear + chain * a.q * n + i;
    const T* target = a.targets + i;
    residual<P>(a.loss, linear, n, a.q, [target, n](long c) { return target[c * n]; });
    if (a.clip > 0) clip_residual<P>(linear, n, a.q, a.row_norm[i], a.clip);
  }
}

}  // namespace

namespace device {

cudaError_t random_words(uint32_t* out, long blocks, uint64_t seed, uint64_t chain, uint32_t step,
                         cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(words_kernel, blocks_for(blocks, kThreads, 1L << 20), kThreads, 0, stream)
  (out, blocks, seed, chain, step);
  return launched();
}

template <class T>
cudaError_t standard_normals(T* out, long count, uint64_t seed, uint64_t chain, uint32_t step, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned grid = blocks_for(count, static_cast<long>(kThreads) * Normals<T>::per_block, 1L << 20);
  EXPUNGE_LAUNCH(normals_kernel<T>, grid, kThreads, 0, stream)(out, count, seed, chain, step);
  return launched();
}

template <class T>
cudaError_t gram(const T* X, const T* targets, long n, long p, long q, double alpha, T* gram_out, T* moment,
                 cudaStream_t stream) {
  if (p == 0) return cudaSuccess;
  const long width = (p + kGramBlock - 1) / kGramBlock * kGramBlock + q;
  const dim3 grid(blocks_for(width, kColumns), blocks_for(p, kGramRows));
  EXPUNGE_LAUNCH(gram_kernel<T>, grid, dim3(kColumns, kBlocks), 0, stream)
  (X, targets, n, p, q, alpha, gram_out, moment);
  return launched();
}

template <class T>
cudaError_t row_norms(const T* X, long n, long p, T* out, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(row_norms_kernel<T>, blocks_for(n, kRows, 1L << 20), kRows, 0, stream)(X, n, p, out);
  return launched();
}

template <class T>
cudaError_t tail(const Tail<T>& problem, long n_chains, cudaStream_t stream) {
  if (n_chains == 0 || problem.p == 0 || problem.q == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(tail_kernel<T>, blocks_for(n_chains, 1, 1L << 20), kTailThreads, 0, stream)(problem, n_chains);
  return launched();
}

template <class T>
cudaError_t residuals(const Residuals<T>& problem, long n_chains, cudaStream_t stream) {
  if (n_chains == 0 || problem.q == 0 || problem.n == 0) return cudaSuccess;
  EXPUNGE_LAUNCH(residuals_kernel<T>, blocks_for(n_chains * problem.n, kThreads, 1L << 20), kThreads, 0, stream)
  (problem, n_chains);
  return launched();
}

#define EXPUNGE_INSTANTIATE(T)                                                                      \
  template cudaError_t standard_normals<T>(T*, long, uint64_t, uint64_t, uint32_t, cudaStream_t);   \
  template cudaError_t gram<T>(const T*, const T*, long, long, long, double, T*, T*, cudaStream_t); \
  template cudaError_t row_norms<T>(const T*, long, long, T*, cudaStream_t);                        \
  template cudaError_t tail<T>(const Tail<T>&, long, cudaStream_t);                                 \
  template cudaError_t residuals<T>(const Residuals<T>&, long, cudaStream_t);
EXPUNGE_INSTANTIATE(double)
EXPUNGE_INSTANTIATE(float)
#undef EXPUNGE_INSTANTIATE

}  // namespace device
}  // namespace expunge::langevin
