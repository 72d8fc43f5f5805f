// Recurrent layers on a device, one block a sequence: its threads share the units of every step. Simple rather than
// fast; compiled and emulated only.
#include "grad_norms/recurrent.hpp"

#include "grad_norms/grad_norms.cuh"
#include "grad_norms/operands.cuh"

namespace expunge::grad_norms::device {
namespace {

template <class T>
struct Number {
  typedef T V;
  EXPUNGE_INLINE static T one() { return T(1); }
  EXPUNGE_INLINE static T sigmoid(T x) { return T(1) / (T(1) + ::exp(-x)); }
  EXPUNGE_INLINE static T tanh(T x) { return ::tanh(x); }
  EXPUNGE_INLINE static T ramp(T x) { return x < T(0) ? T(0) : x; }
  EXPUNGE_INLINE static T step(T x) { return x > T(0) ? T(1) : x * T(0); }
};

template <template <class> class Cell, class T>
__global__ void __launch_bounds__(kRowThreads) all_states(RecurrentStates<T> call) {
  typedef Cell<Number<T>> C;
  constexpr int gates = C::gates;
  const RecurrentLayer<T>& layer = call.layer;
  const long width = layer.width, steps = layer.steps, sequence = blockIdx.x;
  for (long u = threadIdx.x; u < width && steps > 0; u += blockDim.x)
    call.before[(sequence * steps + (layer.backwards ? steps - 1 : 0)) * width + u] = call.hidden[sequence * width + u];
  for (long step = 0; step < steps; ++step) {
    const long t = layer.backwards ? steps - 1 - step : step;
    const long place = sequence * steps + t;  // of this step
    const long before = place + (layer.backwards ? 1 : -1), after = place + (layer.backwards ? -1 : 1);
    __syncthreads();  // all of the state before is there
    const T* const state = call.before + place * width;
    for (long u = threadIdx.x; u < width; u += blockDim.x) {
      T* const gate = call.gates + place * gates * width + u;
      T sums[gates], parts[gates];
      for (int g = 0; g < gates; ++g) {
        const long row = g * width + u;
        sums[g] = gate[g * width];
        parts[g] = call.bias != nullptr ? call.bias[row] : T(0);
        for (long k = 0; k < width; ++k) parts[g] += state[k] * layer.weight[row * width + k];
      }
      T kept = T(0);
      if (layer.cells != nullptr) kept = step > 0 ? call.kept[before * width + u] : layer.cells[sequence * width + u];
      const T found = C::forward(sums, parts, state[u], kept);
      for (int g = 0; g < gates; ++g) gate[g * width] = sums[g];
      if (call.kept != nullptr) call.kept[place * width + u] = kept;
      call.outputs[(t * call.sequences + sequence) * width + u] = found;
      if (step + 1 < steps) call.before[after * width + u] = found;
    }
  }
}

template <template <class> class Cell, class T>
__global__ void __launch_bounds__(kRowThreads) all_grads(RecurrentGrads<T> call) {
  typedef Cell<Number<T>> C;
  constexpr int gates = C::gates;
  const RecurrentLayer<T>& layer = call.layer;
  const long width = layer.width, steps = layer.steps, all = gates * width, sequence = blockIdx.x;
  T* const hidden = call.hidden_grads + sequence * width;
  for (long step = steps - 1; step >= 0; --step) {
    const long t = layer.backwards ? steps - 1 - step : step;
    const long place = sequence * steps + t, before = place + (layer.backwards ? 1 : -1);
    for (long u = threadIdx.x; u < width; u += blockDim.x) {
      T gate[gates], grads[gates], state_grads[gates];
      for (int g = 0; g < gates; ++g) gate[g] = call.gates[place * all + g * width + u];
      T cell_before = T(0), cell_grad = T(0);
      const T kept = call.kept != nullptr ? call.kept[place * width + u] : T(0);
      if (layer.cells != nullptr) {
        cell_before = step > 0 ? call.kept[before * width + u] : layer.cells[sequence * width + u];
        cell_grad = call.cell_grads[sequence * width + u];
      }
      const T grad = hidden[u] + call.output_grads[place * width + u];
      const T state = call.before != nullptr ? call.before[place * width + u] : T(0);
      hidden[u] = C::backward(gate, state, cell_before, kept, grad, cell_grad, grads, state_grads);
      if (layer.cells != nullptr) call.cell_grads[sequence * width + u] = cell_grad;
      for (int g = 0; g < gates; ++g) {
        call.gate_grads[place * all + g * width + u] = grads[g];
        if (C::separate) call.state_gate_grads[place * all + g * width + u] = state_grads[g];
      }
    }
    __syncthreads();  // the gradients of all gates of this step are there
    const T* const of_state = (C::separate ? call.state_gate_grads : call.gate_grads) + place * all;
    for (long u = threadIdx.x; u < width; u += blockDim.x) {
      T sum = hidden[u];
      for (long row = 0; row < all; ++row) sum += of_state[row] * layer.weight[row * width + u];
      hidden[u] = sum;
    }
  }
}

}  // namespace

template <class T>
cudaError_t recurrent_states(const RecurrentStates<T>& call, long sequences, cudaStream_t stream) {
  if (sequences == 0 || call.layer.width == 0) return cudaSuccess;
  const auto kernel = call.layer.cell == CellKind::lstm   ? &all_states<LstmCell, T>
                      : call.layer.cell == CellKind::gru  ? &all_states<GruCell, T>
                      : call.layer.cell == CellKind::tanh ? &all_states<TanhCell, T>
                                                          : &all_states<ReluCell, T>;
  EXPUNGE_LAUNCH(kernel, grid_of(sequences), dim3(kRowThreads), 0, stream)(call);
  return launched();
}

template <class T>
cudaError_t recurrent_grads(const RecurrentGrads<T>& call, long sequences, cudaStream_t stream) {
  if (sequences == 0 || call.layer.width == 0) return cudaSuccess;
  const auto kernel = call.layer.cell == CellKind::lstm   ? &all_grads<LstmCell, T>
                      : call.layer.cell == CellKind::gru  ? &all_grads<GruCell, T>
                      : call.layer.cell == CellKind::tanh ? &all_grads<TanhCell, T>
                                                          : &all_grads<ReluCell, T>;
  EXPUNGE_LAUNCH(kernel, grid_of(sequences), dim3(kRowThreads), 0, stream)(call);
  return launched();
}

template cudaError_t recurrent_states(const RecurrentStates<float>&, long, cudaStream_t);
template cudaError_t recurrent_states(const RecurrentStates<double>&, long, cudaStream_t);
template cudaError_t recurrent_grads(const RecurrentGrads<float>&, long, cudaStream_t);
template cudaError_t recurrent_grads(const RecurrentGrads<double>&, long, cudaStream_t);

}  // namespace expunge::grad_norms::device
