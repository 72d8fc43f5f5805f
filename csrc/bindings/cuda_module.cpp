// Table of contents of expunge._cuda and, compiled against the emulator, of expunge._cuda_emul.
#include <pybind11/pybind11.h>

#include "bindings/device_arrays.hpp"
#include "bindings/families.hpp"

namespace {

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Waits for a stream of a device: for libraries that cannot be told which stream an array is written on.
void synchronize(std::uintptr_t stream, int device) {
  expunge::bindings::require_device();
  cudaError_t error;
  {
    const expunge::bindings::WithoutGil released;
    int before = device;
    error = cudaGetDevice(&before);
    if (error == cudaSuccess) error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream));
    if (before != device) cudaSetDevice(before);
  }
  if (error != cudaSuccess) expunge::bindings::throw_device_error(cudaGetErrorString(error));
}

}  // namespace

#if defined(EXPUNGE_CUDA_EMULATION)
PYBIND11_MODULE(_cuda_emul, module) {
#else
PYBIND11_MODULE(_cuda, module) {
#endif
  module.doc() = "CUDA kernels of Expunge. Private: use the functions of the expunge package.";
  module.def("device_count", &device_count);
  module.def("synchronize", &synchronize, pybind11::arg("stream"), pybind11::arg("device") = 0);
  expunge::bindings::bind_privacy(module);
  expunge::bindings::bind_residual(module);
  expunge::bindings::bind_ridge(module);
  expunge::bindings::bind_grad_norms(module);
  expunge::bindings::bind_langevin(module);
}
