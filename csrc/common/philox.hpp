// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): four 32-bit words from a counter and a key, no state.
// Counter words: block of four words, step, chain (low), chain (high 24 bits) | purpose << 24. Key: the 64-bit seed.
#pragma once

#include "common/lanes.hpp"

namespace expunge {
namespace {

constexpr uint32_t kNormals = 0;   // purpose of a stream: independent streams of one (seed, chain, step)
constexpr uint32_t kSampling = 1;

struct Words64 {  // word k of every lane in the low half of w[k]; the high halves hold anything
  U64 w[4];
};

EXPUNGE_INLINE Words64 philox(uint64_t seed, U64 block, uint32_t step, U64 chain, uint32_t purpose) {
  const U64 m0 = U64{} + uint64_t(0xD2511F53), m1 = U64{} + uint64_t(0xCD9E8D57);
  U64 c0 = block, c1 = U64{} + uint64_t(step), c2 = chain, c3 = (chain >> 32) | (uint64_t(purpose) << 24);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const U64 p0 = multiply_low_halves(m0, c0), p1 = multiply_low_halves(m1, c2);
    c0 = (p1 >> 32) ^ c1 ^ uint64_t(k0);
    c2 = (p0 >> 32) ^ c3 ^ uint64_t(k1);
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Words of as many items as a vector of T has lanes: item i in lane i. Either blocks or chains advance by lane.
template <class T>
struct Words;

template <>
struct Words<double> {
  U64 w[4];
  EXPUNGE_INLINE Words of(uint64_t seed, uint64_t block, int block_by_lane, uint32_t step, uint64_t chain,
                          int chain_by_lane, uint32_t purpose) {
    const U64 lane = lane_numbers();
    const Words64 x = philox(seed, block_by_lane ? lane + block : U64{} + block, step,
                             chain_by_lane ? lane + chain : U64{} + chain, purpose);
    return {{x.w[0], x.w[1], x.w[2], x.w[3]}};
  }
};

template <>
struct Words<float> {
  U32 w[4];
  EXPUNGE_INLINE Words of(uint64_t seed, uint64_t block, int block_by_lane, uint32_t step, uint64_t chain,
                          int chain_by_lane, uint32_t purpose) {
    const U64 even = lane_numbers() << 1, odd = even | uint64_t(1);
    const Words64 x = philox(seed, block_by_lane ? even + block : U64{} + block, step,
                             chain_by_lane ? even + chain : U64{} + chain, purpose);
    const Words64 y = philox(seed, block_by_lane ? odd + block : U64{} + block, step,
                             chain_by_lane ? odd + chain : U64{} + chain, purpose);
    Words out;
    for (int k = 0; k < 4; ++k) out.w[k] = bits_as<U32>((x.w[k] & uint64_t(0xffffffff)) | (y.w[k] << 32));
    return out;
  }
};

}  // namespace
}  // namespace expunge
