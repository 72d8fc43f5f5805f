// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "langevin/langevin.hpp"

namespace expunge::langevin::EXPUNGE_ISA_NS {

extern const Table table = {0};

}  // namespace expunge::langevin::EXPUNGE_ISA_NS
