// The emulator on kernels that are right and on kernels that are wrong: what a GPU would do, or an error that names
// them.
#define EXPUNGE_CUDA_EMULATION
#include <stdio.h>
#include <stdlib.h>

#include "common/async_copy.cuh"
#include "common/gpu.cuh"
#include "common/mma.cuh"

namespace {

int failures = 0;

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                     \
    }                                                                 \
  } while (false)

// Fails unless the last launch ended with an error whose text holds `part` and the kernel's name.
void expect_error(const char* kernel, const char* part) {
  const cudaError_t error = cudaPeekAtLastError();
  const char* text = cudaGetErrorString(error);
  if (error == cudaSuccess || !strstr(text, kernel) || !strstr(text, part)) {
    fprintf(stderr, "%s: expected an error with '%s', got '%s'\n", kernel, part, text);
    ++failures;
  }
  (void)cudaGetLastError();
}

__global__ void block_sum(const int* from, int* to) {
  EXPUNGE_SHARED(int, partial, [256]);
  const unsigned i = threadIdx.x;
  partial[i] = from[blockIdx.x * blockDim.x + i];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (i < half) partial[i] += partial[i + half];
    __syncthreads();
  }
  if (i == 0) to[blockIdx.x] = partial[0];
}

__global__ void warp_sum(const double* from, double* to, unsigned* votes) {
  double x = from[threadIdx.x];
  for (int bit = 16; bit > 0; bit /= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
  const unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x % 2);
  double up = __shfl_up_sync(0xffffffffu, from[threadIdx.x], 1);
  if (threadIdx.x == 0) up = 0.0;
  to[threadIdx.x] = x + up;
  if (threadIdx.x == 0) *votes = odd;
  atomicAdd(to + 32, 1.0);
}

__global__ void half_warps(int* to) {
  const unsigned mask = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
  to[threadIdx.x] = __shfl_sync(mask, static_cast<int>(threadIdx.x), threadIdx.x < 16 ? 3 : 20);
}

__global__ void reads_garbage(float* to) {
  EXPUNGE_SHARED(float, tile, [4]);
  EXPUNGE_DYNAMIC_SHARED(float, buffer);
  to[0] = tile[1];
  to[1] = buffer[0];
  tile[1] = buffer[0] = 1.0f;  // gone in the next block
}

__global__ void three_dimensions(unsigned* to) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  to[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

// seen[0..2]: the first group before it landed, then beside the second, which has not; the second at the end.
__global__ void copies(const float* from, float* to, float* seen) {
  namespace async = expunge::async_copy;
  EXPUNGE_SHARED(float, tile, [2][4 * 32]);
  const int i = static_cast<int>(threadIdx.x);
  for (int group = 0; group < 2; ++group) {
    async::copy(&tile[group][4 * i], from + 4 * i, i % 5 * 4);  // zeros behind the first i % 5 numbers
    async::commit();
  }
  if (i == 31) seen[0] = tile[0][4 * i];
  async::wait<1>();
  if (i == 31) seen[1] = tile[1][4 * i];
  for (int j = 0; j < 4; ++j) to[4 * i + j] = tile[0][4 * i + j];
  async::wait<0>();
  if (i == 31) seen[2] = tile[1][4 * i];
}

__global__ void never_waits(const float* from) {
  EXPUNGE_SHARED(float, tile, [4]);
  expunge::async_copy::copy(tile, from, 16);
  expunge::async_copy::commit();
}

__global__ void copies_unaligned(const float* from) {
  EXPUNGE_SHARED(float, tile, [4]);
  expunge::async_copy::copy(tile, from + 1, 16);
  expunge::async_copy::commit();
  expunge::async_copy::wait<0>();
}

__global__ void products(const expunge::bfloat16* a, const float* b, float* c) {
  using namespace expunge::mma;
  Tile<expunge::bfloat16, kColumns, kRows> square;
  square.clear();
  square.multiply_add(a, 16, a, 16);
  square.store(c, 16);
  Tile<float, kRows, kColumns> gram;
  gram.clear();
  gram.multiply_add(b, 8, b, 8);
  float sum = 0.0f;
  for (int e = 0; e < gram.kElements; ++e) sum += gram.element(e);
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
  if (threadIdx.x == 0) c[256] = sum;
}

__global__ void some_skip_the_barrier() {
  if (threadIdx.x < 40) __syncthreads();
}

__global__ void two_barriers(int) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void lane_missing() {
  if (threadIdx.x != 5) __syncwarp();
}

__global__ void not_in_mask() { __syncwarp(0x0000ffffu); }

__global__ void reads_outside_mask(int* to) {
  if (threadIdx.x < 16) to[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void beyond_the_warp() { __syncwarp(); }

__global__ void nothing() {}

}  // namespace

int main() {
  int numbers[512], sums[2] = {};
  for (int i = 0; i < 512; ++i) numbers[i] = i;
  EXPUNGE_LAUNCH(block_sum, 2, 256, 0, nullptr)(numbers, sums);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(sums[0] == 255 * 128 && sums[1] == 255 * 128 + 256 * 256);

  double values[32], out[33] = {};
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) values[i] = i;
  EXPUNGE_LAUNCH(warp_sum, 1, 32, 0, nullptr)(values, out, &votes);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(out[0] == 496.0 && out[7] == 496.0 + 6.0 && out[32] == 32.0 && votes == 0xaaaaaaaau);

  int halves[32] = {};
  EXPUNGE_LAUNCH(half_warps, 1, 32, 0, nullptr)(halves);
  CHECK(cudaGetLastError() == cudaSuccess && halves[0] == 3 && halves[31] == 20);

  for (unsigned grid = 1; grid < 3; ++grid) {
    float seen[2] = {};
    EXPUNGE_LAUNCH(reads_garbage, grid, 1, 16, nullptr)(seen);
    CHECK(cudaGetLastError() == cudaSuccess && isnan(seen[0]) && isnan(seen[1]));
  }

  unsigned visits[2 * 3 * 2 * 4 * 2 * 3] = {};
  EXPUNGE_LAUNCH(three_dimensions, dim3(2, 3, 2), dim3(4, 2, 3), 0, nullptr)(visits);
  for (unsigned count : visits) CHECK(count == 1);

  alignas(32) expunge::bfloat16 a[256];
  alignas(32) float b[128], c[257] = {};
  double trace = 0.0;
  for (int i = 0; i < 256; ++i) a[i] = expunge::to_bfloat16(static_cast<float>(i % 7 - 3));
  for (int i = 0; i < 128; ++i) b[i] = static_cast<float>(i % 5 - 2);
  EXPUNGE_LAUNCH(products, 1, 32, 0, nullptr)(a, b, c);
  CHECK(cudaGetLastError() == cudaSuccess);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      float sum = 0.0f, dot = 0.0f;
      for (int k = 0; k < 16; ++k) sum += to_float(a[k * 16 + i]) * to_float(a[k * 16 + j]);
      for (int k = 0; k < 8; ++k) dot += b[i * 8 + k] * b[j * 8 + k];
      CHECK(c[i * 16 + j] == sum);
      trace += dot;
    }
  CHECK(c[256] == static_cast<float>(trace));

  alignas(16) float source[128];
  float landed[128], seen[3];
  for (int i = 0; i < 128; ++i) source[i] = 1.0f + static_cast<float>(i);
  EXPUNGE_LAUNCH(copies, 1, 32, 0, nullptr)(source, landed, seen);
  CHECK(cudaGetLastError() == cudaSuccess);
  for (int i = 0; i < 128; ++i) CHECK(landed[i] == (i % 4 < i / 4 % 5 ? source[i] : 0.0f));
  CHECK(isnan(seen[0]) && isnan(seen[1]) && seen[2] == source[124]);
  EXPUNGE_LAUNCH(never_waits, 1, 1, 0, nullptr)(source);
  expect_error("never_waits", "ends before its copies have landed");
  EXPUNGE_LAUNCH(copies_unaligned, 1, 1, 0, nullptr)(source);
  expect_error("copies_unaligned", "not aligned");

  EXPUNGE_LAUNCH(some_skip_the_barrier, 1, 64, 0, nullptr)();
  expect_error("some_skip_the_barrier", "has returned");
  EXPUNGE_LAUNCH(two_barriers, 1, 32, 0, nullptr)(0);
  expect_error("two_barriers", "part: thread 0 waits at __syncthreads");
  EXPUNGE_LAUNCH(lane_missing, 1, 32, 0, nullptr)();
  expect_error("lane_missing", "waits at a warp operation");
  EXPUNGE_LAUNCH(not_in_mask, 1, 32, 0, nullptr)();
  expect_error("not_in_mask", "does not name it");
  EXPUNGE_LAUNCH(reads_outside_mask, 1, 32, 0, nullptr)(halves);
  expect_error("reads_outside_mask", "reads lane 20");
  EXPUNGE_LAUNCH(beyond_the_warp, 1, 8, 0, nullptr)();
  expect_error("beyond_the_warp", "names lane 8 of a warp of 8 threads");
  EXPUNGE_LAUNCH(nothing, 1, 2048, 0, nullptr)();
  expect_error("nothing", "1 to 1024 threads");
  EXPUNGE_LAUNCH(nothing, 0, 32, 0, nullptr)();
  expect_error("nothing", "a grid must be within");
  // Cut to 32 bits it would be one block.
  EXPUNGE_LAUNCH(nothing, expunge::grid_of((1L << 32) + 1), dim3(32), 0, nullptr)();
  expect_error("nothing", "a grid must be within");
  EXPUNGE_LAUNCH(nothing, 1, 32, 64 * 1024, nullptr)();
  expect_error("nothing", "dynamic shared memory");
  CHECK(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024) == cudaSuccess);
  EXPUNGE_LAUNCH(nothing, 1, 32, 64 * 1024, nullptr)();
  CHECK(cudaGetLastError() == cudaSuccess);

  if (failures == 0) puts("the emulator does what it should");
  return failures != 0;
}
