// Drives the thread pool from many sides at once; built with -fsanitize=thread by .ci/run. Exit status 0 when every
// index ran exactly once.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "common/thread_pool.hpp"

namespace {

void fail(const char* what) {
  std::fprintf(stderr, "thread pool: %s\n", what);
  std::_Exit(1);
}

// Plain (not atomic) counters: a second visit to an index is a data race the sanitizer sees, and a wrong count besides.
void count_each_index(long tasks, int threads) {
  std::vector<int> visits(static_cast<std::size_t>(tasks), 0);
  expunge::parallel_for(tasks, threads, [&](long index) { ++visits[static_cast<std::size_t>(index)]; });
  for (int count : visits)
    if (count != 1) fail("an index did not run exactly once");
}

void nested(int threads) {
  std::atomic<long> total{0};
  expunge::parallel_for(8, threads, [&](long) {
    expunge::parallel_for(8, threads, [&](long index) { total.fetch_add(index, std::memory_order_relaxed); });
  });
  if (total.load() != 8 * 28) fail("nested calls lost work");
}

void ranges_do_not_depend_on_threads() {
  for (int threads : {1, 2, 3, 7}) {
    std::vector<long> ends(7, -1);
    expunge::parallel_ranges(103, 16, threads, [&](long begin, long end) {
      if (begin % 16 != 0) fail("a range starts off the grain");
      ends[static_cast<std::size_t>(begin / 16)] = end;
    });
    for (long i = 0; i < 7; ++i)
      if (ends[static_cast<std::size_t>(i)] != (i == 6 ? 103 : 16 * (i + 1))) fail("a range ends off the grain");
  }
}

void fork_and_use(bool inside_call) {
  std::atomic<bool> go{false}, stop{false};
  std::thread other([&] {  // holds the pool while the fork happens
    if (!inside_call) return;
    expunge::parallel_for(2, 2, [&](long) {
      go.store(true);
      while (!stop.load()) std::this_thread::yield();
    });
  });
  while (inside_call && !go.load()) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang is a failure, not a wait
    count_each_index(64, 4);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  stop.store(true);
  other.join();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("a forked child hung or failed");
  count_each_index(64, 4);
}

}  // namespace

int main(int argc, char**) {
  for (int round = 0; round < 300; ++round) count_each_index(1 + round % 97, 1 + round % 9);
  ranges_do_not_depend_on_threads();
  nested(4);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([caller] {
      for (int round = 0; round < 200; ++round) count_each_index(1 + round % 31, 2 + caller);
    });
  for (std::thread& caller : callers) caller.join();
  if (argc == 1) {  // any argument: leave forks out (ThreadSanitizer cannot follow a child's new threads)
    fork_and_use(false);
    fork_and_use(true);
  }
  std::puts("thread pool: ok");
}
