#include "bindings/bind_privacy.hpp"

#include "bindings/arrays.hpp"
#include "common/thread_pool.hpp"

namespace expunge::bindings {

void bind_privacy(py::module_& module) { (void)module; }

}  // namespace expunge::bindings
