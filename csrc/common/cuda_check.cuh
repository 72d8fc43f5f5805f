// Every host function that launches ends with `return launched();`: the error of the launch itself, without waiting.
#pragma once

#include "common/gpu.cuh"

namespace expunge {

inline cudaError_t launched() { return cudaGetLastError(); }

}  // namespace expunge
