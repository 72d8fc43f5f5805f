#include "common/thread_pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace expunge {
namespace {

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
  Pool() : owner_(getpid()) {}

  pid_t owner() const { return owner_; }

  void run(const Job& job, int threads) {
    grow(threads - 1);
    next_.store(0, std::memory_order_relaxed);
    job_ = job;
    wanted_.store(threads - 1, std::memory_order_relaxed);
    pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(job);
    while (pending_.load(std::memory_order_acquire) > 0) relax();
  }

 private:
  static constexpr int kSpins = 4000;  // about 20 us: covers the gap between back-to-back kernel calls

  void grow(int workers) {
    while (static_cast<int>(workers_.size()) < workers) {
      const int rank = static_cast<int>(workers_.size());
      const unsigned long seen = generation_.load(std::memory_order_relaxed);
      workers_.emplace_back([this, rank, seen] { serve(rank, seen); });
      workers_.back().detach();
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
      seen = generation_.load(std::memory_order_acquire);
      if (rank < wanted_.load(std::memory_order_relaxed)) drain(job_);
      pending_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  const pid_t owner_;
  std::vector<std::thread> workers_;
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
std::atomic<long> holder{0};  // pid of the process whose thread is inside run_tasks, 0 when free

Pool& current_pool() {
  Pool* existing = pool.load(std::memory_order_acquire);
  if (existing == nullptr || existing->owner() != getpid()) {  // first use, or a forked child without the workers
    existing = new Pool;
    pool.store(existing, std::memory_order_release);
  }
  return *existing;
}

}  // namespace

int default_threads() {
  static const int count = [] {
    if (const char* text = std::getenv("EXPUNGE_NUM_THREADS")) {
      char* end = nullptr;
      const long value = std::strtol(text, &end, 10);
      if (end != text && *end == '\0' && value >= 1 && value <= 4096) return static_cast<int>(value);
    }
    return available_cores();
  }();
  return count;
}

namespace detail {

void run_tasks(long tasks, int threads, void (*task)(void*, long), void* context) {
  if (tasks <= 0) return;
  if (threads <= 0) threads = default_threads();
  if (threads > tasks) threads = static_cast<int>(tasks);
  const long pid = static_cast<long>(getpid());
  long held = holder.load(std::memory_order_relaxed);
  const bool serial = threads == 1 || held == pid || !holder.compare_exchange_strong(held, pid, std::memory_order_acquire);
  if (serial) {
    for (long index = 0; index < tasks; ++index) task(context, index);
    return;
  }
  current_pool().run(Job{task, context, tasks}, threads);
  holder.store(0, std::memory_order_release);
}

}  // namespace detail
}  // namespace expunge
