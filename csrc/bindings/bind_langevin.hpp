// Bindings of the langevin family.
#pragma once

#include <pybind11/pybind11.h>

#include "langevin/langevin.hpp"

namespace expunge::bindings {

void bind_langevin(pybind11::module_& module);

}  // namespace expunge::bindings
