// How calls of gradient-norm kernels are spread over threads, for every way into them: no Python here.
#pragma once

#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#include "common/thread_pool.hpp"
#include "grad_norms/grad_norms.hpp"

namespace expunge::bindings {

constexpr long kMostPixels = 2147483647;  // offsets of convolutions are 32-bit
constexpr double kRangeOperations = 2e6;  // work of one range: about 50 us, so that dispatch costs nothing

// One piece of scratch memory per running range, all allocated before the parallel loop.
class Workspaces {
 public:
  Workspaces(long bytes, int count) {
    for (int i = 0; i < count; ++i) {
      char* piece = static_cast<char*>(std::aligned_alloc(64, static_cast<std::size_t>((bytes + 127) / 64 * 64)));
      if (piece == nullptr) {
        for (char* taken : all_) std::free(taken);
        throw std::bad_alloc();
      }
      all_.push_back(piece);
    }
    free_ = all_;
  }
  Workspaces(const Workspaces&) = delete;
  Workspaces& operator=(const Workspaces&) = delete;
  ~Workspaces() {
    for (char* piece : all_) std::free(piece);
  }
  char* take() {
    for (;;) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!free_.empty()) {
          char* piece = free_.back();
          free_.pop_back();
          return piece;
        }
      }
      std::this_thread::yield();  // a borrowed team may have more threads than were asked for
    }
  }
  void give(char* piece) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(piece);  // capacity is there already: cannot throw
  }

 private:
  std::vector<char*> all_, free_;
  std::mutex mutex_;
};

// Items of one range, in whole multiples of `unit`; never a function of the thread count.
inline long range_length(double operations_per_item, long unit) {
  const double units =
      kRangeOperations / (operations_per_item < 1 ? 1 : operations_per_item) / static_cast<double>(unit);
  return unit * (units < 1 ? 1 : units > 1e9 ? 1000000000 : static_cast<long>(units));
}

// Calls body(begin, end, workspace) for consecutive ranges of [0, items).
template <class Body>
void run_ranges(long bytes, long items, double operations_per_item, int threads, long unit, Body&& body) {
  if (items == 0) return;
  const long grain = range_length(operations_per_item, unit);
  const long tasks = (items + grain - 1) / grain;
  int workers = threads > 0 ? threads : default_threads();
  if (workers > tasks) workers = static_cast<int>(tasks);
  Workspaces workspaces(bytes, workers);
  parallel_ranges(items, grain, workers, [&](long begin, long end) {
    char* workspace = workspaces.take();
    body(begin, end, workspace);
    workspaces.give(workspace);
  });
}

template <class T, template <class> class Kernels>
const Kernels<T>& kernels_of(const grad_norms::Both<Kernels>& table) {
  if constexpr (sizeof(T) == 4)
    return table.f32;
  else
    return table.f64;
}

template <class Call, class = void>
struct has_biases : std::false_type {};
template <class Call>
struct has_biases<Call, std::void_t<decltype(Call::bias_out)>> : std::true_type {};

// Whether every sum of a call is empty: its norms are 0, and lengths that no memory stands behind are not looped over.
template <class T>
bool sums_nothing(const grad_norms::LinearNorms<T>& call) {
  return call.positions == 0 || call.d_out == 0;
}
template <class T>
bool sums_nothing(const grad_norms::LinearDots<T>& call) {
  return call.positions_1 == 0 || call.positions_2 == 0 || call.d_in == 0 || call.d_out == 0;
}
template <class T>
bool sums_nothing(const grad_norms::EmbeddingLinearDots<T>& call) {
  return call.n_tokens == 0 || call.positions == 0 || call.width == 0;
}
template <class T>
bool sums_nothing(const grad_norms::ConvNorms<T>& call) {
  return call.positions == 0 || call.out_channels == 0;
}
template <class T>
bool sums_nothing(const grad_norms::EmbeddingNorms<T>& call) {
  return call.n_tokens == 0 || call.width == 0;
}
template <class T>
bool sums_nothing(const grad_norms::NormLayerNorms<T>& call) {
  return call.positions == 0 || call.width == 0;
}
template <class T>
bool sums_nothing(const grad_norms::ProbeNorms<T>&) {
  return false;  // its outputs are more than norms
}

// Runs a call whose sums are empty, or that has no examples; false if there is more to do.
template <class Call>
bool ran_empty(const Call& call, long items) {
  if (items > 0 && !sums_nothing(call)) return false;
  for (long i = 0; i < items; ++i) call.out[i] = 0.0;
  if constexpr (has_biases<Call>::value)
    for (long i = 0; call.bias_out != nullptr && i < items; ++i) call.bias_out[i] = 0.0;
  return true;
}

// Operations of one example, about.
template <class T>
double operations(const grad_norms::LinearNorms<T>& call) {
  return call.positions == 1 ? double(call.d_in + call.d_out)
                             : double(call.positions) * double(call.d_in) * double(call.d_out) / 8;
}
template <class T>
double operations(const grad_norms::LinearDots<T>& call) {
  return double(call.positions_1 + call.positions_2) * double(call.d_in) * double(call.d_out) / 8;
}
template <class T>
double operations(const grad_norms::EmbeddingLinearDots<T>& call) {
  return double(call.n_tokens) * double(call.positions) * double(call.width) / 8;
}
template <class T>
double operations(const grad_norms::ConvNorms<T>& call) {
  return double(call.positions) * double(call.features) * double(call.out_channels) / 8;
}
template <class T>
double operations(const grad_norms::EmbeddingNorms<T>& call) {
  return double(call.n_tokens) * double(call.width + 32);
}
template <class T>
double operations(const grad_norms::NormLayerNorms<T>& call) {
  return double(call.positions) * double(call.width) * 4;
}
template <class T>
double operations(const grad_norms::ProbeNorms<T>& call) {
  return double(call.d) * double(call.checkpoints * call.classes + 16);
}
template <class T>
double operations(const grad_norms::RecurrentLayer<T>& layer) {
  return double(layer.steps) * double(gates_of(layer.cell) * layer.width) * double(layer.width + 32) / 8;
}
template <class T>
double operations(const grad_norms::RecurrentStates<T>& call) {
  return operations(call.layer);
}
template <class T>
double operations(const grad_norms::RecurrentGrads<T>& call) {
  return operations(call.layer);
}

}  // namespace expunge::bindings
