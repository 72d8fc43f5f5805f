// NumPy's arrays, as array_checks.hpp looks at them.
#pragma once

#include <pybind11/numpy.h>

#include "bindings/array_checks.hpp"

namespace expunge::bindings {

class HostArray : public ArrayRole {
 public:
  // Borrows what the caller holds for as long as the call.
  HostArray(const py::object& object, const char* name)
      : name_(name), array_(py::reinterpret_borrow<py::array>(object)) {
    if (!py::isinstance<py::array>(object))
      throw py::type_error(std::string(name) + " must be a NumPy array, got " +
                           py::str(py::type::of(object)).cast<std::string>());
  }

  static constexpr bool on_device = false;

  const char* name() const { return name_; }
  int ndim() const { return static_cast<int>(array_.ndim()); }
  long shape(int axis) const { return static_cast<long>(array_.shape(axis)); }
  std::string dtype_text() const { return py::str(array_.dtype()).cast<std::string>(); }
  bool c_contiguous() const { return array_.flags() & py::array::c_style; }
  bool writeable() const { return array_.writeable(); }
  void* data() const { return const_cast<void*>(array_.data()); }
  std::size_t bytes() const { return static_cast<std::size_t>(array_.nbytes()); }

  template <class T>
  bool is() const {
    return py::dtype::of<T>().equal(array_.dtype());
  }

 private:
  const char* name_;
  py::array array_;
};

}  // namespace expunge::bindings
