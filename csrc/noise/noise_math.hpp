// Drawing a normal: integers alone, in internal linkage. Sources are compiled once per instruction set.
//
// A normal is drawn by comparing uniform numbers whose digits are random words (C. Karney, Sampling exactly from the
// normal distribution, ACM TOMS 42, 2016, algorithm N with H and B): no function is evaluated and nothing is rounded.
// Digits have 32 bits, and kernels look at one of each number, at two or three of the normal's fraction. Whatever these
// do not decide ends the call at that number, and the caller draws it from the same words with as many as it takes.
#pragma once

#include <stdint.h>

#include "noise/noise.hpp"

namespace expunge::noise::EXPUNGE_ISA_NS {
namespace {

using Wide = __int128;

constexpr uint32_t kHalf = 1u << 31;
constexpr uint64_t kMostWhole = 255;  // whole part of a normal: 37,000 bits of chance, and products stay in 128 bits

// Words in their order. After the last one, or after equal digits, every question is answered and none counts.
struct Draws {
  const uint32_t* words;
  long n, at;
  Ended ended;

  bool stopped() const { return ended != Ended::done; }
  void stop(Ended why) {
    if (!stopped()) ended = why;
  }
  uint32_t next() {
    if (at < n) return words[at++];
    stop(Ended::words);
    return 0;
  }
  // Whether one uniform number is below another, by their first digits.
  bool below(uint32_t a, uint32_t b) {
    if (a == b) stop(Ended::hard);
    return a < b;
  }
  // One of the numbers 0, ..., m - 1, each with the same chance.
  uint32_t one_of(uint32_t m) {
    const uint32_t rest = static_cast<uint32_t>((uint64_t{1} << 32) % m);  // words that would favour the first ones
    uint32_t word = next();
    while (word >= 0u - rest && rest != 0 && !stopped()) word = next();
    return word % m;
  }
};

// True with chance exp(-1/2): a falling run of uniform numbers from 1/2 has even length (von Neumann).
bool half_exponential(Draws& draws) {
  uint32_t last = draws.next();
  if (last >= kHalf) return true;
  bool even = false;
  while (!draws.stopped()) {
    const uint32_t next = draws.next();
    if (!draws.below(next, last)) break;
    last = next;
    even = !even;
  }
  return even;
}

// True with chance exp(-x (2 k + x) / (2 k + 2)): the same from x, each step taken with chance (2 k + x) / (2 k + 2).
bool fraction_fits(Draws& draws, uint32_t k, uint32_t x) {
  uint32_t last = x;
  bool even = true;
  while (!draws.stopped()) {
    const uint32_t next = draws.next();
    if (!draws.below(next, last)) break;
    const uint32_t side = draws.one_of(2 * k + 2);
    if (side == 2 * k + 1 || (side == 2 * k && !draws.below(draws.next(), x))) break;
    last = next;
    even = !even;
  }
  return even;
}

// A normal's sign, and of its absolute value the whole part and the first 64 binary digits of the fraction.
struct Normal {
  bool negative;
  uint32_t whole;
  uint64_t fraction;
};

// False where the words ended the draw.
bool draw(Draws& draws, Normal* normal) {
  while (!draws.stopped()) {
    uint32_t k = 0;  // with a chance proportional to exp(-k / 2)
    while (half_exponential(draws) && k <= kMostWhole) ++k;
    if (k > kMostWhole) draws.stop(Ended::hard);
    bool kept = true;  // with chance exp(-k (k - 1) / 2)
    for (uint32_t i = 0; kept && i < k * (k - 1) && !draws.stopped(); ++i) kept = half_exponential(draws);
    if (!kept || draws.stopped()) continue;
    const uint32_t x = draws.next();
    for (uint32_t i = 0; kept && i <= k && !draws.stopped(); ++i) kept = fraction_fits(draws, k, x);
    if (!kept || draws.stopped()) continue;
    normal->negative = (draws.next() & 1) != 0;
    normal->whole = k;
    normal->fraction = static_cast<uint64_t>(x) << 32 | draws.next();
    if (!draws.stopped()) return true;
  }
  return false;
}

}  // namespace
}  // namespace expunge::noise::EXPUNGE_ISA_NS
