// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table. Integers alone:
// parameters come in by their bits.
#include "noise/noise_math.hpp"

#include <string.h>

namespace expunge::noise::EXPUNGE_ISA_NS {
namespace {

constexpr int kPoint = kScaleBits + 64;  // binary digits behind the point of a number of cells

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
  const int64_t whole = normal.whole;
  const int64_t floor = normal.negative ? -whole - 1 : whole;
  const uint64_t digits = normal.negative ? ~normal.fraction : normal.fraction;
  const Wide noise = (static_cast<Wide>(floor) * (static_cast<Wide>(1) << 64) + digits) * scale;
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
