// One pool of spin-then-park workers for the process. Survives fork (a child gets a fresh pool).
#pragma once

#include <type_traits>

namespace expunge {

// Threads used when a call passes threads <= 0: EXPUNGE_NUM_THREADS, or the cores this process may run on.
// Throws std::runtime_error on a value that is not a number of threads.
int default_threads();

// Starts `body` on `threads` threads that another library keeps, and waits for all: GOMP_parallel of an OpenMP library.
using ThreadTeam = void (*)(void (*body)(void* context), void* context, unsigned threads, unsigned flags);

// Parallel calls of the calling thread run on `team` from now on, on the pool if it is null; returns what was set.
// A caller between two regions of that library would else fight for the cores with its threads, which still spin.
ThreadTeam exchange_thread_team(ThreadTeam team);

namespace detail {
void run_tasks(long tasks, int threads, void (*task)(void* context, long index), void* context);
}

// Calls body(index) once for every index in [0, tasks), on at most `threads` threads (<= 0: default_threads()).
// body must not throw, and runs in IEEE arithmetic whatever the mode of the calling thread. Indices are handed out
// dynamically, so results may not depend on which thread runs which. A call from inside a running body, or while
// another Python thread holds the pool, runs serially.
template <class Body>
void parallel_for(long tasks, int threads, Body&& body) {
  using Plain = typename std::remove_reference<Body>::type;
  detail::run_tasks(
      tasks, threads, [](void* context, long index) { (*static_cast<Plain*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Splits [0, n) into consecutive ranges of `grain` items (boundaries never depend on the thread count) and calls
// body(begin, end) for each.
template <class Body>
void parallel_ranges(long n, long grain, int threads, Body&& body) {
  const long tasks = (n + grain - 1) / grain;
  parallel_for(tasks, threads, [&](long index) {
    const long begin = index * grain;
    const long end = begin + grain < n ? begin + grain : n;
    body(begin, end);
  });
}

}  // namespace expunge
