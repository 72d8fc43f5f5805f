// Python's lock, let go while a kernel runs.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace expunge::bindings {

// Other Python threads run for as long as this lives.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() { take_back(); }

 private:
  // Before 3.14, Python ends a daemon thread that asks for the lock of an interpreter that has shut down, by unwinding
  // it: past a destructor, that aborts the process. The thread waits for the end of the process instead, as in 3.14.
  void take_back() noexcept {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

  PyThreadState* state_;
};

}  // namespace expunge::bindings
