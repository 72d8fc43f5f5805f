// Bindings of the ridge family.
#pragma once

#include <pybind11/pybind11.h>

#include "ridge/ridge.hpp"

namespace expunge::bindings {

void bind_ridge(pybind11::module_& module);

}  // namespace expunge::bindings
