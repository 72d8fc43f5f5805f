// A warp answers a record: lanes share its rows, columns and quadrature nodes, and walk through the solve together.
// Small records live in shared memory, larger ones in a part of the workspace. Records whose first ranks do not agree
// go into a queue for the next ranks, so that few of them hold much memory at once and nothing comes back to the host.
#include "ridge/ridge.cuh"

#include "common/cuda_check.cuh"
#include "ridge/quote.hpp"
#include "ridge/shifted_bound.hpp"

namespace expunge::ridge {
namespace {

typedef unsigned long long Count;

constexpr long kSharedDoubles = 48 * 1024 / sizeof(double);  // of one record; four of the largest fit a multiprocessor
constexpr long kSlabDoubles = 1L << 27;                      // of all records in the workspace
constexpr long kWarps = 4096;                                // at work at once, more than any GPU runs
constexpr long kShiftedDoubles = 1L << 26;
constexpr unsigned kThreads = 128;

// Where the memory of a warp's record is.
struct Memory {
  double* slab;  // null: shared memory
  long doubles;  // of one record
};

__device__ double* record_memory(const Memory& memory) {
  EXPUNGE_DYNAMIC_SHARED(double, shared);
  return memory.slab == nullptr ? shared : memory.slab + static_cast<long>(blockIdx.x) * memory.doubles;
}

// Records taken one by one: the first `*count` of `list` (the numbers 0, 1, ... where that is null).
struct Queue {
  const long* list;
  const Count* count;
  Count* taken;
};

// The next record of the queue for this warp, -1 at its end. Also a barrier after the last record.
__device__ long take(const Queue& queue) {
  __syncwarp();
  long long i = -1;
  if (team::leads()) {
    const Count at = atomicAdd(queue.taken, Count(1));
    if (at < *queue.count) i = queue.list != nullptr ? queue.list[at] : static_cast<long long>(at);
  }
  return static_cast<long>(__shfl_sync(kWholeWarp, i, 0));
}

__global__ void count_kernel(Count* at, Count value) { *at = value; }

// Records that are not answered to the tolerance go into `again`, unless that is null.
__global__ void __launch_bounds__(kWarp)
    quote_kernel(QuoteInput in, QuoteOutput out, Ranks ranks, Queue queue, long* again, Count* again_count,
                 Memory memory) {
  RecordWork work = place_record(record_memory(memory), ranks.high, in.q);
  for (long i = take(queue); i >= 0; i = take(queue)) {
    jacobi_matrix(in.eigenvalues, in.projected + i * in.p, in.p, ranks.high, work.diagonal, work.squares);
    if (work.squares[0] == 0.0) {
      store_nothing_to_forget(out, i);
      continue;
    }
    const bool answered = quote_record(in, out, i, ranks, work);
    if (!answered && again != nullptr && team::leads()) again[atomicAdd(again_count, Count(1))] = i;
  }
}

__global__ void __launch_bounds__(kWarp)
    pair_kernel(QuoteInput in, double* e, double* d2, double* rest, long* count, long n, Memory memory) {
  RecordWork work = place_record(record_memory(memory), in.rank, in.q);
  for (long i = blockIdx.x; i < n; i += gridDim.x) {
    jacobi_matrix(in.eigenvalues, in.projected + i * in.p, in.p, in.rank, work.diagonal, work.squares);
    store_pair(in, e, d2, rest, count, i, work);
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kWarp)
    reduced_kernel(QuoteInput in, ReducedInput space, QuoteOutput out, Memory memory) {
  RecordWork work = place_record(record_memory(memory), space.r, in.q);
  quote_reduced(in, space, out, work);
}

// The minorant is sequential: a thread per record, its columns of the workspace beside those of its neighbours.
__global__ void __launch_bounds__(kThreads)
    shifted_kernel(ShiftedInput in, double* value, double* mu, long n, double* workspace) {
  const long stride = static_cast<long>(gridDim.x) * blockDim.x;
  const long first = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const Column memory = {workspace + first, stride};
  for (long i = first; i < n; i += stride)
    shifted_quote(in, in.sensitivity + i * in.n_steps, in.contraction[i], value + i, mu + i, memory);
}

__global__ void __launch_bounds__(kThreads)
    root_kernel(const double* h, const double* x, long p, double floor_value, double slack, double* out, long n) {
  const long warps = static_cast<long>(gridDim.x) * (kThreads / kWarp);
  for (long i = static_cast<long>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; i < n; i += warps) {
    const double root = lowest_root(h, x + i * p, p, floor_value, slack);
    if (team::leads()) out[i] = root;
  }
}

long smaller(long a, long b) { return a < b ? a : b; }
long larger(long a, long b) { return a > b ? a : b; }

bool in_shared(long rank, long q) { return record_doubles(rank, q) <= kSharedDoubles; }

// Doubles for records of up to `rank` outside shared memory, at most `n` at a time.
long slab_doubles(long n, long rank, long q) {
  if (in_shared(rank, q)) return 0;
  const long one = record_doubles(rank, q);
  return larger(one, smaller(smaller(n, kWarps) * one, kSlabDoubles));
}

// Where records of this rank live, and how many warps work on them.
Memory memory_of(long rank, long q, long n, double* slab, long slab_size, unsigned* warps) {
  const long one = record_doubles(rank, q);
  const bool shared = in_shared(rank, q);
  const long most = shared ? kWarps : smaller(kWarps, slab_size / one);
  *warps = blocks_for(n, 1, most);
  return {shared ? nullptr : slab, one};
}

size_t shared_bytes(const Memory& memory) {
  return memory.slab == nullptr ? sizeof(double) * static_cast<size_t>(memory.doubles) : 0;
}

// How often the ranks grow until they are p, the first included.
constexpr long kMostRounds = 64;

long slab_of_quotes(long n, long p, long q, long rank) { return slab_doubles(n, rank > 0 ? rank : p, q); }

}  // namespace

namespace device {

long quote_workspace(long n, long p, long q, long rank) {
  static_assert(sizeof(Count) == sizeof(double) && sizeof(long) == sizeof(double), "queues lie in doubles");
  return 2 * (kMostRounds + 1) + 2 * n + slab_of_quotes(n, p, q, rank);
}

cudaError_t exact_quotes(const QuoteInput& in, const QuoteOutput& out, long n, double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  // round k takes `taken[k]` of `count[k]` records; lists take turns
  Count* count = reinterpret_cast<Count*>(workspace);
  Count* taken = count + kMostRounds + 1;
  long* lists[2] = {reinterpret_cast<long*>(taken + kMostRounds + 1), nullptr};
  lists[1] = lists[0] + n;
  double* slab = reinterpret_cast<double*>(lists[1] + n);
  const long slab_size = slab_of_quotes(n, in.p, in.q, in.rank);
  const size_t counters = 2 * (kMostRounds + 1) * sizeof(Count);
  if (const cudaError_t error = cudaMemsetAsync(count, 0, counters, stream); error != cudaSuccess) return error;
  EXPUNGE_LAUNCH(count_kernel, 1, 1, 0, stream)(count, static_cast<Count>(n));
  Ranks ranks = first_ranks(in);
  for (long round = 0; round < kMostRounds; ++round) {
    const bool last = in.rank > 0 || ranks.high == in.p;
    unsigned warps = 1;
    const Memory memory = memory_of(ranks.high, in.q, n, slab, slab_size, &warps);
    const Queue queue = {round == 0 ? nullptr : lists[round % 2], count + round, taken + round};
    EXPUNGE_LAUNCH(quote_kernel, warps, kWarp, shared_bytes(memory), stream)
    (in, out, ranks, queue, last ? nullptr : lists[(round + 1) % 2], count + round + 1, memory);
    if (last) break;
    ranks = more_ranks(ranks, in.p);
  }
  return launched();
}

long pair_workspace(long n, long q, long rank) { return slab_doubles(n, rank, q); }

cudaError_t gaussian_pairs(const QuoteInput& in, double* e, double* d2, double* rest, long* count, long n,
                           double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  unsigned warps = 1;
  const Memory memory = memory_of(in.rank, in.q, n, workspace, slab_doubles(n, in.rank, in.q), &warps);
  EXPUNGE_LAUNCH(pair_kernel, warps, kWarp, shared_bytes(memory), stream)(in, e, d2, rest, count, n, memory);
  return launched();
}

long reduced_workspace(long r, long q) { return slab_doubles(1, r, q); }

cudaError_t solve_reduced(const QuoteInput& in, const ReducedInput& space, const QuoteOutput& out, double* workspace,
                          cudaStream_t stream) {
  unsigned warps = 1;
  const Memory memory = memory_of(space.r, in.q, 1, workspace, slab_doubles(1, space.r, in.q), &warps);
  EXPUNGE_LAUNCH(reduced_kernel, 1, kWarp, shared_bytes(memory), stream)(in, space, out, memory);
  return launched();
}

// Threads that share the workspace of the shifted bound.
static long shifted_threads(long n, long n_steps) {
  const long most = larger(kThreads, kShiftedDoubles / (3 * n_steps + 1));
  return larger(1, (smaller(n, most) + kThreads - 1) / kThreads) * kThreads;
}

long shifted_workspace(long n, long n_steps) { return n == 0 ? 0 : shifted_threads(n, n_steps) * (3 * n_steps + 1); }

cudaError_t shifted_quotes(const ShiftedInput& in, double* value, double* mu, long n, double* workspace,
                           cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>(shifted_threads(n, in.n_steps) / kThreads);
  EXPUNGE_LAUNCH(shifted_kernel, blocks, kThreads, 0, stream)(in, value, mu, n, workspace);
  return launched();
}

cudaError_t smallest_eigenvalues(const double* eigenvalues, const double* projected, long p, double floor, double slack,
                                 double* out, long n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(n, kThreads / kWarp, 1L << 20);
  EXPUNGE_LAUNCH(root_kernel, blocks, kThreads, 0, stream)(eigenvalues, projected, p, floor, slack, out, n);
  return launched();
}

}  // namespace device
}  // namespace expunge::ridge
