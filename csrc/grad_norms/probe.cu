// Linear probes: loss, residual and norm from the logits that the caller's matrix product left in memory, one warp a
// record; the record's own norm is read in the same pass.
#include "grad_norms/grad_norms.cuh"
#include "grad_norms/reductions.cuh"

namespace expunge::grad_norms::device {
namespace {

// exp of x <= 0, down to the smallest normal float64: with float32 logits the mantissa needs no more than float32.
template <class T>
__device__ __forceinline__ double exp_nonpositive(double x);
template <>
__device__ __forceinline__ double exp_nonpositive<double>(double x) {
  return exp(x);
}
template <>
__device__ __forceinline__ double exp_nonpositive<float>(double x) {
  if (!(x >= -708.0)) return x < -708.0 ? 0.0 : x;
  const double n = rint(x * 1.4426950408889634);
  const float r = static_cast<float>(fma(n, -6.93147180369123816490e-01, x) - n * 1.90821492927058770002e-10);
  const long long scale = (static_cast<long long>(n) + 1023) << 52;
  return static_cast<double>(expf(r)) * __longlong_as_double(scale);
}

// Of aligned groups of `width` lanes.
__device__ __forceinline__ double lanes_max(double x, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    const double other = __shfl_xor_sync(kWholeWarp, x, offset);
    x = other > x ? other : x;
  }
  return x;
}

template <class T>
struct ProbeCall {
  const T *x, *weights, *logits;
  const double* weight_squares;
  const long* labels;
  const T* targets;
  const double* checkpoint_weights;
  long records;
  int d, classes, checkpoints, lanes;  // lanes that share the classes of one checkpoint
  Loss loss;
  double alpha;
  bool squared;
  double* out;
};

// What the norm needs of the residual r of a record: |r|, sum_c r_c z_c, and a sum that is NaN if a logit is not
// finite.
struct Residual {
  double norm, along, check;
};

// p_c for c != y keep their digits however small they are, and 1 - p_y is their sum.
template <class T>
__device__ __forceinline__ Residual softmax_residual(const T* logits, int classes, int lane, int lanes, long label) {
  const double own = static_cast<double>(logits[label]);
  double top = -__builtin_inf(), check = 0;
  for (int c = lane; c < classes; c += lanes) {
    const double z = static_cast<double>(logits[c]);
    check += z * 0.0;
    if (c != label && z > top) top = z;
  }
  top = lanes_max(top, lanes);
  double total = 0, squares = 0, along = 0;
  for (int c = lane; c < classes; c += lanes) {
    if (c == label) continue;
    const double z = static_cast<double>(logits[c]);
    const double e = exp_nonpositive<T>(z - top);
    total += e;
    squares += e * e;
    along += e * (z - own);
  }
  total = lanes_sum(total, lanes);
  squares = lanes_sum(squares, lanes);
  along = lanes_sum(along, lanes);
  check = lanes_sum(check, lanes);
  // p_c = e_c * factor, with the larger of p_y and max p_c as the unit.
  const double gap = own - top;
  const bool sure = gap > 0;
  const double small = exp_nonpositive<T>(sure ? -gap : gap);
  const double factor = (sure ? small : 1.0) / (sure ? small * total + 1.0 : total + small);
  return {factor * sqrt(squares + total * total), factor * along, check};
}

__device__ __forceinline__ float lanes_sum_float(float x, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

// exp(z - top) for z <= top: the digits that the difference loses come back to first order.
__device__ __forceinline__ float exp_difference(float z, float top) {
  const float high = __fadd_rn(z, -top);
  if (!(high > -104.0f)) return high == high ? 0.0f : high;
  const float back = __fadd_rn(high, -z);
  const float low = __fadd_rn(__fadd_rn(z, -__fadd_rn(high, -back)), -__fadd_rn(top, back));
  const float e = expf(high);
  return e + e * low;
}

// The norm alone, with sums in float32: terms are at most 1 and one of them is 1, so what underflows is nothing beside
// it, and what makes a norm small is one factor in float64. The norm errs by at most (C / lanes + 16) 2^-24 of itself:
// a rounding for each sum, two for each exp, and those of the root and of the quotient.
__device__ __forceinline__ Residual softmax_norm(const float* logits, int classes, int lane, int lanes, long label) {
  const float own = logits[label];
  float top = -__builtin_inff(), check = 0;
  for (int c = lane; c < classes; c += lanes) {
    const float z = logits[c];
    check += z * 0.0f;
    if (c != label && z > top) top = z;
  }
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, top, offset);
    top = other > top ? other : top;
  }
  float total = 0, squares = 0;
  for (int c = lane; c < classes; c += lanes) {
    if (c == label) continue;
    const float e = exp_difference(logits[c], top);
    total += e;
    squares += e * e;
  }
  total = lanes_sum_float(total, lanes);
  squares = lanes_sum_float(squares, lanes);
  check = lanes_sum_float(check, lanes);
  const double gap = static_cast<double>(own) - static_cast<double>(top);
  const double small = exp_nonpositive<float>(gap > 0 ? -gap : gap);
  const float share = static_cast<float>(small);
  const float length = sqrtf(squares + total * total);
  const double norm = gap > 0 ? small * static_cast<double>(length / (share * total + 1.0f))
                              : static_cast<double>(length / (total + share));
  return {norm, 0.0, static_cast<double>(check)};
}

// In float32 where the logits are and nothing may cancel against the norm.
template <class T>
__device__ __forceinline__ Residual softmax_of(const ProbeCall<T>& call, const T* logits, int lane, long label) {
  if constexpr (sizeof(T) == 4) {
    if (call.alpha == 0) return softmax_norm(logits, call.classes, lane, call.lanes, label);
  }
  return softmax_residual(logits, call.classes, lane, call.lanes, label);
}

// |sigmoid(z) - y| = sigmoid(s), s = z or -z: no 1 - p.
template <class T>
__device__ __forceinline__ Residual logistic_residual(const T* logits, long label) {
  const double z = static_cast<double>(logits[0]);
  const double s = label != 0 ? -z : z;
  const double small = exp_nonpositive<T>(s > 0 ? -s : s);
  const double norm = (s > 0 ? 1.0 : small) / (small + 1.0);
  return {norm, (label != 0 ? -norm : norm) * z, z * 0.0};
}

template <class T>
__device__ __forceinline__ Residual squared_residual(const T* logits, const T* targets, int classes, int lane,
                                                     int lanes) {
  double squares = 0, along = 0;
  for (int c = lane; c < classes; c += lanes) {
    const double z = static_cast<double>(logits[c]), r = z - static_cast<double>(targets[c]);
    squares += r * r;
    along += r * z;
  }
  return {sqrt(lanes_sum(squares, lanes)), lanes_sum(along, lanes), 0.0};
}

// ||x r^T + alpha W||^2 entry by entry, by a whole warp: where its expansion cancels.
template <class T>
__device__ double direct_squares(const ProbeCall<T>& call, long record, int checkpoint, int lane) {
  const T* logits = call.logits + (record * call.checkpoints + checkpoint) * call.classes;
  const T* x = call.x + record * call.d;
  const T* weights = call.weights + static_cast<long>(checkpoint) * call.d * call.classes;
  double top = -__builtin_inf(), total = 0, others = 0;
  long label = 0;
  if (call.loss != Loss::squared) label = call.labels[record];
  if (call.loss == Loss::softmax) {
    for (int c = 0; c < call.classes; ++c) top = fmax(top, static_cast<double>(logits[c]));
    for (int c = 0; c < call.classes; ++c) {
      const double e = exp_nonpositive<T>(static_cast<double>(logits[c]) - top);
      total += e;
      if (c != label) others += e;
    }
  }
  double squares = 0;
  for (int c = 0; c < call.classes; ++c) {
    double r;
    const double z = static_cast<double>(logits[c]);
    if (call.loss == Loss::softmax) {
      r = c == label ? -others / total : exp_nonpositive<T>(z - top) / total;
    } else if (call.loss == Loss::logistic) {
      const Residual residual = logistic_residual(logits, label);
      r = label != 0 ? -residual.norm : residual.norm;
    } else {
      r = z - static_cast<double>(call.targets[record * call.classes + c]);
    }
    for (int k = lane; k < call.d; k += kWarp) {
      const double entry = static_cast<double>(x[k]) * r +
                           call.alpha * static_cast<double>(weights[static_cast<long>(k) * call.classes + c]);
      squares += entry * entry;
    }
  }
  return lanes_sum(squares);
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) probe_records(ProbeCall<T> call) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const long record = (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (record >= call.records) return;
  const double size = sqrt(lanes_sum(row_squares(call.x + record * call.d, call.d, lane, kWarp)));
  long label = 0;
  bool known = true;
  if (call.loss != Loss::squared) {
    label = call.labels[record];
    known = label >= 0 && label < (call.loss == Loss::logistic ? 2 : call.classes);
    if (!known) label = 0;
  }
  const int own_lane = lane % call.lanes, at_once = kWarp / call.lanes;
  double weighted = 0;
  for (int first = 0; first < call.checkpoints; first += at_once) {
    const int checkpoint = first + lane / call.lanes;
    const bool meant = checkpoint < call.checkpoints;
    const T* logits = call.logits + (record * call.checkpoints + (meant ? checkpoint : 0)) * call.classes;
    Residual residual;
    if (call.loss == Loss::softmax)
      residual = softmax_of(call, logits, own_lane, label);
    else if (call.loss == Loss::logistic)
      residual = logistic_residual(logits, label);
    else
      residual = squared_residual(logits, call.targets + record * call.classes, call.classes, own_lane, call.lanes);
    const double norm = known ? residual.norm + residual.check : __builtin_nan("");
    double value = size * norm;
    if (call.alpha != 0) {
      const double decay = call.alpha * call.alpha * call.weight_squares[meant ? checkpoint : 0];
      const double product = value * value;
      double squares = product + 2 * call.alpha * residual.along + decay;
      // One checkpoint after another, each by the whole warp.
      unsigned cancelled = __ballot_sync(kWholeWarp, meant && own_lane == 0 && squares < 0.01 * (product + decay));
      while (cancelled != 0) {
        const int group = (__ffs(static_cast<int>(cancelled)) - 1) / call.lanes;
        const double direct = direct_squares(call, record, first + group, lane);
        if (lane / call.lanes == group) squares = direct;
        cancelled &= cancelled - 1;
      }
      value = finish(squares, false);
    }
    if (!meant || own_lane != 0) continue;
    if (call.checkpoint_weights != nullptr)
      weighted += call.checkpoint_weights[checkpoint] * (value * value);
    else
      call.out[record * call.checkpoints + checkpoint] = call.squared ? value * value : value;
  }
  if (call.checkpoint_weights == nullptr) return;
  weighted = lanes_sum(weighted);
  if (lane == 0) call.out[record] = weighted;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) squares_of_checkpoints(const T* weights, long size, double* squares) {
  EXPUNGE_SHARED(double, scratch, [kRowThreads / kWarp]);
  const double total = block_sum(
      row_squares(weights + static_cast<long>(blockIdx.x) * size, size, static_cast<int>(threadIdx.x), kRowThreads),
      scratch);
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

}  // namespace

template <class T>
long probe_norms_workspace(const ProbeNorms<T>& call, long) {
  DeviceArena arena{nullptr};
  arena.take<double>(call.checkpoints);
  return arena.used;
}

template <class T>
cudaError_t probe_norms(const ProbeNorms<T>& call, const T* logits, long records, char* workspace,
                        cudaStream_t stream) {
  if (records == 0 || (call.checkpoints == 0 && call.checkpoint_weights == nullptr)) return cudaSuccess;
  DeviceArena arena{workspace};
  double* weight_squares = arena.take<double>(call.checkpoints);
  if (call.alpha != 0 && call.checkpoints > 0) {
    const auto kernel = &squares_of_checkpoints<T>;
    EXPUNGE_LAUNCH(kernel, grid_of(call.checkpoints), dim3(kRowThreads), 0, stream)
    (call.weights, call.d * call.classes, weight_squares);
    const cudaError_t status = launched();
    if (status != cudaSuccess) return status;
  }
  int lanes = 1;
  while (lanes < kWarp && lanes < call.classes) lanes *= 2;
  const ProbeCall<T> given{call.x,
                           call.weights,
                           logits,
                           weight_squares,
                           call.labels,
                           call.targets,
                           call.checkpoint_weights,
                           records,
                           static_cast<int>(call.d),
                           static_cast<int>(call.classes),
                           static_cast<int>(call.checkpoints),
                           lanes,
                           call.loss,
                           call.alpha,
                           call.squared,
                           call.out};
  const auto kernel = &probe_records<T>;
  EXPUNGE_LAUNCH(kernel, dim3(blocks_for(records, kRowThreads / kWarp)), dim3(kRowThreads), 0, stream)(given);
  return launched();
}

template long probe_norms_workspace(const ProbeNorms<float>&, long);
template long probe_norms_workspace(const ProbeNorms<double>&, long);
template cudaError_t probe_norms(const ProbeNorms<float>&, const float*, long, char*, cudaStream_t);
template cudaError_t probe_norms(const ProbeNorms<double>&, const double*, long, char*, cudaStream_t);

}  // namespace expunge::grad_norms::device
