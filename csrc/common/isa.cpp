#include "common/isa.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace expunge {
namespace {

bool supported(Isa isa) {
#if defined(EXPUNGE_X86_LEVELS)
  __builtin_cpu_init();
  if (isa == Isa::v4) return __builtin_cpu_supports("x86-64-v4");
  if (isa == Isa::v3) return __builtin_cpu_supports("x86-64-v3");
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
