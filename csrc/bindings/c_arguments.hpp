// What callers of the C interface give: checked numbers, and arrays that are read in place or copied.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "expunge.h"

namespace expunge::bindings {

// The text names the argument, what came, and what is needed.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

constexpr std::int64_t kMostElements = std::int64_t{1} << 58;  // bytes of float64 still fit 64 bits

inline void require_number(bool right, const char* name, const char* needed, std::int64_t got) {
  if (!right) throw InvalidArgument(std::string(name) + " must be " + needed + ", got " + std::to_string(got));
}

inline long at_least(std::int64_t low, const char* name, std::int64_t value) {
  require_number(value >= low && value < kMostElements, name, low == 0 ? "at least 0" : "at least 1", value);
  return static_cast<long>(value);
}

inline bool flag(const char* name, std::int32_t value) {
  require_number(value == 0 || value == 1, name, "0 or 1", value);
  return value == 1;
}

// Structures of another version, or not filled in at all, have another size.
template <class Args>
const Args& given(const Args* args) {
  if (args == nullptr) throw InvalidArgument("the structure must be given, got NULL");
  if (args->size != sizeof(Args))
    throw InvalidArgument("size must be sizeof of the structure, " + std::to_string(sizeof(Args)) + ", got " +
                          std::to_string(args->size));
  require_number(args->dtype == EXPUNGE_FLOAT32 || args->dtype == EXPUNGE_FLOAT64, "dtype",
                 "EXPUNGE_FLOAT32 or EXPUNGE_FLOAT64", args->dtype);
  require_number(args->threads >= 0 && args->threads <= 4096, "threads", "from 0 (every core) to 4096", args->threads);
  return *args;
}

// Numbers that nothing looks at as arrays: outputs, and weights of checkpoints. NULL where there may be none.
template <class T>
T* aligned(const char* name, T* pointer) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) != 0)
    throw InvalidArgument(std::string(name) + " must be aligned for its dtype");
  return pointer;
}

template <class T>
T* written(const char* name, T* pointer, long items) {
  if (pointer == nullptr && items > 0) throw InvalidArgument(std::string(name) + " must be given, got NULL");
  return aligned(name, pointer);
}

inline double finite_at_least_0(const char* name, double value) {
  if (!(value >= 0.0 && value <= std::numeric_limits<double>::max()))
    throw InvalidArgument(std::string(name) + " must be finite and at least 0, got " + std::to_string(value));
  return value;
}

// An input of up to five axes, the examples' first.
template <class T>
class Operand {
 public:
  Operand(const char* name, const expunge_array& array, std::initializer_list<std::int64_t> shape)
      : data_(static_cast<const T*>(array.data)) {
    std::int64_t total = 1;  // of what is not empty: steps between examples must fit as well
    bool empty = false;
    int axes = 0;
    for (std::int64_t length : shape) {
      lengths_[axes++] = static_cast<long>(length);
      empty = empty || length == 0;
      if (__builtin_mul_overflow(total, length == 0 ? 1 : length, &total) || total >= kMostElements)
        throw InvalidArgument(std::string(name) + " must have fewer than 2**58 elements");
    }
    long step = 1;
    for (int axis = axes - 1; axis >= 0; --axis) {
      strides_[axis] = array.strides == nullptr ? step : static_cast<long>(array.strides[axis]);
      in_place_ = in_place_ && (lengths_[axis] == 1 || strides_[axis] == step);
      if (axis == 0) item_ = step;
      step *= lengths_[axis];
    }
    in_place_ = in_place_ || empty;
    if (!empty && data_ == nullptr) throw InvalidArgument(std::string(name) + " must be given, got NULL");
    aligned(name, data_);
  }

  // Bytes that copies of so many examples take.
  long room(long examples) const {
    return in_place_ ? 0 : (examples * item_ * static_cast<long>(sizeof(T)) + 63) / 64 * 64;
  }

  // Examples [begin, end) in C order without gaps: in place, or copied to `room`, which then begins behind them.
  const T* at(long begin, long end, char*& room_left) const {
    if (in_place_) return data_ == nullptr ? nullptr : data_ + begin * item_;
    T* copy = reinterpret_cast<T*>(room_left);
    room_left += room(end - begin);
    T* to = copy;
    for (long i = begin; i < end; ++i) to = gather(data_ + i * strides_[0], to);
    return copy;
  }

  // Calls body with every value of an operand of up to two axes.
  template <class Body>
  void each(Body&& body) const {
    for (long i = 0; i < lengths_[0]; ++i)
      for (long j = 0; j < lengths_[1]; ++j) body(data_[i * strides_[0] + j * strides_[1]]);
  }

 private:
  // Copies one example.
  T* gather(const T* from, T* to) const {
    for (long i = 0; i < lengths_[1]; ++i)
      for (long j = 0; j < lengths_[2]; ++j)
        for (long k = 0; k < lengths_[3]; ++k) {
          const T* row = from + i * strides_[1] + j * strides_[2] + k * strides_[3];
          for (long l = 0; l < lengths_[4]; ++l) *to++ = row[l * strides_[4]];
        }
    return to;
  }

  const T* data_;
  long lengths_[5] = {1, 1, 1, 1, 1}, strides_[5] = {};  // axes behind the last have length 1
  long item_ = 1;  // elements of one example
  bool in_place_ = true;
};

// Tokens and labels are summed over, or address memory: all of them within [low, high).
inline void require_all_within(const Operand<long>& values, const char* name, long low, long high) {
  values.each([&](long value) {
    if (value < low || value >= high)
      throw InvalidArgument(std::string(name) + " must be within [" + std::to_string(low) + ", " +
                            std::to_string(high) + "), got " + std::to_string(value));
  });
}

static_assert(std::is_same<long, std::int64_t>::value || sizeof(long) == sizeof(std::int64_t), "tokens are int64");

}  // namespace expunge::bindings
