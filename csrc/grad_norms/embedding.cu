// Embeddings: the positions of every example are sorted by token, and runs of one token summed before squaring.
#include "grad_norms/grad_norms.cuh"
#include "grad_norms/operands.cuh"

namespace expunge::grad_norms::device {
namespace {

constexpr long kSortedInShared = 2048;  // tokens of an example that are sorted in shared memory
constexpr int kSegment = 32;            // sorted positions of one warp, besides the rest of a run that it began
constexpr int kStrip = 128;             // columns of one warp: four adjacent ones a lane

struct Entry {
  long token;
  int position;
};

__device__ __forceinline__ bool comes_first(const Entry& a, const Entry& b) {
  return a.token != b.token ? a.token < b.token : a.position < b.position;
}

long power_of_two(long n) {
  long power = 1;
  while (power < n) power *= 2;
  return power;
}

// Sorts the positions of an example by token, padding last, by a bitonic network over `slots` entries; whole block.
__device__ __forceinline__ void sort_entries(const long* tokens, int n_tokens, long padding_token, int slots,
                                             Entry* slot) {
  constexpr long kLast = 0x7fffffffffffffffL;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int t = thread; t < slots; t += threads) {
    const long token = t < n_tokens ? tokens[t] : padding_token;
    slot[t].token = t >= n_tokens || token == padding_token ? kLast : token;
    slot[t].position = t >= n_tokens || token == padding_token ? -1 : t;
  }
  __syncthreads();
  for (int size = 2; size <= slots; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int pair = thread; pair < slots / 2; pair += threads) {
        const int low = pair / stride * 2 * stride + pair % stride, high = low + stride;
        const Entry a = slot[low], b = slot[high];
        const bool ascending = (low & size) == 0;
        if (comes_first(b, a) == ascending) {
          slot[low] = b;
          slot[high] = a;
        }
      }
      __syncthreads();
    }
}

// Sorted entries of one example.
struct Sorted {
  const Entry* slot;
  __device__ __forceinline__ int place(int t) const { return slot[t].position; }
  __device__ __forceinline__ bool begins(int t) const {  // a run
    return slot[t].position >= 0 && (t == 0 || slot[t].token != slot[t - 1].token);
  }
  // Whether t is the last that is kept: they come first.
  __device__ __forceinline__ bool last(int t, int n_tokens) const {
    return slot[t].position >= 0 && (t + 1 == n_tokens || slot[t + 1].position < 0);
  }
  // How many are kept if t is the last. A negative token is no row of a table.
  __device__ __forceinline__ int count(int t) const { return slot[0].token < 0 ? -1 : t + 1; }
};

// The same written down.
struct Ordered {
  const int* places;
  const unsigned char* runs;
  __device__ __forceinline__ int place(int t) const { return places[t]; }
  __device__ __forceinline__ bool begins(int t) const { return runs[t] != 0; }
};

// This lane's squares of the runs that begin in a segment, over four of its strip's columns.
template <class T, class Order>
__device__ __forceinline__ double squares_of_runs(const AcrossRows<T>& grads, const Order& order, int count,
                                                  int segment, int strip) {
  const int column = strip * kStrip + static_cast<int>(threadIdx.x) % kWarp * 4;
  double squares = count < 0 ? __builtin_nan("") : 0.0;
  const int end = (segment + 1) * kSegment < count ? (segment + 1) * kSegment : count;
  double sums[4] = {};
  int t = segment * kSegment;
  while (t < end && !order.begins(t)) ++t;  // the rest of a run that an earlier warp takes
  if (t < end)
    for (; t < count; ++t) {
      if (order.begins(t)) {
        EXPUNGE_UNROLL(16)
        for (int i = 0; i < 4; ++i) {
          squares += sums[i] * sums[i];
          sums[i] = 0;
        }
        if (t >= end) break;
      }
      double grad[4];
      grads.load(order.place(t), column, grad);
      EXPUNGE_UNROLL(16)
      for (int i = 0; i < 4; ++i) sums[i] += grad[i];
    }
  EXPUNGE_UNROLL(16)
  for (int i = 0; i < 4; ++i) squares += sums[i] * sums[i];
  return squares;
}

template <class T>
__device__ __forceinline__ AcrossRows<T> grads_of(const EmbeddingNorms<T>& call, long example) {
  return {call.output_grads + example * call.n_tokens * call.width, call.width, static_cast<int>(call.n_tokens),
          static_cast<int>(call.width)};
}

// Short examples, many of them: a block sorts one in shared memory, sums its runs and writes its norm.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    short_examples(EmbeddingNorms<T> call, int slots, int segments, int strips) {
  EXPUNGE_DYNAMIC_SHARED(Entry, slot);
  EXPUNGE_SHARED(int, kept);
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  const long example = blockIdx.x;
  const int n_tokens = static_cast<int>(call.n_tokens), thread = static_cast<int>(threadIdx.x);
  if (thread == 0) kept = 0;
  sort_entries(call.tokens + example * call.n_tokens, n_tokens, call.padding_token, slots, slot);
  const Sorted order{slot};
  for (int t = thread; t < n_tokens; t += static_cast<int>(blockDim.x))
    if (order.last(t, n_tokens)) kept = order.count(t);
  __syncthreads();
  const AcrossRows<T> grads = grads_of(call, example);
  double squares = 0;
  for (int work = thread / kWarp; work < segments * strips; work += static_cast<int>(blockDim.x) / kWarp)
    squares += squares_of_runs(grads, order, kept, work / strips, work % strips);
  squares = block_sum(squares, scratch);
  if (thread == 0) call.out[example] = finish(squares, call.squared);
}

// order[example, 0..counts[example]) = positions sorted by token, padding left out; runs[...] says where a run begins.
// One block an example, in shared memory or, for long examples, in `entries`.
__global__ void __launch_bounds__(kRowThreads)
    sort_tokens(const long* tokens, int n_tokens, long padding_token, int slots, Entry* entries, int* order,
                unsigned char* runs, int* counts) {
  EXPUNGE_DYNAMIC_SHARED(Entry, in_shared);
  const long example = blockIdx.x;
  Entry* const slot = entries == nullptr ? in_shared : entries + example * slots;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  sort_entries(tokens + example * n_tokens, n_tokens, padding_token, slots, slot);
  const Sorted sorted{slot};
  for (int t = thread; t < n_tokens; t += threads) {
    order[example * n_tokens + t] = sorted.place(t);
    runs[example * n_tokens + t] = sorted.begins(t) ? 1 : 0;
    if (sorted.last(t, n_tokens)) counts[example] = sorted.count(t);
  }
  if (thread == 0 && (n_tokens == 0 || slot[0].position < 0)) counts[example] = 0;
}

// parts[example, segment, strip] = squares of the runs that begin in the segment, over one strip of columns.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    run_squares(EmbeddingNorms<T> call, const int* order, const unsigned char* runs, const int* counts, int segments,
                int strips, long examples, double* parts) {
  const long work = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (work >= examples * segments * strips) return;
  const int strip = static_cast<int>(work % strips), segment = static_cast<int>(work / strips % segments);
  const long example = work / strips / segments;
  const Ordered ordered{order + example * call.n_tokens, runs + example * call.n_tokens};
  const double squares = lanes_sum(squares_of_runs(grads_of(call, example), ordered, counts[example], segment, strip));
  if (threadIdx.x % kWarp == 0) parts[work] = squares;
}

template <class T>
struct EmbeddingPlan {
  bool whole;  // a block takes a whole example
  long segments, strips, slots;
  int *order, *counts;
  unsigned char* runs;
  Entry* entries;
  double* parts;
  long bytes;

  EmbeddingPlan(const EmbeddingNorms<T>& call, long examples, char* workspace) {
    DeviceArena arena{workspace};
    segments = (call.n_tokens + kSegment - 1) / kSegment;
    strips = (call.width + kStrip - 1) / kStrip;
    slots = power_of_two(call.n_tokens);
    whole = examples >= kEnoughBlocks && call.n_tokens > 0 && strips > 0 && slots <= kSortedInShared;
    if (whole) {
      bytes = 0;
      return;
    }
    order = arena.take<int>(examples * call.n_tokens);
    counts = arena.take<int>(examples);
    runs = arena.take<unsigned char>(examples * call.n_tokens);
    entries = slots <= kSortedInShared ? nullptr : arena.take<Entry>(examples * slots);
    parts = arena.take<double>(examples * segments * strips);
    bytes = arena.used;
  }
};

}  // namespace

template <class T>
long embedding_norms_workspace(const EmbeddingNorms<T>& call, long examples) {
  return EmbeddingPlan<T>(call, examples, nullptr).bytes;
}

template <class T>
cudaError_t embedding_norms(const EmbeddingNorms<T>& call, long examples, char* workspace, cudaStream_t stream) {
  if (examples == 0) return cudaSuccess;
  const EmbeddingPlan<T> plan(call, examples, workspace);
  const std::size_t in_shared = static_cast<std::size_t>(plan.slots) * sizeof(Entry);
  if (plan.whole) {
    const long lanes = kWarp * plan.segments * plan.strips, useful = lanes > plan.slots / 2 ? lanes : plan.slots / 2;
    const auto kernel = &short_examples<T>;
    EXPUNGE_LAUNCH(kernel, grid_of(examples), dim3(static_cast<unsigned>(useful < kRowThreads ? useful : kRowThreads)),
                   in_shared, stream)
    (call, static_cast<int>(plan.slots), static_cast<int>(plan.segments), static_cast<int>(plan.strips));
    return launched();
  }
  Parts parts{};
  parts.parts = plan.parts;
  parts.items = 1;
  parts.per_item = static_cast<int>(plan.segments * plan.strips);
  if (parts.per_item > 0) {
    const long half = plan.slots / 2;
    const unsigned threads = static_cast<unsigned>(half < kWarp ? kWarp : half < kRowThreads ? half : kRowThreads);
    const std::size_t shared = plan.slots <= kSortedInShared ? in_shared : 0;
    EXPUNGE_LAUNCH(sort_tokens, grid_of(examples), dim3(threads), shared, stream)
    (call.tokens, static_cast<int>(call.n_tokens), call.padding_token, static_cast<int>(plan.slots), plan.entries,
     plan.order, plan.runs, plan.counts);
    cudaError_t status = launched();
    if (status != cudaSuccess) return status;
    const auto kernel = &run_squares<T>;
    EXPUNGE_LAUNCH(kernel, dim3(blocks_for(examples * parts.per_item, kRowThreads / kWarp)), dim3(kRowThreads), 0,
                   stream)
    (call, plan.order, plan.runs, plan.counts, static_cast<int>(plan.segments), static_cast<int>(plan.strips), examples,
     plan.parts);
    status = launched();
    if (status != cudaSuccess) return status;
  }
  return launch_finish(parts, examples, norm_result(call.squared), call.out, stream);
}

template long embedding_norms_workspace(const EmbeddingNorms<float>&, long);
template long embedding_norms_workspace(const EmbeddingNorms<double>&, long);
template cudaError_t embedding_norms(const EmbeddingNorms<float>&, long, char*, cudaStream_t);
template cudaError_t embedding_norms(const EmbeddingNorms<double>&, long, char*, cudaStream_t);

}  // namespace expunge::grad_norms::device
