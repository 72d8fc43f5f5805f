// Normals as pairs of float64. Compiled once per instruction set into EXPUNGE_ISA_NS; internal linkage for everything
// but the table. Integers alone: what becomes a float64 is a whole number below 2^53 times a power of two.
#include "noise/noise_math.hpp"

#include <string.h>

namespace expunge::noise::EXPUNGE_ISA_NS {
namespace {

constexpr int kPairBits = 97;  // the middle of what 96 digits leave possible is an odd multiple of 2^-97
constexpr int kDigits = 53;    // of float64

// The float64 number +- digits 2^exponent, for digits from 2^52 to 2^53 and exponents of normal numbers.
double in_float64(bool negative, uint64_t digits, int exponent) {
  // The first digit, which float64 leaves out, counts one up; 2^53 carries into the exponent.
  const uint64_t bits =
      (static_cast<uint64_t>(exponent + 1074) << 52) + digits + (static_cast<uint64_t>(negative) << 63);
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// False where the digits do not tell which float64 is nearest.
bool split(const Normal& normal, uint32_t third, double* hi, double* lo) {
  // The absolute value is less than 1 away from this number of units of 2^-97: 105 binary digits at most.
  const Wide middle = (static_cast<Wide>(normal.whole) << kPairBits) + (static_cast<Wide>(normal.fraction) << 33) +
                      (static_cast<Wide>(third) << 1) + 1;
  const uint64_t top = static_cast<uint64_t>(middle >> 64);
  if (top == 0) return false;  // below 2^-33
  const int shift = 128 - __builtin_clzll(top) - kDigits;
  const uint64_t half = uint64_t{1} << (shift - 1);
  const uint64_t behind = static_cast<uint64_t>(middle) & (2 * half - 1);  // 12 to 52 digits
  if (behind + 1 >= half && behind <= half + 1) return false;              // a border may lie between
  const bool up = behind > half;
  *hi = in_float64(normal.negative, static_cast<uint64_t>(middle >> shift) + up, shift - kPairBits);
  const uint64_t rest = up ? 2 * half - behind : behind;  // odd, so never 0
  const int more = __builtin_clzll(rest) - 11;            // up to 53 digits
  *lo = in_float64(normal.negative != up, rest << more, -more - kPairBits);
  return true;
}

Progress exact_normals(const Pairs& pairs) {
  Draws draws = {pairs.words, pairs.n_words, 0, Ended::done};
  long i = 0, used = 0;
  for (; i < pairs.n; ++i) {
    Normal normal;
    if (!draw(draws, &normal)) break;
    const uint32_t third = draws.next();
    if (draws.stopped()) break;
    if (!split(normal, third, pairs.hi + i, pairs.lo + i)) {
      draws.stop(Ended::hard);
      break;
    }
    used = draws.at;
  }
  return {i, used, draws.ended};
}

}  // namespace

extern const PairsTable pairs_table = {exact_normals};

}  // namespace expunge::noise::EXPUNGE_ISA_NS
