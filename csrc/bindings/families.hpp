// The bindings of every family: in expunge._core for NumPy's arrays, in expunge._cuda for arrays on a device.
#pragma once

#include <pybind11/pybind11.h>

namespace expunge::bindings {

void bind_columns(pybind11::module_& module);  // on the host alone
void bind_ensemble(pybind11::module_& module);  // on the host alone
void bind_grad_norms(pybind11::module_& module);
void bind_langevin(pybind11::module_& module);
void bind_noise(pybind11::module_& module);  // on the host alone
void bind_privacy(pybind11::module_& module);
void bind_residual(pybind11::module_& module);
void bind_ridge(pybind11::module_& module);

}  // namespace expunge::bindings
