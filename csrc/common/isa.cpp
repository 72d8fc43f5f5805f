#include "common/isa.hpp"

#if defined(__x86_64__) && defined(__clang__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace expunge {
namespace {

#if defined(EXPUNGE_X86_LEVELS)
#if defined(__clang__) && __clang_major__ < 18
// Older Clangs do not know the levels by name, nor all features of v3.
bool has_v3() {
  unsigned a, b, c = 0, d, extended = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid(0x80000001u, &a, &b, &extended, &d)) return false;
  constexpr unsigned movbe = 1u << 22, f16c = 1u << 29, lzcnt = 1u << 5;
  return (c & movbe) && (c & f16c) && (extended & lzcnt) && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("popcnt");
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
bool has_v3() { return __builtin_cpu_supports("x86-64-v3"); }
bool has_v4() { return __builtin_cpu_supports("x86-64-v4"); }
#endif
#endif

bool supported(Isa isa) {
#if defined(EXPUNGE_X86_LEVELS)
  __builtin_cpu_init();
  if (isa == Isa::v4) return has_v4();
  if (isa == Isa::v3) return has_v3();
#endif
  return isa == Isa::base;
}

Isa choose() {
  constexpr Isa levels[] = {Isa::v4, Isa::v3, Isa::base};
  const char* forced = std::getenv("EXPUNGE_ISA");
  if (forced == nullptr || *forced == '\0') {
    for (Isa isa : levels)
      if (supported(isa)) return isa;
  }
  for (Isa isa : levels) {
    if (std::strcmp(forced, isa_name(isa)) != 0) continue;
    if (supported(isa)) return isa;
    throw std::runtime_error(std::string("EXPUNGE_ISA=") + forced + " is not supported by this processor or build");
  }
  throw std::runtime_error(std::string("EXPUNGE_ISA must be base, v3 or v4, got '") + forced + "'");
}

}  // namespace

const char* isa_name(Isa isa) { return isa == Isa::v4 ? "v4" : isa == Isa::v3 ? "v3" : "base"; }

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace expunge
