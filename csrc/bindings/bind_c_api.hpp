// The table of functions behind expunge.h, in a capsule.
#pragma once

#include <pybind11/pybind11.h>

namespace expunge::bindings {

void bind_c_api(pybind11::module_& module);

}  // namespace expunge::bindings
