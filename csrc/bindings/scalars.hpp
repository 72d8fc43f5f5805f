// Numbers, truth values and texts that Python gives: of the kind asked for and in range, or refused by name. Nothing is
// rounded to an integer, cut to fewer bits or taken for true.
#pragma once

#include <pybind11/pybind11.h>

#include <limits>
#include <string>
#include <type_traits>

#include "bindings/array_checks.hpp"

namespace expunge::bindings {

[[noreturn]] inline void refuse_kind(const char* name, const char* needed, const py::object& given) {
  throw py::type_error(std::string(name) + " must be " + needed + ", got " +
                       py::str(py::type::of(given)).cast<std::string>());
}

// Forgets an error of Python's that only says no; Ctrl-C goes on.
inline void clear_error() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
  PyErr_Clear();
}

// The attribute, or nothing.
inline py::object attribute(const py::object& given, const char* name) {
  PyObject* found = PyObject_GetAttrString(given.ptr(), name);
  if (found == nullptr) clear_error();
  return py::reinterpret_steal<py::object>(found);
}

// NumPy's letter for the dtype ('b', 'f', ...) of a scalar or of an array without dimensions; 0 of everything else.
inline char scalar_kind(const py::object& given) {
  const py::object dtype = attribute(given, "dtype"), dimensions = attribute(given, "ndim");
  if (!dtype || !dimensions || !PyLong_Check(dimensions.ptr()) || PyObject_IsTrue(dimensions.ptr()) != 0) return 0;
  const py::object kind = attribute(dtype, "kind"), size = attribute(dtype, "itemsize");
  if (!kind || !PyUnicode_Check(kind.ptr()) || PyUnicode_GetLength(kind.ptr()) != 1) return 0;
  const bool wide = size && PyLong_Check(size.ptr()) && PyLong_AsLong(size.ptr()) > 8;  // longer than float64
  return wide ? 0 : static_cast<char>(PyUnicode_ReadChar(kind.ptr(), 0));
}

// The Python int of an integer of any library; nothing for what is none: floats, bools, arrays of several.
inline py::object as_int(const py::object& given) {
  if (PyLong_CheckExact(given.ptr())) return given;
  if (PyBool_Check(given.ptr())) return py::object();
  PyObject* number = PyNumber_Index(given.ptr());
  if (number == nullptr) clear_error();
  return py::reinterpret_steal<py::object>(number);
}

template <class T>
T integer(const py::object& given, const char* name) {
  const py::object number = as_int(given);
  if (!number) refuse_kind(name, "an integer", given);
  constexpr auto low = std::numeric_limits<T>::min();
  constexpr auto high = std::numeric_limits<T>::max();
  const auto out_of_range = [&](const std::string& got) {
    refuse(name, "be from " + std::to_string(low) + " to " + std::to_string(high) + ", got " + got);
  };
  int beyond = 0;
  const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &beyond);
  if (beyond == 0) {
    if constexpr (std::is_unsigned_v<T>) {
      if (value < 0 || static_cast<unsigned long long>(value) > high) out_of_range(std::to_string(value));
    } else {
      if (value < low || value > high) out_of_range(std::to_string(value));
    }
    return static_cast<T>(value);
  }
  if constexpr (std::is_unsigned_v<T> && sizeof(T) == sizeof(unsigned long long)) {
    if (beyond > 0) {
      const unsigned long long large = PyLong_AsUnsignedLongLong(number.ptr());
      if (PyErr_Occurred() == nullptr) return large;
      clear_error();
    }
  }
  out_of_range("an integer beyond 64 bits");
  return 0;
}

inline double real(const py::object& given, const char* name) {
  if (PyFloat_Check(given.ptr())) return PyFloat_AS_DOUBLE(given.ptr());
  double value = 0.0;
  if (const py::object number = as_int(given)) {
    value = PyLong_AsDouble(number.ptr());
    if (value == -1.0 && PyErr_Occurred() != nullptr) {
      clear_error();
      refuse(name, "be within the range of float64, got a larger integer");
    }
    return value;
  }
  if (scalar_kind(given) != 'f') refuse_kind(name, "a real number", given);
  value = PyFloat_AsDouble(given.ptr());
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    clear_error();
    refuse_kind(name, "a real number", given);
  }
  return value;
}

inline bool flag(const py::object& given, const char* name) {
  if (PyBool_Check(given.ptr())) return given.ptr() == Py_True;
  if (scalar_kind(given) != 'b') refuse_kind(name, "a bool", given);
  const int truth = PyObject_IsTrue(given.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth == 1;
}

inline std::string text(const py::object& given, const char* name) {
  if (!PyUnicode_Check(given.ptr())) refuse_kind(name, "a str", given);
  Py_ssize_t size = 0;
  const char* characters = PyUnicode_AsUTF8AndSize(given.ptr(), &size);
  if (characters == nullptr) {
    clear_error();
    refuse(name, "be text that UTF-8 can spell");
  }
  return std::string(characters, static_cast<std::size_t>(size));
}

// What Python gave as a T.
template <class T>
T scalar(const py::object& given, const char* name) {
  if constexpr (std::is_same_v<T, bool>)
    return flag(given, name);
  else if constexpr (std::is_floating_point_v<T>)
    return real(given, name);
  else if constexpr (std::is_integral_v<T>)
    return integer<T>(given, name);
  else
    return text(given, name);
}

}  // namespace expunge::bindings
