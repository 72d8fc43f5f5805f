// Instruction-set selection. Kernel sources are compiled once per level into EXPUNGE_ISA_NS; nothing else may be.
#pragma once

// EXPUNGE_DEVICE_CODE: the source is one of a GPU's, under nvcc or the emulator. Vectors are single numbers there.
#if defined(__CUDACC__) || defined(EXPUNGE_CUDA_EMULATION)
#define EXPUNGE_DEVICE_CODE 1
#endif
#if defined(__CUDACC__)
#define EXPUNGE_HD __host__ __device__
#define EXPUNGE_OUTLINE __noinline__  // a large body called from several places: one copy, or nvcc takes minutes
#else
#define EXPUNGE_HD
#define EXPUNGE_OUTLINE
#endif

// Small bodies, in anonymous namespaces: inlined wherever they are called, on the CPU and on a device.
#define EXPUNGE_INLINE EXPUNGE_HD __attribute__((always_inline, unused)) inline

// Constant arrays at namespace scope that host and device code read.
#if defined(__CUDA_ARCH__)
#define EXPUNGE_TABLE static __device__ const
#else
#define EXPUNGE_TABLE static const
#endif

// Unrolls the next loop n times.
#define EXPUNGE_PRAGMA(text) _Pragma(#text)
#if defined(__CUDACC__)
#define EXPUNGE_UNROLL(n) EXPUNGE_PRAGMA(unroll n)
#else
#define EXPUNGE_UNROLL(n) EXPUNGE_PRAGMA(GCC unroll n)
#endif

// Lanes of two vectors in the order of constants; Mask is the vector of integers that GCC wants them in.
#if defined(__clang__)
#define EXPUNGE_SHUFFLE(Mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define EXPUNGE_SHUFFLE(Mask, a, b, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif

// Memory that this pointer alone reaches. Not so on a device: other lanes write there, and what __restrict__ promises
// would let the compiler keep values across a barrier.
#if defined(EXPUNGE_DEVICE_CODE)
#define EXPUNGE_RESTRICT
#else
#define EXPUNGE_RESTRICT __restrict__
#endif

namespace expunge {

enum class Isa : int { base = 0, v3 = 1, v4 = 2 };

// Level in use: the best the processor has, or what EXPUNGE_ISA names. Throws std::runtime_error on an unknown or
// unsupported name, so that a forced test can never silently run something else.
Isa active_isa();
const char* isa_name(Isa isa);

// The table of one kernel family for the active level.
template <class Table>
const Table& select_table(const Table& base, const Table& v3, const Table& v4) {
  switch (active_isa()) {
    case Isa::v4: return v4;
    case Isa::v3: return v3;
    default: return base;
  }
}

// Declares a family's table, which its sources define once per level, and `name()`: that of the level in use.
#if defined(EXPUNGE_X86_LEVELS)
#define EXPUNGE_ISA_TABLE(Type, name) \
  namespace isa_base {                \
  extern const Type name;             \
  }                                   \
  namespace isa_v3 {                  \
  extern const Type name;             \
  }                                   \
  namespace isa_v4 {                  \
  extern const Type name;             \
  }                                   \
  inline const Type& name() { return select_table(isa_base::name, isa_v3::name, isa_v4::name); }
#else
#define EXPUNGE_ISA_TABLE(Type, name) \
  namespace isa_base {                \
  extern const Type name;             \
  }                                   \
  inline const Type& name() { return isa_base::name; }
#endif

}  // namespace expunge
