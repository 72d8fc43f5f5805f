// Interface of the privacy kernels: serial over a range of items; callers split ranges over threads.
#pragma once

#include "common/isa.hpp"

namespace expunge::privacy {

struct Table {
  int placeholder;
};

namespace isa_base {
extern const Table table;
}
namespace isa_v3 {
extern const Table table;
}
namespace isa_v4 {
extern const Table table;
}

inline const Table& table() {
#if defined(EXPUNGE_X86_LEVELS)
  return select_table(isa_base::table, isa_v3::table, isa_v4::table);
#else
  return isa_base::table;
#endif
}

}  // namespace expunge::privacy
