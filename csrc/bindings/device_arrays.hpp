// Arrays on a GPU, taken by DLPack, as array_checks.hpp looks at them, and one device for all of a call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/array_checks.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/without_gil.hpp"
#include "common/gpu.cuh"

namespace expunge::bindings {

#if defined(EXPUNGE_CUDA_EMULATION)
constexpr const char* kDeviceName = "the CPU";
inline bool is_ours(dlpack::Device device) { return device.type == dlpack::kCPU; }
#else
constexpr const char* kDeviceName = "a CUDA device";
inline bool is_ours(dlpack::Device device) {
  return device.type == dlpack::kCUDA || device.type == dlpack::kCUDAManaged;
}
#endif

// Raises expunge.DeviceError: no device, an error of the device, or arrays on the wrong one.
[[noreturn]] inline void throw_device_error(const std::string& text) {
  PyErr_SetString(py::module_::import("expunge._errors").attr("DeviceError").ptr(), text.c_str());
  throw py::error_already_set();
}

// "13.0" of 13000.
inline std::string cuda_version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// What keeps the runtime that is linked in from running on this driver; empty where nothing does. A runtime needs a
// driver of its own major version or newer.
inline std::string driver_problem() {
  int runtime = 0, driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess || cudaDriverGetVersion(&driver) != cudaSuccess) return "";
  if (driver == 0) return "no driver was found";
  if (driver / 1000 >= runtime / 1000) return "";
  return "the driver is for CUDA " + cuda_version_text(driver) + ", and this build of expunge needs one for CUDA " +
         cuda_version_text(runtime) + ": update the driver, or build expunge with a CUDA toolkit of version " +
         std::to_string(driver / 1000);
}

// Fails unless there is a device to run on.
inline void require_device() {
  static bool found = false;  // a device does not come or go while a process runs
  if (found) return;
  std::string problem = driver_problem();
  int count = 0;
  if (problem.empty()) {
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess)
      problem = cudaGetErrorString(error);
    else if (count == 0)
      problem = "no device was found";
  }
  if (!problem.empty()) throw_device_error("arrays on a CUDA device need an NVIDIA GPU and its driver: " + problem);
  found = true;
}

// One array of a call, and the device all of them must be on.
class DeviceArray : public ArrayRole {
 public:
  DeviceArray(const py::object& object, const char* name) : name_(name) {
    if (!py::hasattr(object, "__dlpack__"))
      throw py::type_error(name_ + " must be an array that DLPack can exchange, got " +
                           py::str(py::type::of(object)).cast<std::string>());
    require_ours(object);
    const py::object exchange = object.attr("__dlpack__");
    try {
      capsule_ = ask(exchange);
    } catch (py::error_already_set& error) {
      throw py::type_error(name_ + " cannot be exchanged by DLPack: " + py::str(error.value()).cast<std::string>());
    }
    if (const auto* versioned = static_cast<const dlpack::ManagedVersioned*>(pointer("dltensor_versioned"))) {
      if (versioned->major != 1)
        throw py::type_error(name_ + " must use version 1 of DLPack, got " + std::to_string(versioned->major));
      tensor_ = &versioned->tensor;
      read_only_ = versioned->flags & dlpack::kReadOnly;
    } else if (const auto* managed = static_cast<const dlpack::Managed*>(pointer("dltensor"))) {
      tensor_ = &managed->tensor;
    } else {
      throw py::type_error(name_ + " gave something else than a DLPack capsule");
    }
    if (!is_ours(tensor_->device))
      throw_device_error(name_ + " must be on " + kDeviceName + ", got DLPack device type " +
                         std::to_string(tensor_->device.type));
  }

  static constexpr bool on_device = true;

  const char* name() const { return name_.c_str(); }
  int ndim() const { return tensor_->ndim; }
  long shape(int axis) const { return static_cast<long>(tensor_->shape[axis]); }
  int device() const { return tensor_->device.id; }
  std::string dtype_text() const { return bindings::dtype_text(tensor_->dtype); }
  bool writeable() const { return !read_only_; }
  void* data() const { return static_cast<char*>(tensor_->data) + tensor_->byte_offset; }

  std::size_t bytes() const {
    std::size_t total = tensor_->dtype.bits / 8;
    for (int axis = 0; axis < ndim(); ++axis) total *= static_cast<std::size_t>(tensor_->shape[axis]);
    return total;
  }

  bool c_contiguous() const {
    if (tensor_->strides == nullptr) return true;
    int64_t expected = 1;
    for (int axis = 0; axis < ndim(); ++axis)
      if (tensor_->shape[axis] == 0) return true;
    for (int axis = ndim() - 1; axis >= 0; --axis) {
      if (tensor_->shape[axis] != 1 && tensor_->strides[axis] != expected) return false;
      expected *= tensor_->shape[axis];
    }
    return true;
  }

  template <class T>
  bool is() const {
    const dlpack::DataType type = tensor_->dtype, needed = type_of<T>();
    return type.code == needed.code && type.bits == needed.bits && type.lanes == 1;
  }

 private:
  // Asked before the exchange: a library may refuse to hand out an array for a device that is not its own.
  void require_ours(const py::object& object) const {
#if !defined(EXPUNGE_CUDA_EMULATION)
    const py::tuple pair = py::tuple(object.attr("__dlpack_device__")());
    if (!is_ours({static_cast<int32_t>(py::int_(pair[0])), static_cast<int32_t>(py::int_(pair[1]))}))
      throw_device_error(name_ + " must be on " + kDeviceName + ", got DLPack device type " +
                         py::str(pair[0]).cast<std::string>());
#else
    (void)object;
#endif
  }

  // Versioned exchange says whether the array is read-only. Stream -1: the work runs on the caller's own stream, which
  // orders it after what made the array; nothing needs to wait. libraries.py of _kernels says this for each.
  static py::object ask(const py::object& exchange) {
    using namespace py::literals;
    const py::tuple version = py::make_tuple(1, 0);
#if defined(EXPUNGE_CUDA_EMULATION)
    const py::object stream = py::none();
#else
    const py::object stream = py::int_(-1);
#endif
    try {
      return exchange("stream"_a = stream, "max_version"_a = version);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
    }
    return exchange("stream"_a = stream);  // a library that knows the first exchange only
  }

  const void* pointer(const char* kind) const {
    return PyCapsule_IsValid(capsule_.ptr(), kind) ? PyCapsule_GetPointer(capsule_.ptr(), kind) : nullptr;
  }

  std::string name_;
  py::object capsule_;  // frees the exchange when it goes
  const dlpack::Tensor* tensor_ = nullptr;
  bool read_only_ = false;
};

// Runs launch(stream) on the device of the arrays, without the GIL; a launch that fails raises DeviceError.
template <class Launch>
void run_on_device(const std::vector<const DeviceArray*>& arrays, std::uintptr_t stream, Launch launch) {
  require_apart(arrays);
  const DeviceArray* first = arrays.front();
  for (const DeviceArray* array : arrays) {
    if (array->device() != first->device())
      throw_device_error(std::string(array->name()) + " must be on the device of " + first->name() + " (" +
                         std::to_string(first->device()) + "), got device " + std::to_string(array->device()));
  }
  require_device();
  std::string failure;
  {
    const WithoutGil released;
    int before = 0;
    cudaError_t error = cudaGetDevice(&before);
    if (error == cudaSuccess) error = cudaSetDevice(first->device());
    if (error == cudaSuccess) error = launch(reinterpret_cast<cudaStream_t>(stream));
    if (error != cudaSuccess) failure = cudaGetErrorString(error);
    if (before != first->device()) cudaSetDevice(before);
    (void)cudaGetLastError();
  }
  if (!failure.empty()) throw_device_error(failure);
}

}  // namespace expunge::bindings
