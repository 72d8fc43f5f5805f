// Bindings of the grad_norms family.
#pragma once

#include <pybind11/pybind11.h>

#include "grad_norms/grad_norms.hpp"

namespace expunge::bindings {

void bind_grad_norms(pybind11::module_& module);

}  // namespace expunge::bindings
