#pragma once

#include <pybind11/pybind11.h>

namespace expunge::bindings {

void bind_ridge_cuda(pybind11::module_& module);

}  // namespace expunge::bindings
