// Interface of the kernels for noise: parameters plus exact normals, rounded to a grid without any error, and exact
// normals by themselves, as pairs of float64. Both compute in integers alone.
#pragma once

#include <stdint.h>

#include "common/isa.hpp"

namespace expunge::noise {

// The grid has 2^12 to 2^13 cells to a standard deviation, which is `scale` 2^-40 of them.
constexpr int kScaleBits = 40;

// Why a call ended: everything is done; the words may not suffice for the next number; that number needs more digits
// than are looked at here, or is too large.
enum class Ended : long { done = 0, words = 1, hard = 2 };

struct Release {
  const uint32_t* words;  // random bits, used in their order
  long n_words;
  const double* theta;    // parameters without noise, finite
  long n;
  int64_t* cells;         // (n): the multiple of the grid next to parameter plus noise
  int64_t scale;          // standard deviation of the noise: scale 2^(exponent - 40), in [2^52, 2^53)
  long exponent;          // the grid is 2^exponent
};

// Normals Z with |Z - (hi + lo)| <= 2^-97, where hi is the float64 nearest to Z.
struct Pairs {
  const uint32_t* words;  // random bits, used in their order
  long n_words;
  double* hi;  // (n)
  double* lo;  // (n)
  long n;
};

struct Progress {
  long numbers, words;  // numbers that are done, and words that they took: the next one begins behind these
  Ended ended;
};

struct Table {
  Progress (*rounded_normals)(const Release& release);
};

EXPUNGE_ISA_TABLE(Table, table)

struct PairsTable {
  Progress (*exact_normals)(const Pairs& pairs);
};

EXPUNGE_ISA_TABLE(PairsTable, pairs_table)

}  // namespace expunge::noise
