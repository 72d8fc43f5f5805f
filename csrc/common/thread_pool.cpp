#include "common/thread_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "common/float_mode.hpp"

namespace expunge {
namespace {

constexpr int kSpins = 4000;       // about 20 us: covers the gap between back-to-back kernel calls
constexpr int kMaxThreads = 4096;  // a larger request is a mistake, not a machine

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return count;
  }
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

struct Job {
  void (*task)(void*, long) = nullptr;
  void* context = nullptr;
  long tasks = 0;
};

class Pool {
 public:
  // One caller at a time (see `busy`), on at most `threads` threads including the caller's.
  void run(const Job& job, int threads) {
    grow(threads - 1);
    next_.store(0, std::memory_order_relaxed);
    job_ = job;
    wanted_.store(threads - 1, std::memory_order_relaxed);
    pending_.store(workers_, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(job);
    // Every worker has to have left this job before the next one may overwrite it.
    for (int spins = 0; pending_.load(std::memory_order_acquire) > 0; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        std::this_thread::yield();  // more threads than cores: let the others finish
      }
    }
  }

 private:
  void grow(int workers) {
    while (workers_ < workers) {
      const int rank = workers_;
      const unsigned long seen = generation_.load(std::memory_order_relaxed);
      try {
        std::thread([this, rank, seen] { serve(rank, seen); }).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had: the job runs on those there are
      }
      ++workers_;
    }
  }

  void drain(const Job& job) {
    for (;;) {
      const long index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= job.tasks) return;
      job.task(job.context, index);
    }
  }

  void serve(int rank, unsigned long seen) {
    set_float_mode(kIeeeMode);  // a thread starts in the mode of whoever started it
    for (;;) {
      int spins = 0;
      while (generation_.load(std::memory_order_acquire) == seen) {
        if (++spins < kSpins) {
          relax();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      ++seen;  // never more than one behind: run() waits for every worker
      if (rank < wanted_.load(std::memory_order_relaxed)) drain(job_);
      pending_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  int workers_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned long> generation_{0};
  std::atomic<long> next_{0};
  std::atomic<int> wanted_{0};
  std::atomic<int> pending_{0};
  Job job_;
};

// Never destroyed: its detached workers may outlive static destruction.
std::atomic<Pool*> pool{nullptr};
std::atomic<bool> busy{false};

thread_local ThreadTeam borrowed_team = nullptr;

// The same hand-out of indices on threads that are not the pool's.
struct TeamJob {
  Job job;
  std::atomic<long> next{0};
  static void drain(void* context) {
    const IeeeArithmetic ieee;
    TeamJob& self = *static_cast<TeamJob*>(context);
    for (;;) {
      const long index = self.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= self.job.tasks) return;
      self.job.task(self.job.context, index);
    }
  }
};

// A child has the memory of its parent's pool but none of its workers. Process numbers could not tell the two apart
// (a child in a new namespace may have its parent's), so fork itself says it. The old pool is left behind.
void forget_pool_in_child() {
  pool.store(nullptr, std::memory_order_relaxed);
  busy.store(false, std::memory_order_relaxed);
}

Pool& current_pool() {
  Pool* existing = pool.load(std::memory_order_acquire);
  if (existing == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    (void)registered;
    existing = new Pool;
    pool.store(existing, std::memory_order_release);
  }
  return *existing;
}

int read_default_threads() {
  const char* text = std::getenv("EXPUNGE_NUM_THREADS");
  if (text == nullptr || *text == '\0') return available_cores();
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || !(value >= 1 && value <= kMaxThreads))
    throw std::runtime_error("EXPUNGE_NUM_THREADS must be an integer from 1 to " + std::to_string(kMaxThreads) +
                             ", got '" + text + "'");
  return static_cast<int>(value);
}

}  // namespace

int default_threads() {
  static const int count = read_default_threads();
  return count;
}

ThreadTeam exchange_thread_team(ThreadTeam team) {
  const ThreadTeam before = borrowed_team;
  borrowed_team = team;
  return before;
}

namespace detail {

void run_tasks(long tasks, int threads, void (*task)(void*, long), void* context) {
  if (tasks <= 0) return;
  const IeeeArithmetic ieee;
  if (threads <= 0) threads = default_threads();
  if (threads > kMaxThreads) threads = kMaxThreads;
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads > 1 && borrowed_team != nullptr) {
    TeamJob shared{Job{task, context, tasks}};
    borrowed_team(&TeamJob::drain, &shared, static_cast<unsigned>(threads), 0);
    return;
  }
  // exchange comes last: only a caller that got false may clear it.
  if (threads == 1 || busy.exchange(true, std::memory_order_acquire)) {
    for (long index = 0; index < tasks; ++index) task(context, index);
    return;
  }
  current_pool().run(Job{task, context, tasks}, threads);
  busy.store(false, std::memory_order_release);
}

}  // namespace detail
}  // namespace expunge
