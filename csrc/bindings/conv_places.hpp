// Where a convolution reads, for the C interface: what _kernels/conv_geometry.py is for Python.
#pragma once

#include <vector>

#include "bindings/c_arguments.hpp"
#include "bindings/grad_norm_runs.hpp"

namespace expunge::bindings {

// Missing leading axes have length 1.
struct ConvPlaces {
  long source[3], padded[3];
  std::vector<int> pad_maps[3];  // all empty where nothing is padded
  std::vector<int> position_offsets, feature_offsets;
};

// Source index of every padded entry; -1 where it is zero.
inline std::vector<int> pad_map(long length, long before, long after, int mode) {
  const long most = before > after ? before : after;
  if (mode == EXPUNGE_PAD_CIRCULAR) require_number(most <= length, "padding", "at most the length if circular", most);
  if (mode == EXPUNGE_PAD_REFLECT)
    require_number(most == 0 || most < length, "padding", "below the length if reflected", most);
  if (mode == EXPUNGE_PAD_REPLICATE)
    require_number(most == 0 || length > 0, "padding", "0 for a length of 0 if replicated", most);
  std::vector<int> map;
  map.reserve(static_cast<std::size_t>(before + length + after));
  for (long k = -before; k < length + after; ++k) {
    long index = k;
    if (mode == EXPUNGE_PAD_ZEROS)
      index = k < 0 || k >= length ? -1 : k;
    else if (mode == EXPUNGE_PAD_REPLICATE)
      index = k < 0 ? 0 : k >= length ? length - 1 : k;
    else if (mode == EXPUNGE_PAD_CIRCULAR)
      index = k < 0 ? k + length : k >= length ? k - length : k;
    else
      index = k < 0 ? -k : k >= length ? 2 * (length - 1) - k : k;
    map.push_back(static_cast<int>(index));
  }
  return map;
}

// Offsets of the points of a grid in a padded image, in C order.
inline std::vector<int> grid_offsets(const long counts[3], const long steps[3], const long plane[3], long channels,
                                     long channel_length) {
  std::vector<int> offsets;
  for (long channel = 0; channel < channels; ++channel)
    for (long i = 0; i < counts[0]; ++i)
      for (long j = 0; j < counts[1]; ++j)
        for (long k = 0; k < counts[2]; ++k)
          offsets.push_back(static_cast<int>(channel * channel_length +
                                             (i * steps[0] * plane[1] + j * steps[1]) * plane[2] + k * steps[2]));
  return offsets;
}

inline ConvPlaces conv_places(const expunge_conv_grad_norms& args) {
  require_number(args.axes >= 1 && args.axes <= 3, "axes", "1, 2 or 3", args.axes);
  require_number(args.padding_mode >= EXPUNGE_PAD_ZEROS && args.padding_mode <= EXPUNGE_PAD_REPLICATE, "padding_mode",
                 "one of EXPUNGE_PAD_*", args.padding_mode);
  require_number(args.groups >= 1 && args.channels % args.groups == 0 && args.out_channels % args.groups == 0, "groups",
                 "a divisor of channels and out_channels", args.groups);
  ConvPlaces places;
  long kernel[3], step[3], spread[3], output[3], before[3], after[3];
  const int missing = 3 - args.axes;
  bool padding = false;
  for (int axis = 0; axis < 3; ++axis) {
    const int k = axis - missing;
    const auto bounded = [](std::int64_t low, const char* name, std::int64_t value) {
      require_number(value <= kMostPixels, name, "below 2**31", value);
      return at_least(low, name, value);
    };
    places.source[axis] = k < 0 ? 1 : bounded(0, "length", args.length[k]);
    kernel[axis] = k < 0 ? 1 : bounded(1, "kernel_size", args.kernel_size[k]);
    step[axis] = k < 0 ? 1 : bounded(1, "stride", args.stride[k]);
    spread[axis] = k < 0 ? 1 : bounded(1, "dilation", args.dilation[k]);
    before[axis] = k < 0 ? 0 : bounded(0, "padding_before", args.padding_before[k]);
    after[axis] = k < 0 ? 0 : bounded(0, "padding_after", args.padding_after[k]);
    places.padded[axis] = places.source[axis] + before[axis] + after[axis];
    padding = padding || before[axis] > 0 || after[axis] > 0;
    const long free = places.padded[axis] - spread[axis] * (kernel[axis] - 1) - 1;
    require_number(free >= 0, "kernel_size", "at most the padded length, with its dilation", kernel[axis]);
    output[axis] = free / step[axis] + 1;
    if (k >= 0 && args.output_length[k] != output[axis])
      throw InvalidArgument("output_length must be " + std::to_string(output[axis]) + " along axis " +
                            std::to_string(k) + ", got " + std::to_string(args.output_length[k]));
  }
  const long in_channels = static_cast<long>(args.channels / args.groups);
  long entries = in_channels > 1 ? in_channels : 1;
  for (long length : places.padded)
    if (__builtin_mul_overflow(entries, length, &entries) || entries > kMostPixels)
      throw InvalidArgument("channels and length must give fewer than 2**31 padded entries a group");
  const long plane = places.padded[0] * places.padded[1] * places.padded[2];
  if (padding)
    for (int axis = 0; axis < 3; ++axis)
      places.pad_maps[axis] = pad_map(places.source[axis], before[axis], after[axis], args.padding_mode);
  places.position_offsets = grid_offsets(output, step, places.padded, 1, 0);
  places.feature_offsets = grid_offsets(kernel, spread, places.padded, in_channels, plane);
  return places;
}

}  // namespace expunge::bindings
