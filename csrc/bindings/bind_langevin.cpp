#include "bindings/bind_langevin.hpp"

#include "bindings/arrays.hpp"
#include "common/thread_pool.hpp"

namespace expunge::bindings {

void bind_langevin(py::module_& module) { (void)module; }

}  // namespace expunge::bindings
