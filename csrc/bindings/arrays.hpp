// The memory half of the boundary: exact dtype, rank, C order, writability, one length per named dimension.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

namespace expunge::bindings {

namespace py = pybind11;

inline std::string shape_text(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    text += (axis ? ", " : "") + std::to_string(array.shape(axis));
  }
  return text + (array.ndim() == 1 ? ",)" : ")");
}

// Checks `array` and returns it as is: never a cast, never a copy. A length of -1 in `shape` accepts any.
template <class T>
const py::array& require(const py::array& array, const char* name, std::initializer_list<long> shape) {
  if (!py::dtype::of<T>().equal(array.dtype()))
    throw py::type_error(std::string(name) + " must have dtype " + py::str(py::dtype::of<T>()).cast<std::string>() +
                         ", got " + py::str(array.dtype()).cast<std::string>());
  if (array.ndim() != static_cast<py::ssize_t>(shape.size()))
    throw py::value_error(std::string(name) + " must have " + std::to_string(shape.size()) + " dimensions, got shape " +
                          shape_text(array));
  py::ssize_t axis = 0;
  for (long length : shape) {
    if (length >= 0 && array.shape(axis) != length)
      throw py::value_error(std::string(name) + " must have length " + std::to_string(length) + " along axis " +
                            std::to_string(axis) + ", got shape " + shape_text(array));
    ++axis;
  }
  if (!(array.flags() & py::array::c_style)) throw py::value_error(std::string(name) + " must be C-contiguous");
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0)
    throw py::value_error(std::string(name) + " must be aligned for its dtype");
  return array;
}

template <class T>
const T* input(const py::array& array, const char* name, std::initializer_list<long> shape) {
  return static_cast<const T*>(require<T>(array, name, shape).data());
}

template <class T>
T* output(py::array& array, const char* name, std::initializer_list<long> shape) {
  require<T>(array, name, shape);
  if (!array.writeable()) throw py::value_error(std::string(name) + " must be writeable");
  return static_cast<T*>(array.mutable_data());
}

inline long length(const py::array& array, int axis, const char* name) {
  if (array.ndim() <= axis)
    throw py::value_error(std::string(name) + " must have more than " + std::to_string(axis) +
                          " dimensions, got shape " + shape_text(array));
  return static_cast<long>(array.shape(axis));
}

}  // namespace expunge::bindings
