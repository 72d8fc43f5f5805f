// Table of contents of expunge._core; every binding lives in its family's header.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/bind_c_api.hpp"
#include "bindings/families.hpp"
#include "common/float_mode.hpp"
#include "common/isa.hpp"
#include "common/thread_pool.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Compiled kernels of Expunge. Private: use the functions of the expunge package.";
  // A bad EXPUNGE_ISA or EXPUNGE_NUM_THREADS fails the import, not the first call.
  expunge::active_isa();
  expunge::default_threads();
  module.def("isa", [] { return expunge::isa_name(expunge::active_isa()); });
  module.def("default_threads", &expunge::default_threads);
  // The calling thread's floating-point mode, as the processor spells it: sets it, and returns what it was.
  module.def("_exchange_float_mode", [](std::uint64_t mode) {
    const std::uint64_t before = expunge::float_mode();
    expunge::set_float_mode(mode);
    return before;
  });
  module.attr("_IEEE_MODE") = expunge::kIeeeMode;
  module.attr("_FLUSHING") = expunge::kFlushing;
  // Addresses of a function with GOMP_parallel's signature; 0 is the own pool.
  module.def("exchange_thread_team", [](std::uintptr_t address) {
    return reinterpret_cast<std::uintptr_t>(
        expunge::exchange_thread_team(reinterpret_cast<expunge::ThreadTeam>(address)));
  });
  expunge::bindings::bind_privacy(module);
  expunge::bindings::bind_residual(module);
  expunge::bindings::bind_ridge(module);
  expunge::bindings::bind_langevin(module);
  expunge::bindings::bind_grad_norms(module);
  expunge::bindings::bind_columns(module);
  expunge::bindings::bind_noise(module);
  expunge::bindings::bind_ensemble(module);
  expunge::bindings::bind_c_api(module);
}
