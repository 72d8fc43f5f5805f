// The memory half of the boundary, said once for arrays of every kind: exact dtype, rank, C order, writability, one
// length per named dimension, memory of its own if it is written. An array has name, ndim, shape, dtype_text, is<T>,
// c_contiguous, writeable, data and bytes, and is an ArrayRole.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/dlpack.hpp"
#include "common/bfloat16.hpp"

namespace expunge::bindings {

namespace py = pybind11;

static_assert(sizeof(long) == sizeof(std::int64_t), "tokens, labels, ranks and counts are int64");

template <class T>
constexpr dlpack::DataType type_of() {
  constexpr dlpack::TypeCode code = std::is_same_v<T, bfloat16>   ? dlpack::kBfloat
                                    : std::is_floating_point_v<T> ? dlpack::kFloat
                                    : std::is_unsigned_v<T>       ? dlpack::kUInt
                                                                  : dlpack::kInt;
  return {code, 8 * sizeof(T), 1};
}

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

// What a call does with an array.
class ArrayRole {
 public:
  void will_be_written() const { written_ = true; }
  bool written() const { return written_; }

 private:
  mutable bool written_ = false;
};

template <class Array>
std::string shape_text(const Array& array) {
  std::string text = "(";
  for (int axis = 0; axis < array.ndim(); ++axis) text += (axis ? ", " : "") + std::to_string(array.shape(axis));
  return text + (array.ndim() == 1 ? ",)" : ")");
}

[[noreturn]] inline void refuse(const char* name, const std::string& text) {
  throw py::value_error(std::string(name) + " must " + text);
}

// Memory bounds the lengths of arrays that have entries; those of empty ones are bounded here, so that products of
// lengths fit 64 bits. Kernels on a device count rows along axis 0 with 64 bits, and along the others with 32.
constexpr long kLongest = 2147483647;

template <class Array>
void require_countable(const Array& array) {
  const bool empty = array.bytes() == 0;
  for (int axis = 0; axis < array.ndim(); ++axis)
    if ((empty || (Array::on_device && axis > 0)) && array.shape(axis) > kLongest)
      refuse(array.name(), "have lengths below 2**31" + std::string(empty ? " where it is empty" : "") +
                               ", got shape " + shape_text(array));
}

// Checks `array` and returns where its memory is: never a cast, never a copy. A length of -1 in `shape` accepts any.
template <class T, class Array>
T* require(const Array& array, std::initializer_list<long> shape) {
  if (!array.template is<T>())
    throw py::type_error(std::string(array.name()) + " must have dtype " + dtype_text(type_of<T>()) + ", got " +
                         array.dtype_text());
  if (array.ndim() != static_cast<int>(shape.size()))
    refuse(array.name(), "have " + std::to_string(shape.size()) + " dimensions, got shape " + shape_text(array));
  int axis = 0;
  for (long length : shape) {
    if (length >= 0 && array.shape(axis) != length)
      refuse(array.name(), "have length " + std::to_string(length) + " along axis " + std::to_string(axis) +
                               ", got shape " + shape_text(array));
    ++axis;
  }
  require_countable(array);
  if (!array.c_contiguous()) refuse(array.name(), "be C-contiguous");
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0)
    refuse(array.name(), "be aligned for its dtype");
  return static_cast<T*>(array.data());
}

template <class T, class Array>
const T* input(const Array& array, std::initializer_list<long> shape) {
  return require<T>(array, shape);
}

template <class T, class Array>
const T* input(const std::optional<Array>& array, std::initializer_list<long> shape) {
  return array ? require<T>(*array, shape) : nullptr;
}

template <class T, class Array>
T* output(const Array& array, std::initializer_list<long> shape) {
  T* data = require<T>(array, shape);
  if (!array.writeable()) refuse(array.name(), "be writeable");
  array.will_be_written();
  return data;
}

// Ranges of a kernel run in any order: what it writes may be no part of what it reads, or writes elsewhere. For arrays
// that have been checked, so that none has gaps.
template <class Array>
void require_apart(const std::vector<const Array*>& arrays) {
  for (const Array* written : arrays) {
    if (!written->written() || written->bytes() == 0) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(written->data()), end = begin + written->bytes();
    for (const Array* other : arrays) {
      const auto first = reinterpret_cast<std::uintptr_t>(other->data());
      if (other != written && other->bytes() > 0 && first < end && begin < first + other->bytes())
        refuse(written->name(), std::string("not share memory with ") + other->name());
    }
  }
}

template <class Array>
long length(const Array& array, int axis) {
  if (array.ndim() <= axis)
    refuse(array.name(), "have more than " + std::to_string(axis) + " dimensions, got shape " + shape_text(array));
  return array.shape(axis);
}

// Calls run(T{}) with the T of the array's dtype.
template <class Array, class Run>
void by_dtype(const Array& array, Run run) {
  if (array.template is<double>()) return run(double{});
  if (array.template is<float>()) return run(float{});
  throw py::type_error(std::string(array.name()) + " must have dtype float64 or float32, got " + array.dtype_text());
}

// All of values[0..count), in the computer's memory, within [low, high).
template <class Value>
void require_within(const Value* values, long count, const char* name, long low, long high) {
  for (long i = 0; i < count; ++i)
    if (values[i] < low || values[i] >= high)
      refuse(name,
             "be within [" + std::to_string(low) + ", " + std::to_string(high) + "), got " + std::to_string(values[i]));
}

}  // namespace expunge::bindings
