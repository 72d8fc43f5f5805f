// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
//
// A normal is drawn by comparing uniform numbers whose digits are random words (C. Karney, Sampling exactly from the
// normal distribution, ACM TOMS 42, 2016, algorithm N with H and B): no function is evaluated and nothing is rounded.
// Digits have 32 bits, and the kernel looks at one of each number, at two of the normal's fraction. Whatever these do
// not decide ends the call at that number, and the caller draws it from the same words with as many as it takes.
#include "noise/noise.hpp"

#include <string.h>

namespace expunge::noise::EXPUNGE_ISA_NS {
namespace {

using Wide = __int128;

constexpr uint32_t kHalf = 1u << 31;
constexpr uint64_t kMostWhole = 255;  // whole part of a normal: 37,000 bits of chance, and products stay in 128 bits
constexpr int kPoint = kScaleBits + 64;  // binary digits behind the point of a number of cells

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

struct Normal {
  int64_t whole;      // its floor
  uint64_t fraction;  // of what is left, the first 64 binary digits
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
    const bool negative = (draws.next() & 1) != 0;
    const uint64_t digits = static_cast<uint64_t>(x) << 32 | draws.next();
    if (draws.stopped()) continue;
    normal->whole = negative ? -static_cast<int64_t>(k) - 1 : static_cast<int64_t>(k);
    normal->fraction = negative ? ~digits : digits;
    return true;
  }
  return false;
}

// A number of cells: its floor, and the first kPoint binary digits behind the point.
struct Cells {
  int64_t whole;
  Wide fraction;
};

// False for 2^62 cells and more.
bool in_cells(double value, long exponent, Cells* cells) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  const long field = static_cast<long>(bits >> 52 & 0x7ff);
  int64_t digits = static_cast<int64_t>(bits & ((uint64_t{1} << 52) - 1));
  if (field != 0) digits |= int64_t{1} << 52;
  if (bits >> 63 != 0) digits = -digits;
  const long shift = (field == 0 ? 1 : field) - 1075 - exponent;  // value = digits 2^shift cells
  cells->fraction = 0;
  if (digits == 0 || shift >= 0) {
    if (digits != 0 && shift > 9) return false;
    cells->whole = digits == 0 ? 0 : digits * (int64_t{1} << shift);
  } else if (shift > -54) {
    cells->whole = digits >> -shift;
    const int64_t left = digits - cells->whole * (int64_t{1} << -shift);
    cells->fraction = static_cast<Wide>(left) << (kPoint + shift);
  } else {
    cells->whole = digits < 0 ? -1 : 0;
    const long up = kPoint + shift;
    const Wide moved =
        up >= 0 ? static_cast<Wide>(digits) * (static_cast<Wide>(1) << up) : digits >> (up < -63 ? 63 : -up);
    cells->fraction = moved - cells->whole * (static_cast<Wide>(1) << kPoint);
  }
  return true;
}

// The whole number next to parameter plus noise; false where the digits do not tell.
bool rounded(const Cells& centre, const Normal& normal, int64_t scale, int64_t* to) {
  const Wide half = static_cast<Wide>(1) << (kPoint - 1);
  const Wide noise = (static_cast<Wide>(normal.whole) * (static_cast<Wide>(1) << 64) + normal.fraction) * scale;
  // Further digits of the normal add less than `scale`, those of the parameter less than 1.
  const Wide least = noise + centre.fraction + half;
  const int64_t cell = static_cast<int64_t>(least >> kPoint);
  *to = centre.whole + cell;
  return cell == static_cast<int64_t>((least + scale) >> kPoint);
}

Progress rounded_normals(const Release& release) {
  Draws draws = {release.words, release.n_words, 0, Ended::done};
  long i = 0, used = 0;
  for (; i < release.n; ++i) {
    Normal normal;
    Cells centre;
    if (!draw(draws, &normal)) break;
    if (!in_cells(release.theta[i], release.exponent, &centre) ||
        !rounded(centre, normal, release.scale, release.cells + i)) {
      draws.stop(Ended::hard);
      break;
    }
    used = draws.at;
  }
  return {i, used, draws.ended};
}

}  // namespace

extern const Table table = {rounded_normals};

}  // namespace expunge::noise::EXPUNGE_ISA_NS
