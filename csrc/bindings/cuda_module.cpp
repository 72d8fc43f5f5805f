// Table of contents of expunge._cuda and, compiled against the emulator, of expunge._cuda_emul.
#include <pybind11/pybind11.h>

#include "bindings/bind_grad_norms_cuda.hpp"
#include "bindings/bind_langevin_cuda.hpp"
#include "bindings/bind_privacy_cuda.hpp"
#include "bindings/bind_ridge_cuda.hpp"
#include "bindings/device_arrays.hpp"

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
    pybind11::gil_scoped_release release;
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
  expunge::bindings::bind_privacy_cuda(module);
  expunge::bindings::bind_ridge_cuda(module);
  expunge::bindings::bind_grad_norms_cuda(module);
  expunge::bindings::bind_langevin_cuda(module);
}
