// One binding per kernel, whatever memory it runs on. A kernel is a function of the arrays and numbers that Python
// gives and, last, of the place to run: `Place`, or `PlaceWithScratch` if it needs scratch memory on a device. Sources
// that include this are compiled once for NumPy's arrays and, with EXPUNGE_ON_DEVICE, once for arrays on a device.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/scalars.hpp"
#include "bindings/without_gil.hpp"
#if defined(EXPUNGE_ON_DEVICE)
#include "bindings/device_arrays.hpp"
#else
#include <atomic>
#include <memory>
#include <new>

#include "common/thread_pool.hpp"
#endif

namespace expunge::bindings {

#if defined(EXPUNGE_ON_DEVICE)

constexpr bool kOnDevice = true;  // arrays cannot be read here
using Array = DeviceArray;

class Place {
 public:
  explicit Place(std::uintptr_t stream) : stream_(stream) {}

  void uses(const DeviceArray& array) { arrays_.push_back(&array); }

  template <class Launch>  // launch(stream)
  void run(Launch launch) const {
    run_on_device(arrays_, stream_, launch);
  }

 private:
  std::vector<const DeviceArray*> arrays_;
  std::uintptr_t stream_;
};

// The same with a workspace of float64, or the question how long it has to be.
class PlaceWithScratch : public Place {
 public:
  PlaceWithScratch() : Place(0) {}
  PlaceWithScratch(const DeviceArray& workspace, std::uintptr_t stream) : Place(stream), workspace_(&workspace) {}

  template <class Launch>  // launch(workspace, stream)
  void run(long bytes, Launch launch) {
    doubles_ = (bytes + 7) / 8;
    if (workspace_ == nullptr) return;
    double* memory = output<double>(*workspace_, {-1});
    if (workspace_->shape(0) < doubles_)
      refuse(workspace_->name(),
             "hold at least " + std::to_string(doubles_) + " elements, got shape " + shape_text(*workspace_));
    uses(*workspace_);
    Place::run([&](cudaStream_t stream) { return launch(memory, stream); });
  }

  long doubles() const { return doubles_; }

 private:
  const DeviceArray* workspace_ = nullptr;
  long doubles_ = 0;
};

#else

constexpr bool kOnDevice = false;
using Array = HostArray;

class Place {
 public:
  explicit Place(int threads_given) : threads(threads_given) {}

  const int threads;

  void uses(const HostArray& array) { arrays_.push_back(&array); }

  // Calls body() without the GIL.
  template <class Body>
  void run_once(Body body) const {
    require_apart(arrays_);
    const WithoutGil released;
    body();
  }

  // Calls body(begin, end) for ranges of [0, n), without the GIL.
  template <class Body>
  void run(long n, long grain, Body body) const {
    run_once([&] { parallel_ranges(n, grain, threads, body); });
  }

  // Calls body(begin, end, scratch) with so many doubles for each range. Nothing is thrown out of the parallel loop.
  template <class Body>
  void run_with_scratch(long n, long grain, long doubles, Body body) const {
    std::atomic<bool> enough{true};
    run(n, grain, [&](long begin, long end) {
      const std::unique_ptr<double[]> scratch(new (std::nothrow) double[static_cast<std::size_t>(doubles)]);
      if (scratch)
        body(begin, end, scratch.get());
      else
        enough = false;
    });
    if (!enough) throw std::bad_alloc();
  }

 private:
  std::vector<const HostArray*> arrays_;
};
using PlaceWithScratch = Place;

#endif

// What Python gives for an argument of a kernel, and what is made of it for as long as the call.
template <class T>
struct Argument {
  using Held = T;
  static Held hold(const py::object& object, const char* name) {
    if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
      return scalar<T>(object, name);
    } else {
      if (!py::isinstance<T>(object))
        refuse_kind(name, ("a " + py::type::of<T>().attr("__name__").template cast<std::string>()).c_str(), object);
      return object.cast<T>();
    }
  }
};
template <class A>
struct ArrayArgument {
  using Held = A;
  static Held hold(const py::object& object, const char* name) { return A(object, name); }
};
template <>
struct Argument<HostArray> : ArrayArgument<HostArray> {};
#if defined(EXPUNGE_ON_DEVICE)
template <>
struct Argument<DeviceArray> : ArrayArgument<DeviceArray> {};
#endif
template <>
struct Argument<std::optional<Array>> {
  using Held = std::optional<Array>;
  static Held hold(const py::object& object, const char* name) {
    if (object.is_none()) return std::nullopt;
    return Held(std::in_place, object, name);
  }
};

template <class T>
using ArgumentOf = Argument<std::remove_cv_t<std::remove_reference_t<T>>>;

inline void note(Place& place, const Array& array) { place.uses(array); }
inline void note(Place& place, const std::optional<Array>& array) {
  if (array) place.uses(*array);
}
template <class T>
void note(Place&, const T&) {}  // numbers, and arrays that stay on the host

// Left out, an optional argument is None or 0.
template <class T, bool optional>
auto named(const char* name) {
  if constexpr (!optional)
    return py::arg(name);
  else if constexpr (std::is_arithmetic_v<typename ArgumentOf<T>::Held>)
    return py::arg(name) = 0;
  else
    return py::arg(name) = py::none();
}

template <class>
using Given = py::object;  // what pybind11 casts itself, it casts to what fits, and refuses without a name

// Threads to run on; 0 is the default number.
inline int thread_count(const py::object& given) {
  const int threads = integer<int>(given, "threads");
  if (threads < 0) refuse("threads", "be at least 0, got " + std::to_string(threads));
  return threads;
}

template <class P, class... Args>
struct Binding {
  using All = std::tuple<Args...>;
  using Each = std::index_sequence_for<Args...>;
  static constexpr std::size_t count = sizeof...(Args);
  using Names = std::array<const char*, count>;

  void (*kernel)(Args..., P&);
  Names names;

  // Arguments are looked at in their order, so that the first wrong one is the one that is named.
  template <std::size_t... I>
  void call(P& place, std::index_sequence<I...>, const Given<Args>&... given) const {
    std::tuple<typename ArgumentOf<Args>::Held...> held{ArgumentOf<Args>::hold(given, names[I])...};
    (note(place, std::get<I>(held)), ...);
    kernel(std::get<I>(held)..., place);
  }

  // `named_args`: what pybind11 is told of each argument.
  template <class... Named>
  void define(py::module_& module, const char* name, const Named&... named_args) const {
    using py::arg;
#if defined(EXPUNGE_ON_DEVICE)
    if constexpr (std::is_same_v<P, PlaceWithScratch>) {
      module.def((std::string(name) + "_workspace").c_str(),
                 [self = *this](const Given<Args>&... given) {
                   PlaceWithScratch question;
                   self.call(question, Each(), given...);
                   return question.doubles();
                 },
                 named_args...);
      module.def(
          name,
          [self = *this](const Given<Args>&... given, const py::object& workspace, const py::object& stream) {
            const DeviceArray scratch(workspace, "workspace");
            PlaceWithScratch place(scratch, integer<std::uintptr_t>(stream, "stream"));
            self.call(place, Each(), given...);
          },
          named_args..., arg("workspace"), arg("stream"));
    } else {
      module.def(
          name,
          [self = *this](const Given<Args>&... given, const py::object& stream) {
            Place place(integer<std::uintptr_t>(stream, "stream"));
            self.call(place, Each(), given...);
          },
          named_args..., arg("stream"));
    }
#else
    module.def(
        name,
        [self = *this](const Given<Args>&... given, const py::object& threads) {
          Place place(thread_count(threads));
          self.call(place, Each(), given...);
        },
        named_args..., arg("threads") = 0);
#endif
  }

  template <std::size_t optional, std::size_t... Before, std::size_t... After>
  void define_from(py::module_& module, const char* name, std::index_sequence<Before...>,
                   std::index_sequence<After...>) const {
    constexpr std::size_t positional = sizeof...(Before);
    define(module, name, py::arg(names[Before])..., py::kw_only(),
           named<std::tuple_element_t<positional + After, All>, (positional + After + optional >= count)>(
               names[positional + After])...);
  }
};

// The binding of a kernel: its last argument, the place, has no name.
template <class Kernel, class Indices>
struct BindingOf;
template <class... All, std::size_t... I>
struct BindingOf<void (*)(All...), std::index_sequence<I...>> {
  using Tuple = std::tuple<All...>;
  using type =
      Binding<std::remove_reference_t<std::tuple_element_t<sizeof...(I), Tuple>>, std::tuple_element_t<I, Tuple>...>;
};

// Binds a kernel whose arguments have these names. Those behind the first `positional` are given by name, and the last
// `optional` may be left out.
template <std::size_t positional, std::size_t optional = 0, class... All>
void define(py::module_& module, const char* name, void (*kernel)(All...),
            const std::array<const char*, sizeof...(All) - 1>& names) {
  constexpr std::size_t count = sizeof...(All) - 1;
  const typename BindingOf<void (*)(All...), std::make_index_sequence<count>>::type binding{kernel, names};
  binding.template define_from<optional>(module, name, std::make_index_sequence<positional>(),
                                         std::make_index_sequence<count - positional>());
}

}  // namespace expunge::bindings
