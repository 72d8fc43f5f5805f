#include "common/emulator/runtime.hpp"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <mutex>
#include <vector>

#include "common/emulator/fiber.hpp"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace expunge::emulator {
namespace {

constexpr unsigned kMostThreads = 1024;
constexpr int kGarbage = 0xff;  // NaN as a float or double, -1 as an integer

enum class State { ready, at_barrier, at_warp, done };

struct Copy {
  void* to;
  const void* from;
  size_t width, bytes, group;
};

struct Thread {
  Fiber fiber;
  std::vector<Copy> copies;  // under way
  size_t group = 0;          // that its next copy belongs to
  State state = State::done;
  uint3 index = {};
  int lane = 0;
  // What it waits for.
  const char* file = "";
  int line = 0;
  WarpOperation operation = WarpOperation::sync;
  unsigned mask = 0;
  uint64_t value = 0, result = 0;
  int source = 0;
};

struct Shared {
  const void* key;
  size_t bytes;
  void* memory;
};

struct Allowed {
  const void* kernel;
  size_t bytes;
};

// One launch at a time: all of this is the launch in progress. What has a destructor is never destroyed: a daemon
// thread may be inside a kernel when the process ends.
std::mutex& busy = *new std::mutex;
std::vector<Thread>& threads = *new std::vector<Thread>;
unsigned count = 0;
Thread* current = nullptr;
const char* kernel = "";
void (*thread_body)(const void*) = nullptr;
const void* thread_context = nullptr;
void* dynamic = nullptr;
std::vector<Shared>& statics = *new std::vector<Shared>;
std::vector<Allowed>& allowed = *new std::vector<Allowed>;
bool failed = false;

// The last error and its text belong to the calling thread, as in CUDA.
thread_local cudaError_t last_error = cudaSuccess;
thread_local char last_text[512] = "";

__attribute__((format(printf, 2, 3))) void fail(cudaError_t error, const char* format, ...) {
  if (last_error != cudaSuccess) return;  // the first one counts
  failed = true;
  last_error = error;
  const int used = snprintf(last_text, sizeof last_text, "kernel %s: ", kernel);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_text + used, sizeof last_text - static_cast<size_t>(used), format, arguments);
  va_end(arguments);
}

const char* short_name(const char* file) {
  const char* slash = strrchr(file, '/');
  return slash ? slash + 1 : file;
}

unsigned number(const Thread& thread) { return static_cast<unsigned>(&thread - threads.data()); }

void wait(State state, const char* file, int line) {
  current->state = state;
  current->file = file;
  current->line = line;
  leave(&current->fiber);
}

// Not part of thread_entry(), which never returns: AddressSanitizer would keep its frame for the next thread.
__attribute__((noinline)) void require_landed() {
  if (!current->copies.empty())
    fail(cudaErrorLaunchFailure, "thread %u ends before its copies have landed", number(*current));
}

void thread_entry() {
  started(&current->fiber);
  thread_body(thread_context);
  require_landed();
  current->state = State::done;
  leave_for_good(&current->fiber);
}

// Completes the warp operations whose lanes have all arrived; false if there were none.
bool resolve_warp(unsigned first, unsigned lanes) {
  bool any = false;
  for (unsigned i = 0; i < lanes; ++i) {
    const Thread& one = threads[first + i];
    if (one.state != State::at_warp) continue;
    bool complete = true;
    for (unsigned j = 0; j < 32 && complete; ++j) {
      if (!(one.mask >> j & 1u)) continue;
      if (j >= lanes) {
        fail(cudaErrorLaunchFailure, "mask 0x%08x at %s:%d names lane %u of a warp of %u threads", one.mask,
             short_name(one.file), one.line, j, lanes);
        return false;
      }
      const Thread& other = threads[first + j];
      complete = other.state == State::at_warp && other.mask == one.mask && other.line == one.line &&
                 other.file == one.file && other.operation == one.operation;
    }
    if (!complete) continue;
    any = true;
    const unsigned mask = one.mask;
    uint64_t votes = 0;
    for (unsigned j = 0; j < lanes; ++j)
      if (mask >> j & 1u) votes |= (threads[first + j].value & 1u) << j;
    for (unsigned j = 0; j < lanes; ++j) {
      if (!(mask >> j & 1u)) continue;
      Thread& lane = threads[first + j];
      if (lane.operation == WarpOperation::shuffle) {
        const unsigned source = static_cast<unsigned>(lane.source);
        if (source >= 32 || !(mask >> source & 1u)) {
          fail(cudaErrorLaunchFailure, "the shuffle at %s:%d reads lane %d, which mask 0x%08x does not name",
               short_name(lane.file), lane.line, lane.source, mask);
          return false;
        }
        lane.result = threads[first + source].value;
      } else {
        lane.result = votes;
      }
    }
    for (unsigned j = 0; j < lanes; ++j)
      if (mask >> j & 1u) threads[first + j].state = State::ready;
  }
  return any;
}

void run_warp(unsigned first, unsigned lanes) {
  do {
    for (unsigned i = 0; i < lanes && !failed; ++i) {
      Thread& thread = threads[first + i];
      if (thread.state != State::ready) continue;
      current = &thread;
      threadIdx = thread.index;
      enter(&thread.fiber);
    }
  } while (!failed && resolve_warp(first, lanes));
}

void describe(const Thread& thread, char* text, size_t size) {
  const char* what = thread.state == State::at_barrier ? "__syncthreads" : "a warp operation";
  if (thread.state == State::done)
    snprintf(text, size, "thread %u has returned", number(thread));
  else
    snprintf(text, size, "thread %u waits at %s, %s:%d", number(thread), what, short_name(thread.file), thread.line);
}

// All threads wait or are done. True if the block goes on; otherwise it is finished or has failed.
bool pass_barrier() {
  const Thread& first = threads[0];
  for (unsigned i = 1; i < count; ++i) {
    const Thread& other = threads[i];
    const bool same = other.state == first.state &&
                      (first.state != State::at_barrier || (other.line == first.line && other.file == first.file));
    if (same && first.state != State::at_warp) continue;
    char one[160], two[160];
    describe(first, one, sizeof one);
    describe(other, two, sizeof two);
    fail(cudaErrorLaunchFailure, "the threads of block (%u, %u, %u) part: %s, %s", blockIdx.x, blockIdx.y, blockIdx.z,
         one, two);
    return false;
  }
  if (first.state == State::at_warp) {  // a block of one thread
    fail(cudaErrorLaunchFailure, "thread 0 waits at %s:%d for lanes that do not exist", short_name(first.file),
         first.line);
    return false;
  }
  if (first.state == State::done) return false;
  for (unsigned i = 0; i < count; ++i) threads[i].state = State::ready;
  return true;
}

void run_block() {
  for (const Shared& one : statics) memset(one.memory, kGarbage, one.bytes);
  for (unsigned i = 0; i < count; ++i) {
    threads[i].state = State::ready;
    threads[i].copies.clear();
    threads[i].group = 0;
    prepare(&threads[i].fiber, &thread_entry);
  }
  do {
    for (unsigned first = 0; first < count && !failed; first += 32)
      run_warp(first, count - first < 32 ? count - first : 32);
  } while (!failed && pass_barrier());
}

bool make_threads() {
  if (threads.size() < kMostThreads) threads.resize(kMostThreads);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = threads[i];
    if (thread.fiber.stack == nullptr && !allocate_stack(&thread.fiber)) return false;
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    thread.lane = static_cast<int>(i % 32);
  }
  return true;
}

}  // namespace

cudaError_t allow_shared(const void* function, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kMostSharedBytes) {
    last_error = cudaErrorInvalidValue;
    snprintf(last_text, sizeof last_text, "%d bytes of shared memory asked for, a block has %zu", bytes,
             kMostSharedBytes);
    return last_error;
  }
  const std::lock_guard<std::mutex> lock(busy);
  for (Allowed& one : allowed)
    if (one.kernel == function) return one.bytes = static_cast<size_t>(bytes), cudaSuccess;
  allowed.push_back({function, static_cast<size_t>(bytes)});
  return cudaSuccess;
}

void run(const char* kernel_name, const void* function, dim3 grid, dim3 block, size_t shared_bytes,
         void (*body)(const void*), const void* context) {
  const std::lock_guard<std::mutex> lock(busy);
  if (last_error != cudaSuccess) return;
  kernel = kernel_name;
  failed = false;
  size_t limit = kSharedBytes;
  for (const Allowed& one : allowed)
    if (one.kernel == function && one.bytes > limit) limit = one.bytes;
  const uint64_t block_size = uint64_t{block.x} * block.y * block.z;
  if (block_size == 0 || block_size > kMostThreads || block.z > 64)
    return fail(cudaErrorInvalidConfiguration, "blocks must have 1 to 1024 threads, got (%u, %u, %u)", block.x, block.y,
                block.z);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return fail(cudaErrorInvalidConfiguration, "a grid must be within (2^31 - 1, 65535, 65535), got (%u, %u, %u)",
                grid.x, grid.y, grid.z);
  if (shared_bytes > limit)
    return fail(cudaErrorInvalidConfiguration, "%zu bytes of dynamic shared memory, %zu are allowed", shared_bytes,
                limit);
  blockDim = block;
  gridDim = grid;
  count = static_cast<unsigned>(block_size);
  if (!make_threads()) return fail(cudaErrorMemoryAllocation, "no memory for the stacks of %u threads", count);
  thread_body = body;
  thread_context = context;
  for (unsigned z = 0; z < grid.z && !failed; ++z)
    for (unsigned y = 0; y < grid.y && !failed; ++y)
      for (unsigned x = 0; x < grid.x && !failed; ++x) {
        blockIdx = {x, y, z};
        // A block of its own size, so that AddressSanitizer knows where it ends.
        if (posix_memalign(&dynamic, 128, shared_bytes + (shared_bytes == 0)) != 0)
          return fail(cudaErrorMemoryAllocation, "no memory for %zu bytes", shared_bytes);
        memset(dynamic, kGarbage, shared_bytes);
        run_block();
        free(dynamic);
      }
  for (const Shared& one : statics) free(one.memory);
  statics.clear();
}

void* dynamic_shared() { return dynamic; }

void* block_shared_bytes(const void* key, size_t bytes) {
  for (const Shared& one : statics)
    if (one.key == key) return one.memory;
  void* memory = malloc(bytes);
  if (memory == nullptr) abort();
  memset(memory, kGarbage, bytes);
  statics.push_back({key, bytes, memory});
  return memory;
}

void block_barrier(const char* file, int line) { wait(State::at_barrier, file, line); }

uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int source, const char* file,
                        int line) {
  if (!(mask >> current->lane & 1u)) {
    fail(cudaErrorLaunchFailure, "lane %d takes part in the warp operation at %s:%d, but mask 0x%08x does not name it",
         current->lane, short_name(file), line, mask);
    wait(State::at_warp, file, line);  // never entered again
  }
  current->operation = operation;
  current->mask = mask;
  current->value = value;
  current->source = source;
  wait(State::at_warp, file, line);
  return current->result;
}

int lane_number() { return current->lane; }

void async_copy(void* to, const void* from, size_t width, size_t bytes) {
  const auto address = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  if (address(to) % width != 0 || (bytes > 0 && address(from) % width != 0) || bytes > width) {
    fail(cudaErrorLaunchFailure, "thread %u copies %zu of %zu bytes from or to memory that is not aligned for it",
         number(*current), bytes, width);
    return;
  }
  memset(to, kGarbage, width);
  current->copies.push_back({to, from, width, bytes, current->group});
}

void async_commit() { ++current->group; }

void async_wait(size_t groups_left) {
  std::vector<Copy>& copies = current->copies;
  const size_t landed = current->group > groups_left ? current->group - groups_left : 0;
  size_t kept = 0;
  for (const Copy& one : copies) {
    if (one.group >= landed) {
      copies[kept++] = one;
      continue;
    }
    if (one.bytes > 0) memcpy(one.to, one.from, one.bytes);
    memset(static_cast<char*>(one.to) + one.bytes, 0, one.width - one.bytes);
  }
  copies.resize(kept);
}

}  // namespace expunge::emulator

cudaError_t cudaGetLastError() {
  const cudaError_t error = expunge::emulator::last_error;
  expunge::emulator::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return expunge::emulator::last_error; }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : expunge::emulator::last_text;
}
