#pragma once

#include <pybind11/pybind11.h>

namespace expunge::bindings {
void bind_sampled_gaussian(pybind11::module_& module);
}
