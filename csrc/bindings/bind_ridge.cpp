#include "bindings/bind_ridge.hpp"

#include "bindings/arrays.hpp"
#include "common/thread_pool.hpp"

namespace expunge::bindings {

void bind_ridge(py::module_& module) { (void)module; }

}  // namespace expunge::bindings
