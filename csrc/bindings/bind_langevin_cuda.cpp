#include "bindings/bind_langevin_cuda.hpp"

#include "bindings/device_arrays.hpp"
#include "langevin/langevin.cuh"

namespace expunge::bindings {
namespace {

using Stream = std::uintptr_t;

void random_words(const py::object& out_array, uint64_t seed, uint64_t chain, uint32_t step, Stream stream) {
  const Array out(out_array, "out");
  const long blocks = length(out, 0);
  uint32_t* words = output<uint32_t>(out, {blocks, 4});
  run_on_device({&out}, stream,
                [&](cudaStream_t s) { return langevin::device::random_words(words, blocks, seed, chain, step, s); });
}

void standard_normals(const py::object& out_array, uint64_t seed, uint64_t chain, uint32_t step, Stream stream) {
  const Array out(out_array, "out");
  by_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    const long count = length(out, 0);
    T* normals = output<T>(out, {count});
    run_on_device({&out}, stream, [&](cudaStream_t s) {
      return langevin::device::standard_normals<T>(normals, count, seed, chain, step, s);
    });
  });
}

}  // namespace

void bind_langevin_cuda(py::module_& module) {
  using py::arg;
  module.def("random_words", &random_words, arg("out"), py::kw_only(), arg("seed"), arg("chain"), arg("step"),
             arg("stream"));
  module.def("standard_normals", &standard_normals, arg("out"), py::kw_only(), arg("seed"), arg("chain"), arg("step"),
             arg("stream"));
}

}  // namespace expunge::bindings
