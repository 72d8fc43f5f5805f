// The processor's floating-point mode of one thread. A caller may have set it so that small numbers are flushed to zero
// (torch.set_flush_denormal, start-up code of -ffast-math), or rounded another way: a bound flushed to 0 is no bound.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

namespace expunge {

#if defined(__x86_64__) || defined(__i386__)

constexpr std::uint64_t kIeeeMode = 0x1f80;  // every exception masked, to nearest, gradual underflow
constexpr std::uint64_t kFlushing = 0x8040;  // flush to zero, denormals are zero
inline std::uint64_t float_mode() { return _mm_getcsr(); }
inline void set_float_mode(std::uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }

#elif defined(__aarch64__)

constexpr std::uint64_t kIeeeMode = 0;
constexpr std::uint64_t kFlushing = 1u << 24;
inline std::uint64_t float_mode() {
  std::uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(std::uint64_t mode) { __asm__ volatile("msr fpcr, %0" ::"r"(mode)); }

#else

// Rounding alone: no portable name for flushing.
constexpr std::uint64_t kIeeeMode = FE_TONEAREST;
constexpr std::uint64_t kFlushing = 0;
inline std::uint64_t float_mode() { return static_cast<std::uint64_t>(std::fegetround()); }
inline void set_float_mode(std::uint64_t mode) { std::fesetround(static_cast<int>(mode)); }

#endif

// Runs a scope in IEEE arithmetic and gives the thread its mode back.
class IeeeArithmetic {
 public:
  IeeeArithmetic() : before_(float_mode()) { set_float_mode(kIeeeMode); }
  ~IeeeArithmetic() { set_float_mode(before_); }
  IeeeArithmetic(const IeeeArithmetic&) = delete;
  IeeeArithmetic& operator=(const IeeeArithmetic&) = delete;
  // Whether the thread reads subnormal numbers as 0 outside this scope.
  bool hides_subnormals() const { return (before_ & kFlushing) != 0; }

 private:
  std::uint64_t before_;
};

}  // namespace expunge
