// Bindings of the kernels for noise, which are on the host alone.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#include "noise/noise.hpp"

namespace expunge::bindings {
namespace {

void tell(const noise::Progress& made, std::int64_t* out) {
  out[0] = made.numbers;
  out[1] = made.words;
  out[2] = static_cast<std::int64_t>(made.ended);
}

void rounded_normals(const Array& words, const Array& theta, const Array& cells, const Array& progress,
                     std::int64_t scale, long exponent, Place& place) {
  noise::Release release = {};
  release.n_words = length(words, 0);
  release.words = input<std::uint32_t>(words, {release.n_words});
  release.n = length(theta, 0);
  release.theta = input<double>(theta, {release.n});
  release.cells = output<std::int64_t>(cells, {release.n});
  std::int64_t* const out = output<std::int64_t>(progress, {3});
  if (scale < std::int64_t{1} << 52 || scale >= std::int64_t{1} << 53)
    refuse("scale", "be from 2^52 to 2^53 - 1, got " + std::to_string(scale));
  if (exponent < -1074 || exponent > 1023) refuse("exponent", "be from -1074 to 1023, got " + std::to_string(exponent));
  release.scale = scale;
  release.exponent = exponent;
  place.run_once([&] { tell(noise::table().rounded_normals(release), out); });
}

void exact_normals(const Array& words, const Array& hi, const Array& lo, const Array& progress, Place& place) {
  noise::Pairs pairs = {};
  pairs.n_words = length(words, 0);
  pairs.words = input<std::uint32_t>(words, {pairs.n_words});
  pairs.n = length(hi, 0);
  pairs.hi = output<double>(hi, {pairs.n});
  pairs.lo = output<double>(lo, {pairs.n});
  std::int64_t* const out = output<std::int64_t>(progress, {3});
  place.run_once([&] { tell(noise::pairs_table().exact_normals(pairs), out); });
}

}  // namespace

void bind_noise(py::module_& module) {
  define<4>(module, "rounded_normals", &rounded_normals, {"words", "theta", "cells", "progress", "scale", "exponent"});
  define<4>(module, "exact_normals", &exact_normals, {"words", "hi", "lo", "progress"});
}

}  // namespace expunge::bindings
