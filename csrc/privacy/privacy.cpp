// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "privacy/privacy.hpp"

namespace expunge::privacy::EXPUNGE_ISA_NS {

extern const Table table = {0};

}  // namespace expunge::privacy::EXPUNGE_ISA_NS
