// Records are answered in three kernels: a warp makes a record's Jacobi matrix, threads find its spectra, a warp does
// all that follows, its lanes sharing rows, columns and quadrature nodes. Small records live in shared memory, larger
// ones in a part of the workspace; spectra of many records wait in another. Records whose first ranks do not agree go
// into a list for the next ranks, so that few of them hold much memory at once and nothing comes back to the host.
#include "ridge/ridge.cuh"

#include "common/cuda_check.cuh"
#include "ridge/quote.hpp"
#include "ridge/shifted_bound.hpp"

namespace expunge::ridge {
namespace {

typedef unsigned long long Count;

constexpr long kSharedDoubles = 48 * 1024 / sizeof(double);  // of one record; four of the largest fit a multiprocessor
constexpr long kSlabDoubles = 1L << 27;  // of all records in the workspace
constexpr long kWarps = 4096;  // at work at once, more than any GPU runs
constexpr long kShiftedDoubles = 1L << 26;
#if defined(EXPUNGE_CUDA_EMULATION)
constexpr long kSpectraDoubles = 1L << 10;  // so that a few records need several batches
#else
constexpr long kSpectraDoubles = 1L << 26;  // of the records of a batch
#endif
constexpr unsigned kThreads = 128;
constexpr int kWarpsResident = 12;  // a multiprocessor has registers for, of those that answer records

// Where the memory of a warp's record is.
struct Memory {
  double* slab;  // null: shared memory
  long doubles;  // of one record
};

__device__ double* record_memory(const Memory& memory) {
  EXPUNGE_DYNAMIC_SHARED(double, shared);
  return memory.slab == nullptr ? shared : memory.slab + static_cast<long>(blockIdx.x) * memory.doubles;
}

// Records begin..end-1 of a list, or as many of them as there are: `*count` of `list`, the numbers 0, 1, ... where that
// is null. Their matrices and spectra lie in `spectra`, room for `spectra_doubles(limit)` each.
struct Batch {
  const long* list;
  const Count* count;
  Count* taken;  // how many of the batch have been
  long begin, end;
  double* spectra;
  long limit;
};

__device__ long records_of(const Batch& batch) {
  const long count = static_cast<long>(*batch.count);
  return (count < batch.end ? count : batch.end) - batch.begin;
}

__device__ long record_of(const Batch& batch, long slot) {
  return batch.list != nullptr ? batch.list[batch.begin + slot] : batch.begin + slot;
}

__device__ void find_spectra(const Batch& batch, long slot, RecordWork* work) {
  place_spectra(batch.spectra + slot * spectra_doubles(batch.limit), batch.limit, work);
}

// The next record of the batch for this warp, -1 at its end. Also a barrier after the last record.
__device__ long take(const Batch& batch) {
  __syncwarp();
  long long slot = 0;
  if (team::leads()) slot = static_cast<long long>(atomicAdd(batch.taken, Count(1)));
  slot = __shfl_sync(kWholeWarp, slot, 0);
  return slot < records_of(batch) ? static_cast<long>(slot) : -1;
}

__global__ void count_kernel(Count* at, Count value) { *at = value; }

// Jacobi matrices of a batch, a warp each. They grow in shared memory if there is any: each node passes over all rows.
__global__ void __launch_bounds__(kWarp) jacobi_kernel(QuoteInput in, long rank, Batch batch, bool shared) {
  EXPUNGE_DYNAMIC_SHARED(double, rows);
  if (blockIdx.x == 0 && team::leads()) *batch.taken = 0;  // for the kernel after the next
  const long records = records_of(batch);
  for (long slot = blockIdx.x; slot < records; slot += gridDim.x) {
    RecordWork work = {};
    find_spectra(batch, slot, &work);
    double* const diagonal = shared ? rows : work.diagonal;
    double* const squares = shared ? rows + rank : work.squares;
    jacobi_matrix(in.eigenvalues, in.projected + record_of(batch, slot) * in.p, in.p, rank, diagonal, squares);
    if (!shared) continue;
    for (long k = team::lane(); k < rank; k += team::size) {
      work.diagonal[k] = diagonal[k];
      work.squares[k] = squares[k];
    }
    __syncwarp();  // all are done with `rows`
  }
}

// Spectra of a batch, a thread each: QL is sequential, so a warp takes 32 of one kind and rank. NaN where one fails.
__global__ void __launch_bounds__(kThreads) spectra_kernel(Ranks ranks, int needed, Batch batch) {
  const long records = records_of(batch), stride = static_cast<long>(gridDim.x) * blockDim.x;
  const long padded = (records + kWarp - 1) / kWarp * kWarp;
  for (long at = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; at < needed * padded; at += stride) {
    const int which = static_cast<int>(at / padded);
    if (at % padded >= records) continue;
    RecordWork work = {};
    find_spectra(batch, at % padded, &work);
    if (work.squares[0] == 0.0) continue;
    if (!record_spectra<1>(ranks, which, which + 1, work))
      place_spectrum(work.spectrum[which / 2], which < 2 ? ranks.high : ranks.low).values[which % 2][0] =
          not_a_number();
  }
}

__device__ bool were_found(const RecordWork& work, Ranks ranks, int needed) {
  for (int which = 0; which < needed; ++which) {
    const Spectrum one = place_spectrum(work.spectrum[which / 2], which < 2 ? ranks.high : ranks.low);
    if (one.values[which % 2][0] != one.values[which % 2][0]) return false;
  }
  return true;
}

// Records that are not answered to the tolerance go into `again`, unless that is null.
__global__ void __launch_bounds__(kWarp, kWarpsResident)
    quote_kernel(QuoteInput in, QuoteOutput out, Ranks ranks, Batch batch, long* again, Count* again_count,
                 Memory memory) {
  RecordWork work = place_record(record_memory(memory), ranks.high, in.q);
  for (long slot = take(batch); slot >= 0; slot = take(batch)) {
    const long i = record_of(batch, slot);
    find_spectra(batch, slot, &work);
    if (work.squares[0] == 0.0) {
      store_nothing_to_forget(out, i);
      continue;
    }
    const bool solved = were_found(work, ranks, spectra_needed(ranks, in.p));
    const bool answered = quote_record(in, out, i, ranks, solved, work);
    if (!answered && again != nullptr && team::leads()) again[atomicAdd(again_count, Count(1))] = i;
  }
}

__global__ void __launch_bounds__(kWarp)
    pair_kernel(QuoteInput in, double* e, double* d2, double* rest, long* count, Batch batch, Memory memory) {
  RecordWork work = place_record(record_memory(memory), in.rank, in.q);
  for (long slot = take(batch); slot >= 0; slot = take(batch)) {
    find_spectra(batch, slot, &work);
    const bool solved = were_found(work, {in.rank, in.rank}, 2);
    store_pair(in, e, d2, rest, count, record_of(batch, slot), solved, work);
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

// Doubles for the spectra of a batch of up to n records whose ranks do not exceed `limit`: one at least.
long batch_doubles(long n, long limit) {
  const long one = spectra_doubles(limit);
  return larger(one, smaller(n * one, kSpectraDoubles));
}

// Records in one batch where the ranks are these.
long batch_records(long n, long limit, long rank) {
  return larger(1, smaller(n, batch_doubles(n, limit) / spectra_doubles(rank)));
}

// Matrices and spectra of a batch.
void launch_spectra(const QuoteInput& in, Ranks ranks, int needed, const Batch& batch, cudaStream_t stream) {
  const long records = batch.end - batch.begin;
  const bool shared = 2 * ranks.high <= kSharedDoubles;
  const size_t bytes = shared ? 2 * sizeof(double) * static_cast<size_t>(ranks.high) : 0;
  EXPUNGE_LAUNCH(jacobi_kernel, blocks_for(records, 1, kWarps), kWarp, bytes, stream)(in, ranks.high, batch, shared);
  const long padded = (records + kWarp - 1) / kWarp * kWarp;
  EXPUNGE_LAUNCH(spectra_kernel, blocks_for(needed * padded, kThreads), kThreads, 0, stream)(ranks, needed, batch);
}

// How often the ranks grow until they are p, the first included.
constexpr long kMostRounds = 64;

long slab_of_quotes(long n, long p, long q, long rank) { return slab_doubles(n, rank > 0 ? rank : p, q); }

}  // namespace

namespace device {

long quote_workspace(long n, long p, long q, long rank) {
  static_assert(sizeof(Count) == sizeof(double) && sizeof(long) == sizeof(double), "queues lie in doubles");
  return 2 * (kMostRounds + 1) + 2 * n + batch_doubles(n, rank > 0 ? rank : p) + slab_of_quotes(n, p, q, rank);
}

cudaError_t exact_quotes(const QuoteInput& in, const QuoteOutput& out, long n, double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  // round k has `count[k]` records, in batches; lists take turns
  const long limit = in.rank > 0 ? in.rank : in.p;
  Count* count = reinterpret_cast<Count*>(workspace);
  Count* taken = count + kMostRounds + 1;
  long* lists[2] = {reinterpret_cast<long*>(taken + kMostRounds + 1), nullptr};
  lists[1] = lists[0] + n;
  double* spectra = reinterpret_cast<double*>(lists[1] + n);
  double* slab = spectra + batch_doubles(n, limit);
  const long slab_size = slab_of_quotes(n, in.p, in.q, in.rank);
  const size_t counters = 2 * (kMostRounds + 1) * sizeof(Count);
  if (const cudaError_t error = cudaMemsetAsync(count, 0, counters, stream); error != cudaSuccess) return error;
  EXPUNGE_LAUNCH(count_kernel, 1, 1, 0, stream)(count, static_cast<Count>(n));
  Ranks ranks = first_ranks(in);
  for (long round = 0; round < kMostRounds; ++round) {
    const bool last = in.rank > 0 || ranks.high == in.p;
    const long at_once = batch_records(n, limit, ranks.high);
    const long* list = round == 0 ? nullptr : lists[round % 2];
    for (long begin = 0; begin < n; begin += at_once) {
      const long end = smaller(n, begin + at_once);
      const Batch batch = {list, count + round, taken + round, begin, end, spectra, ranks.high};
      launch_spectra(in, ranks, spectra_needed(ranks, in.p), batch, stream);
      unsigned warps = 1;
      const Memory memory = memory_of(ranks.high, in.q, end - begin, slab, slab_size, &warps);
      EXPUNGE_LAUNCH(quote_kernel, warps, kWarp, shared_bytes(memory), stream)
      (in, out, ranks, batch, last ? nullptr : lists[(round + 1) % 2], count + round + 1, memory);
    }
    if (last) break;
    ranks = more_ranks(ranks, in.p);
  }
  return launched();
}

long pair_workspace(long n, long q, long rank) { return 2 + batch_doubles(n, rank) + slab_doubles(n, rank, q); }

cudaError_t gaussian_pairs(const QuoteInput& in, double* e, double* d2, double* rest, long* count, long n,
                           double* workspace, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  Count* counters = reinterpret_cast<Count*>(workspace);  // of records, and of those taken
  EXPUNGE_LAUNCH(count_kernel, 1, 1, 0, stream)(counters, static_cast<Count>(n));
  double* spectra = workspace + 2;
  double* slab = spectra + batch_doubles(n, in.rank);
  const long at_once = batch_records(n, in.rank, in.rank);
  for (long begin = 0; begin < n; begin += at_once) {
    const long end = smaller(n, begin + at_once);
    const Batch batch = {nullptr, counters, counters + 1, begin, end, spectra, in.rank};
    launch_spectra(in, {in.rank, in.rank}, 2, batch, stream);
    unsigned warps = 1;
    const Memory memory = memory_of(in.rank, in.q, end - begin, slab, slab_doubles(n, in.rank, in.q), &warps);
    EXPUNGE_LAUNCH(pair_kernel, warps, kWarp, shared_bytes(memory), stream)(in, e, d2, rest, count, batch, memory);
  }
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
