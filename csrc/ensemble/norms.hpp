// Group normalisation of one image with channels last, forward and backward. Internal linkage only.
#pragma once

#include "ensemble/products.hpp"

namespace expunge::ensemble::EXPUNGE_ISA_NS {
namespace {

// An image is read in steps of `period` numbers, after which channels repeat: whole vectors, where there are such.
struct Periods {
  long length, channels, groups, period;
  bool vectors;
  template <class T>
  static Periods of(long pixels, long channels, long groups) {
    constexpr long W = kWide<T>;
    const long period = channels % W == 0 ? channels : W % channels == 0 ? W : channels;
    const bool vectors = period % W == 0 && pixels * channels % period == 0;
    return {pixels * channels, channels, groups, vectors ? period : channels, vectors};
  }
};

// Calls body(pack, at) at every place of a period: whole vectors, or single numbers.
template <class T, class Body>
EXPUNGE_INLINE void over_period(const Periods& p, Body body) {
  if (p.vectors)
    for (long j = 0; j < p.period; j += kWide<T>) body(Lanes<T>(), j);
  else
    for (long j = 0; j < p.period; ++j) body(One<T>(), j);
}

// Means over groups of sums over a period, by place of the period.
template <class T>
EXPUNGE_INLINE void group_means(const Periods& p, const T* sums, T* means) {
  const long each = p.channels / p.groups;
  for (long g = 0; g < p.groups; ++g) {
    T total = 0;
    for (long first = g * each; first < p.period; first += p.channels)
      for (long c = 0; c < each; ++c) total += sums[first + c];
    total /= static_cast<T>(p.length / p.groups);
    for (long first = g * each; first < p.period; first += p.channels)
      for (long c = 0; c < each; ++c) means[first + c] = total;
  }
}

// The numbers that a backward pass needs of a forward one, by place of the period, and room for its own.
template <class T>
struct NormSpace {
  T *mean, *rate, *first, *second, *gain, *other;
  static long size(const Periods& p) { return 2 * p.period; }
  static long room(const Periods& p) { return 4 * p.period; }
  NormSpace(const Periods& p, T* kept, T* spare)
      : mean(kept),
        rate(kept + p.period),
        first(spare),
        second(spare + p.period),
        gain(spare + 2 * p.period),
        other(spare + 3 * p.period) {}
};

template <class T>
inline void norm_forward(const Periods& p, NormSpace<T> s, const T* x, const T* weight, const T* bias, T eps, T* y) {
  over_period<T>(p, [&](auto pack, long j) __attribute__((always_inline)) {
    using L = decltype(pack);
    typename L::F sum = {};
    for (long k = j; k < p.length; k += p.period) sum += L::load(x + k);
    L::store(s.first + j, sum);
  });
  group_means(p, s.first, s.mean);
  over_period<T>(p, [&](auto pack, long j) __attribute__((always_inline)) {
    using L = decltype(pack);
    typename L::F sum = {};
    const typename L::F mean = L::load(s.mean + j);
    for (long k = j; k < p.length; k += p.period) {
      const typename L::F apart = L::load(x + k) - mean;
      sum += apart * apart;
    }
    L::store(s.first + j, sum);
  });
  group_means(p, s.first, s.rate);
  for (long j = 0; j < p.period; ++j) {
    const long c = j % p.channels;
    s.rate[j] = T(1) / sqrt_lanes(s.rate[j] + eps);
    s.gain[j] = weight == nullptr ? s.rate[j] : s.rate[j] * weight[c];
    s.other[j] = bias == nullptr ? T(0) : bias[c];
  }
  over_period<T>(p, [&](auto pack, long j) __attribute__((always_inline)) {
    using L = decltype(pack);
    const typename L::F mean = L::load(s.mean + j), gain = L::load(s.gain + j), other = L::load(s.other + j);
    for (long k = j; k < p.length; k += p.period) L::store(y + k, (L::load(x + k) - mean) * gain + other);
  });
}

// The gradient of the input, in place of `grad`; those of weight and bias are added to.
template <class T>
inline void norm_backward(const Periods& p, NormSpace<T> s, const T* x, const T* weight, T* weight_grad, T* bias_grad,
                          T* grad) {
  over_period<T>(p, [&](auto pack, long j) __attribute__((always_inline)) {
    using L = decltype(pack);
    typename L::F sum = {}, product = {};
    const typename L::F mean = L::load(s.mean + j);
    for (long k = j; k < p.length; k += p.period) {
      const typename L::F g = L::load(grad + k);
      sum += g;
      product += g * (L::load(x + k) - mean);
    }
    L::store(s.first + j, sum);
    L::store(s.second + j, product);
  });
  for (long j = 0; j < p.period; ++j) {
    const long c = j % p.channels;
    if (bias_grad != nullptr) bias_grad[c] += s.first[j];
    if (weight_grad != nullptr) weight_grad[c] += s.rate[j] * s.second[j];
    s.gain[j] = weight == nullptr ? s.rate[j] : s.rate[j] * weight[c];
    s.first[j] *= s.gain[j];
    s.second[j] *= s.gain[j] * s.rate[j] * s.rate[j];
  }
  group_means(p, s.first, s.first);
  group_means(p, s.second, s.second);
  over_period<T>(p, [&](auto pack, long j) __attribute__((always_inline)) {
    using L = decltype(pack);
    const typename L::F mean = L::load(s.mean + j), gain = L::load(s.gain + j);
    const typename L::F same = L::load(s.first + j), along = L::load(s.second + j);
    for (long k = j; k < p.length; k += p.period)
      L::store(grad + k, L::load(grad + k) * gain - same - (L::load(x + k) - mean) * along);
  });
}

}  // namespace
}  // namespace expunge::ensemble::EXPUNGE_ISA_NS
