// Bindings of the privacy family.
#pragma once

#include <pybind11/pybind11.h>

#include "privacy/privacy.hpp"

namespace expunge::bindings {

void bind_privacy(pybind11::module_& module);

}  // namespace expunge::bindings
