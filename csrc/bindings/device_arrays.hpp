// arrays.hpp for arrays on a GPU, taken by DLPack: the same checks and messages, and one device for all of a call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "bindings/dlpack.hpp"
#include "common/bfloat16.hpp"
#include "common/gpu.cuh"

namespace expunge::bindings {

namespace py = pybind11;

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
class Array {
 public:
  Array(const py::object& object, const char* name) : name_(name) {
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

  const std::string& name() const { return name_; }
  int ndim() const { return tensor_->ndim; }
  long shape(int axis) const { return static_cast<long>(tensor_->shape[axis]); }
  int device() const { return tensor_->device.id; }
  dlpack::DataType dtype() const { return tensor_->dtype; }
  bool writeable() const { return !read_only_; }
  void* data() const { return static_cast<char*>(tensor_->data) + tensor_->byte_offset; }

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

  std::string shape_text() const {
    std::string text = "(";
    for (int axis = 0; axis < ndim(); ++axis) text += (axis ? ", " : "") + std::to_string(shape(axis));
    return text + (ndim() == 1 ? ",)" : ")");
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
  // orders it after what made the array; nothing needs to wait. _array_libraries.py says this as each library has it.
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

template <class T>
struct TypeOf;
#define EXPUNGE_TYPE(T, code_, text)                                     \
  template <>                                                            \
  struct TypeOf<T> {                                                     \
    static constexpr uint8_t code = dlpack::code_, bits = 8 * sizeof(T); \
    static constexpr const char* name = text;                            \
  };
EXPUNGE_TYPE(double, kFloat, "float64")
EXPUNGE_TYPE(float, kFloat, "float32")
EXPUNGE_TYPE(bfloat16, kBfloat, "bfloat16")
EXPUNGE_TYPE(int64_t, kInt, "int64")
EXPUNGE_TYPE(int32_t, kInt, "int32")
EXPUNGE_TYPE(uint32_t, kUInt, "uint32")
#undef EXPUNGE_TYPE

inline std::string dtype_text(dlpack::DataType type) {
  const char* kind = type.code == dlpack::kInt       ? "int"
                     : type.code == dlpack::kUInt    ? "uint"
                     : type.code == dlpack::kFloat   ? "float"
                     : type.code == dlpack::kBfloat  ? "bfloat"
                     : type.code == dlpack::kComplex ? "complex"
                     : type.code == dlpack::kBool    ? "bool"
                                                     : nullptr;
  if (kind == nullptr) return "DLPack type " + std::to_string(type.code);
  return type.code == dlpack::kBool ? kind : kind + std::to_string(type.bits);
}

template <class T>
bool has_type(const Array& array) {
  const dlpack::DataType type = array.dtype();
  return type.code == TypeOf<T>::code && type.bits == TypeOf<T>::bits && type.lanes == 1;
}

// Checks `array` and returns where its memory is: never a cast, never a copy. A length of -1 in `shape` accepts any.
template <class T>
T* require(const Array& array, std::initializer_list<long> shape) {
  const std::string& name = array.name();
  if (!has_type<T>(array))
    throw py::type_error(name + " must have dtype " + TypeOf<T>::name + ", got " + dtype_text(array.dtype()));
  if (array.ndim() != static_cast<int>(shape.size()))
    throw py::value_error(name + " must have " + std::to_string(shape.size()) + " dimensions, got shape " +
                          array.shape_text());
  int axis = 0;
  for (long length : shape) {
    if (length >= 0 && array.shape(axis) != length)
      throw py::value_error(name + " must have length " + std::to_string(length) + " along axis " +
                            std::to_string(axis) + ", got shape " + array.shape_text());
    ++axis;
  }
  if (!array.c_contiguous()) throw py::value_error(name + " must be C-contiguous");
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0)
    throw py::value_error(name + " must be aligned for its dtype");
  return static_cast<T*>(array.data());
}

template <class T>
const T* input(const Array& array, std::initializer_list<long> shape) {
  return require<T>(array, shape);
}

template <class T>
T* output(const Array& array, std::initializer_list<long> shape) {
  T* data = require<T>(array, shape);
  if (!array.writeable()) throw py::value_error(array.name() + " must be writeable");
  return data;
}

inline long length(const Array& array, int axis) {
  if (array.ndim() <= axis)
    throw py::value_error(array.name() + " must have more than " + std::to_string(axis) + " dimensions, got shape " +
                          array.shape_text());
  return array.shape(axis);
}

// Scratch of at least `elements`, which the caller's library allocated.
template <class T>
T* workspace(const Array& array, long elements) {
  T* data = output<T>(array, {-1});
  if (array.shape(0) < elements)
    throw py::value_error(array.name() + " must hold at least " + std::to_string(elements) + " elements, got shape " +
                          array.shape_text());
  return data;
}

// Calls run(T{}) with the T of the array's dtype.
template <class Run>
void by_dtype(const Array& array, Run run) {
  if (has_type<double>(array)) return run(double{});
  if (has_type<float>(array)) return run(float{});
  throw py::type_error(array.name() + " must have dtype float64 or float32, got " + dtype_text(array.dtype()));
}

// Runs launch(stream) on the device of the arrays, without the GIL; a launch that fails raises DeviceError.
template <class Launch>
void run_on_device(std::initializer_list<const Array*> arrays, std::uintptr_t stream, Launch launch) {
  const Array* first = nullptr;
  for (const Array* array : arrays) {
    if (array == nullptr) continue;
    if (first == nullptr) first = array;
    if (array->device() != first->device())
      throw_device_error(array->name() + " must be on the device of " + first->name() + " (" +
                         std::to_string(first->device()) + "), got device " + std::to_string(array->device()));
  }
  require_device();
  std::string failure;
  {
    py::gil_scoped_release release;
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
