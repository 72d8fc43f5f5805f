// CUDA kernels of per-example gradient norms.
#pragma once

#include <pybind11/pybind11.h>

namespace expunge::bindings {

void bind_grad_norms_cuda(pybind11::module_& module);

}  // namespace expunge::bindings
