// Upper bounds that the caller's thread can see.
#pragma once

#include <limits>

#include "common/float_mode.hpp"

namespace expunge::bindings {

// Where the calling thread reads subnormal numbers as 0, positive ones become the smallest normal number: up, as bounds
// may.
inline void keep_visible(double* values, long n) {
  const IeeeArithmetic ieee;
  if (!ieee.hides_subnormals()) return;
  constexpr double smallest = std::numeric_limits<double>::min();
  for (long i = 0; i < n; ++i)
    if (values[i] > 0.0 && values[i] < smallest) values[i] = smallest;
}

}  // namespace expunge::bindings
