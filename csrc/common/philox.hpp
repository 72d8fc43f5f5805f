// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): four 32-bit words from a counter and a key, no state.
// Counter words: block of four words, step, chain (low), chain (high 24 bits) | purpose << 24. Key: the 64-bit seed.
#pragma once

#include "common/lanes.hpp"

namespace expunge {
namespace {

constexpr uint32_t kNormals = 0;   // purpose of a stream: independent streams of one (seed, chain, step)
constexpr uint32_t kSampling = 1;

#if defined(EXPUNGE_DEVICE_CODE)

// Four words of one counter.
EXPUNGE_INLINE void philox(uint64_t seed, uint64_t block, uint32_t step, uint64_t chain, uint32_t purpose,
                           uint32_t* w) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = step, c2 = static_cast<uint32_t>(chain);
  uint32_t c3 = static_cast<uint32_t>(chain >> 32) | (purpose << 24);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  EXPUNGE_UNROLL(10)
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53) * c0, p1 = uint64_t(0xCD9E8D57) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  w[0] = c0;
  w[1] = c1;
  w[2] = c2;
  w[3] = c3;
}

#else

// N vectors of counters at once: their rounds are interleaved, which hides the latency of the multiplications.
// Word k of counter vector v is left in the low halves of w[k][v]; the high halves hold anything.
template <int N>
EXPUNGE_INLINE void philox(uint64_t seed, const U64* block, uint32_t step, const U64* chain, uint32_t purpose,
                           U64 (*w)[N]) {
  const U64 m0 = U64{} + uint64_t(0xD2511F53), m1 = U64{} + uint64_t(0xCD9E8D57);
  U64 c0[N], c1[N], c2[N], c3[N];
  for (int v = 0; v < N; ++v) {
    c0[v] = block[v];
    c1[v] = U64{} + uint64_t(step);
    c2[v] = chain[v];
    c3[v] = (chain[v] >> 32) | (uint64_t(purpose) << 24);
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const U64 key0 = U64{} + uint64_t(k0), key1 = U64{} + uint64_t(k1);
    U64 p0[N], p1[N];
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      p0[v] = multiply_low_halves(m0, c0[v]);
      p1[v] = multiply_low_halves(m1, c2[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      c0[v] = (p1[v] >> 32) ^ (c1[v] ^ key0);
      c2[v] = (p0[v] >> 32) ^ (c3[v] ^ key1);
      c1[v] = p1[v];
      c3[v] = p0[v];
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int v = 0; v < N; ++v) {
    w[0][v] = c0[v];
    w[1][v] = c1[v];
    w[2][v] = c2[v];
    w[3][v] = c3[v];
  }
}

#endif

// What the lanes of a vector number: consecutive blocks of one chain, or one block of consecutive chains.
enum class LanesAre { blocks, chains };

// The words of G groups of as many items as a vector of T has lanes, item i of a group in lane i. With lanes that are
// blocks, group g starts at block + g W; with lanes that are chains, group g is block + g of the same chains.
#if defined(EXPUNGE_DEVICE_CODE)

// A thread is one lane: whether lanes number blocks or chains is for its caller to say, in the numbers it passes.
template <class T, int G>
struct Words {
  typename Lanes<T>::U w[4][G];
  template <LanesAre>
  EXPUNGE_INLINE static Words of(uint64_t seed, uint64_t block, uint32_t step, uint64_t chain, uint32_t purpose) {
    Words out;
    EXPUNGE_UNROLL(4)
    for (int g = 0; g < G; ++g) {
      uint32_t words[4];
      philox(seed, block + static_cast<uint64_t>(g), step, chain, purpose, words);
      EXPUNGE_UNROLL(4)
      for (int k = 0; k < 4; ++k) out.w[k][g] = words[k];
    }
    return out;
  }
};

#else

template <class T, int G>
struct Words;

template <int G>
struct Words<double, G> {
  U64 w[4][G];
  template <LanesAre kind>
  EXPUNGE_INLINE static Words of(uint64_t seed, uint64_t block, uint32_t step, uint64_t chain, uint32_t purpose) {
    U64 blocks[G], chains[G];
    for (int g = 0; g < G; ++g) {
      const bool by_block = kind == LanesAre::blocks;
      blocks[g] = by_block ? lane_numbers() + (block + uint64_t(g * Lanes<double>::W)) : U64{} + (block + uint64_t(g));
      chains[g] = by_block ? U64{} + chain : lane_numbers() + chain;
    }
    Words out;
    philox<G>(seed, blocks, step, chains, purpose, out.w);
    return out;
  }
};

template <int G>
struct Words<float, G> {
  U32 w[4][G];
  template <LanesAre kind>
  EXPUNGE_INLINE static Words of(uint64_t seed, uint64_t block, uint32_t step, uint64_t chain, uint32_t purpose) {
    U64 blocks[2 * G], chains[2 * G], w[4][2 * G];  // even items, then odd items, of every group
    for (int g = 0; g < 2 * G; ++g) {
      const bool by_block = kind == LanesAre::blocks;
      const U64 item = (lane_numbers() << 1) | uint64_t(g % 2);
      blocks[g] = by_block ? item + (block + uint64_t(g / 2 * Lanes<float>::W)) : U64{} + (block + uint64_t(g / 2));
      chains[g] = by_block ? U64{} + chain : item + chain;
    }
    philox<2 * G>(seed, blocks, step, chains, purpose, w);
    Words out;
    for (int k = 0; k < 4; ++k)
      for (int g = 0; g < G; ++g)
        out.w[k][g] = bits_as<U32>((w[k][2 * g] & uint64_t(0xffffffff)) | (w[k][2 * g + 1] << 32));
    return out;
  }
};

#endif

}  // namespace
}  // namespace expunge
