// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "ridge/ridge.hpp"

#include "ridge/quote_ranges.hpp"

namespace expunge::ridge::EXPUNGE_ISA_NS {

extern const Table table = {quote_workspace,          exact_quotes,   gaussian_pairs,      solve_reduced,
                            shifted_quotes_workspace, shifted_quotes, smallest_eigenvalues};

}  // namespace expunge::ridge::EXPUNGE_ISA_NS
