// Interface of the kernel for many small networks of one architecture: losses and summed gradients of every member on
// rows of its own. Images have their channels last.
#pragma once

#include <stdint.h>

#include "common/isa.hpp"

namespace expunge::ensemble {

enum class Kind : long { convolution = 0, matrix = 1, norm = 2, relu = 3, max_pool = 4, flatten = 5 };
constexpr long kKinds = 6;

struct Layer {
  Kind kind;
  long height, width, channels;              // of its input; a vector is an image of one pixel
  long size[2], stride[2], padding[2];       // of windows: down, across
  long out_height, out_width, out_channels;  // of its output
  long groups;                               // of a norm
  long weight, bias;                         // where a member's parameters have them, -1 for none
  double eps;                                // of a norm

  long in() const { return height * width * channels; }
  long out() const { return out_height * out_width * out_channels; }
  bool windowed() const { return kind == Kind::convolution || kind == Kind::max_pool; }
};

template <class T>
struct Call {
  const Layer* layers;
  long n_layers;
  const T* parameters;    // (members, n_parameters)
  long members, n_parameters;
  const T* images;        // (n, in of the first layer)
  const int64_t* labels;  // (n), below the outputs of the last layer
  const int64_t* rows;    // of all members, one after the other
  const int64_t* ends;    // (members): behind each member's last row
  T* gradients;           // (members, n_parameters), of the sum of a member's losses
  T* losses;              // one for each of the rows: cross-entropy
};

struct Table {
  void (*gradients_f32)(const Call<float>& call, long begin, long end, double* scratch);
  void (*gradients_f64)(const Call<double>& call, long begin, long end, double* scratch);
  long (*scratch_f32)(const Call<float>& call);  // in doubles
  long (*scratch_f64)(const Call<double>& call);
};

EXPUNGE_ISA_TABLE(Table, table)

}  // namespace expunge::ensemble
