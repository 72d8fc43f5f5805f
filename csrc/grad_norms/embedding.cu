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

// order[example, 0..counts[example]) = positions sorted by token, padding left out; runs[...] says where a run begins.
// One block an example, a bitonic network over `slots` entries in shared memory or, for long examples, in `entries`.
__global__ void __launch_bounds__(kRowThreads) sort_tokens(const long* tokens, int n_tokens, long padding_token,
                                                           int slots, Entry* entries, int* order, unsigned char* runs,
                                                           int* counts) {
  EXPUNGE_DYNAMIC_SHARED(Entry, in_shared);
  constexpr long kLast = 0x7fffffffffffffffL;
  const long example = blockIdx.x;
  Entry* const slot = entries == nullptr ? in_shared : entries + example * slots;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int t = thread; t < slots; t += threads) {
    const long token = t < n_tokens ? tokens[example * n_tokens + t] : padding_token;
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
  for (int t = thread; t < n_tokens; t += threads) {
    const bool kept = slot[t].position >= 0;
    order[example * n_tokens + t] = slot[t].position;
    runs[example * n_tokens + t] = kept && (t == 0 || slot[t].token != slot[t - 1].token) ? 1 : 0;
    // Kept entries come first: the last of them says how many there are. A negative token is no row of a table.
    if (kept && (t + 1 == n_tokens || slot[t + 1].position < 0)) counts[example] = slot[0].token < 0 ? -1 : t + 1;
  }
  if (thread == 0 && (n_tokens == 0 || slot[0].position < 0)) counts[example] = 0;
}

// parts[example, segment, strip] = squares of the runs that begin in the segment, over one strip of columns.
template <class T>
__global__ void __launch_bounds__(kRowThreads) run_squares(EmbeddingNorms<T> call, const int* order,
                                                           const unsigned char* runs, const int* counts, int segments,
                                                           int strips, long examples, double* parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long work = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (work >= examples * segments * strips) return;
  const int strip = static_cast<int>(work % strips), segment = static_cast<int>(work / strips % segments);
  const long example = work / strips / segments;
  const int count = counts[example], n_tokens = static_cast<int>(call.n_tokens);
  double squares = count < 0 ? __builtin_nan("") : 0.0;
  const int end = (segment + 1) * kSegment < count ? (segment + 1) * kSegment : count;
  const int* places = order + example * call.n_tokens;
  const unsigned char* begins = runs + example * call.n_tokens;
  const AcrossRows<T> grads(call.output_grads + example * call.n_tokens * call.width, call.width, n_tokens,
                            static_cast<int>(call.width));
  const int column = strip * kStrip + lane * 4;
  double sums[4] = {};
  int t = segment * kSegment;
  while (t < end && begins[t] == 0) ++t;  // the rest of a run that an earlier warp takes
  if (t < end)
    for (; t < count; ++t) {
      if (begins[t] != 0) {
        EXPUNGE_UNROLL(16)
        for (int i = 0; i < 4; ++i) {
          squares += sums[i] * sums[i];
          sums[i] = 0;
        }
        if (t >= end) break;
      }
      double grad[4];
      grads.load(places[t], column, grad);
      EXPUNGE_UNROLL(16)
      for (int i = 0; i < 4; ++i) sums[i] += grad[i];
    }
  EXPUNGE_UNROLL(16)
  for (int i = 0; i < 4; ++i) squares += sums[i] * sums[i];
  squares = lanes_sum(squares);
  if (lane == 0) parts[work] = squares;
}

template <class T>
struct EmbeddingPlan {
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
  Parts parts{};
  parts.parts = plan.parts;
  parts.items = 1;
  parts.per_item = static_cast<int>(plan.segments * plan.strips);
  if (parts.per_item > 0) {
    const long half = plan.slots / 2;
    const unsigned threads = static_cast<unsigned>(half < kWarp ? kWarp : half < kRowThreads ? half : kRowThreads);
    const std::size_t shared =
        plan.slots <= kSortedInShared ? static_cast<std::size_t>(plan.slots) * sizeof(Entry) : 0;
    EXPUNGE_LAUNCH(sort_tokens, dim3(static_cast<unsigned>(examples)), dim3(threads), shared, stream)
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
