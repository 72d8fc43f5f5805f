// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "ridge/ridge.hpp"

namespace expunge::ridge::EXPUNGE_ISA_NS {

extern const Table table = {0};

}  // namespace expunge::ridge::EXPUNGE_ISA_NS
