// Compiled once per instruction set into EXPUNGE_ISA_NS. Convolutions by implicit im2col: every feature is a view.
#include "grad_norms/grad_norms.hpp"
#include "grad_norms/packing.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

constexpr long kThin = 2;  // output channels of a group below which lanes run along positions instead

template <class T>
struct Shape {
  long source_plane, padded_plane, in_channels, out_channels;  // channels of one group
  bool padded;
  explicit Shape(const ConvNorms<T>& call)
      : source_plane(call.source[0] * call.source[1] * call.source[2]),
        padded_plane(call.padded[0] * call.padded[1] * call.padded[2]),
        in_channels(call.channels / call.groups),
        out_channels(call.out_channels / call.groups),
        padded(call.pad_map[0] != nullptr) {}
  bool by_gram(const ConvNorms<T>& call) const {
    return static_cast<double>(call.positions) * static_cast<double>(call.features + out_channels) <
           static_cast<double>(call.features) * static_cast<double>(out_channels);
  }
};

template <class T>
struct ConvSpace {
  T *image, *panel, *inputs, *outputs;
  double *strip, *input_squares, *output_squares, *strip_in, *strip_out;
  ConvSpace(Arena& arena, const ConvNorms<T>& call, const Shape<T>& shape) {
    image = arena.take<T>(shape.padded ? shape.in_channels * shape.padded_plane : 0);
    panel = arena.take<T>(call.positions * kTileColumns<T>);
    strip = arena.take<double>(call.positions > kBlock ? call.features * kTileColumns<T> : 0);
    const bool gram_form = shape.by_gram(call);
    const long length = gram_form ? padded_length<T>(call.positions) : 0;
    inputs = arena.take<T>(call.features * length);
    outputs = arena.take<T>(shape.out_channels * length);
    input_squares = arena.take<double>(length);
    output_squares = arena.take<double>(length);
    strip_in = arena.take<double>(gram_form ? call.positions * kTileColumns<T> : 0);
    strip_out = arena.take<double>(gram_form ? call.positions * kTileColumns<T> : 0);
  }
};

template <class T>
long norms_workspace(const ConvNorms<T>& call) {
  Arena arena{nullptr};
  ConvSpace<T>(arena, call, Shape<T>(call));
  return arena.used;
}

// Columns [first, first + count) of a padded row that are the whole source row in order; none if the map has no such.
struct WholeRow {
  long first = 0, count = 0;
  WholeRow(const int* width, long columns, long inner) {
    for (long before = 0; before + inner <= columns; ++before) {
      long same = 0;
      while (same < inner && width[before + same] == same) ++same;
      if (same < inner) continue;
      first = before;
      count = inner;
      return;
    }
  }
};

// Source pixels or zeros at every pixel of the padded planes.
template <class T>
void pad(const ConvNorms<T>& call, const Shape<T>& shape, const WholeRow& whole, const T* from, T* to) {
  const int *depth = call.pad_map[0], *height = call.pad_map[1], *width = call.pad_map[2];
  const long columns = call.padded[2], before = whole.first, inner = whole.count;
  for (long c = 0; c < shape.in_channels; ++c, from += shape.source_plane)
    for (long d = 0; d < call.padded[0]; ++d)
      for (long h = 0; h < call.padded[1]; ++h, to += columns) {
        if (depth[d] < 0 || height[h] < 0) {
          for (long w = 0; w < columns; ++w) to[w] = T(0);
          continue;
        }
        const T* row = from + (depth[d] * call.source[1] + height[h]) * call.source[2];
        for (long w = 0; w < before; ++w) to[w] = width[w] < 0 ? T(0) : row[width[w]];
        for (long w = 0; w < inner; ++w) to[before + w] = row[w];
        for (long w = before + inner; w < columns; ++w) to[w] = width[w] < 0 ? T(0) : row[width[w]];
      }
}

template <class T>
struct GatherTiles {
  const RowTiles& tiles;
  const T* image;
  const int *features, *positions;
  template <int Rows>
  EXPUNGE_INLINE GatherRows<T, Rows> operator()(long tile, Int<Rows>, long first) const {
    GatherRows<T, Rows> rows;
    const int* feature = features + tiles.begin(tile);
    for (int i = 0; i < Rows; ++i) rows.feature[i] = image + feature[i];
    rows.position = positions + first;
    return rows;
  }
};

// next_images and next_grads are those of the next group, to be read ahead; null at the end.
template <class T>
double product_squares(const ConvNorms<T>& call, const Shape<T>& shape, const T* image, const T* grads,
                       const T* next_images, const T* next_grads, const ConvSpace<T>& space) {
  constexpr int width = kTileColumns<T>;
  const RowTiles tiles(call.features);
  Ahead ahead;
  if (next_images != nullptr)
    ahead = Ahead(next_grads, shape.out_channels * call.positions, next_images, shape.in_channels * shape.source_plane,
                  call.positions * tiles.tiles * ((shape.out_channels + width - 1) / width));
  const GatherTiles<T> rows_at{tiles, image, call.feature_offsets, call.position_offsets};
  double total = 0;
  for (long c = 0; c < shape.out_channels; c += width) {
    const long columns = least(width, shape.out_channels - c);
    pack_columns_transposed(grads + c * call.positions, call.positions, call.positions, columns, space.panel);
    const Panel<T> panel{space.panel, width, columns};
    with_vectors<T>(columns, [&](auto vectors) {
      total += panel_squares<decltype(vectors)::value>(tiles, call.positions, panel, rows_at, space.strip, ahead);
    });
  }
  return total;
}

// Squares of Features adjacent rows of the gradient of one output channel, lanes along positions.
template <int Features, class T>
EXPUNGE_INLINE double thin_rows(const ConvNorms<T>& call, const T* image, const int* features, const T* grad) {
  constexpr int lanes = Lanes<T>::W;
  constexpr int parts = kParts<T>;
  F64 sums[Features][parts];
  double rest[Features];
#pragma GCC unroll 4
  for (int f = 0; f < Features; ++f) {
    rest[f] = 0;
    for (int part = 0; part < parts; ++part) sums[f][part] = F64{};
  }
  for (long k = 0; k < call.positions;) {
    const int* offset = call.position_offsets + k;
    // Offsets rise all the way: those of a vector are contiguous iff its ends are.
    if (k + lanes <= call.positions && offset[lanes - 1] - offset[0] == lanes - 1) {
      F64 right[parts];
      widen(load(grad + k), right);
#pragma GCC unroll 4
      for (int f = 0; f < Features; ++f) {
        F64 left[parts];
        widen(load(image + features[f] + offset[0]), left);
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part) sums[f][part] += left[part] * right[part];
      }
      k += lanes;
    } else {
      for (int f = 0; f < Features; ++f)
        rest[f] += static_cast<double>(image[features[f] + offset[0]]) * static_cast<double>(grad[k]);
      ++k;
    }
  }
  double total = 0;
  for (int f = 0; f < Features; ++f) {
    for (int part = 1; part < parts; ++part) sums[f][0] += sums[f][part];
    const double entry = reduce(sums[f][0]) + rest[f];
    total += entry * entry;
  }
  return total;
}

// Few output channels per group (depthwise): the transposed panel of the product form would be nearly empty.
template <class T>
double thin_squares(const ConvNorms<T>& call, const Shape<T>& shape, const T* image, const T* grads) {
  double total = 0;
  for (long c = 0; c < shape.out_channels; ++c) {
    const T* grad = grads + c * call.positions;
    long f = 0;
    for (; f + 3 <= call.features; f += 3) total += thin_rows<3>(call, image, call.feature_offsets + f, grad);
    for (; f < call.features; ++f) total += thin_rows<1>(call, image, call.feature_offsets + f, grad);
  }
  return total;
}

template <class T>
GramSum gram_squares(const ConvNorms<T>& call, const Shape<T>& shape, const T* image, const T* grads,
                     const ConvSpace<T>& space) {
  const long length = padded_length<T>(call.positions);
  for (long f = 0; f < call.features; ++f) {
    T* row = space.inputs + f * length;
    const T* feature = image + call.feature_offsets[f];
    for (long k = 0; k < call.positions; ++k) row[k] = feature[call.position_offsets[k]];
    for (long k = call.positions; k < length; ++k) row[k] = T(0);
  }
  for (long c = 0; c < shape.out_channels; ++c) {
    T* row = space.outputs + c * length;
    for (long k = 0; k < call.positions; ++k) row[k] = grads[c * call.positions + k];
    for (long k = call.positions; k < length; ++k) row[k] = T(0);
  }
  const GramSide<T> side{space.inputs, space.outputs,       call.positions,
                         length,       space.input_squares, space.output_squares};
  return half_gram<T>(side, call.features, shape.out_channels, space.strip_in, space.strip_out, [&] {
    column_squares(space.inputs, call.features, length, length, space.input_squares);
    column_squares(space.outputs, shape.out_channels, length, length, space.output_squares);
  });
}

template <class T>
void norms(const ConvNorms<T>& call, long begin, long end, char* workspace) {
  const Shape<T> shape(call);
  Arena arena{workspace};
  const ConvSpace<T> space(arena, call, shape);
  const WholeRow whole(call.pad_map[2], shape.padded ? call.padded[2] : -1, call.source[2]);
  for (long i = begin; i < end; ++i) {
    double squares = 0, bias_squares = 0;
    for (long g = 0; g < call.groups; ++g) {
      const T* source = call.images + (i * call.channels + g * shape.in_channels) * shape.source_plane;
      const T* image = source;
      const T* grads = call.output_grads + (i * call.out_channels + g * shape.out_channels) * call.positions;
      if (shape.padded) {
        pad(call, shape, whole, source, space.image);
        image = space.image;
      }
      bool done = false;
      if (shape.by_gram(call)) {
        const GramSum sum_of_group = gram_squares(call, shape, image, grads, space);
        done = sum_of_group.trustworthy(kGramLimit<T>);
        if (done) squares += sum_of_group.value;
      }
      if (!done && shape.out_channels <= kThin) {
        squares += thin_squares(call, shape, image, grads);
      } else if (!done) {  // the next group follows in memory, of this example or of the next
        const bool last = i + 1 == end && g + 1 == call.groups;
        const T* next_images = last ? nullptr : source + shape.in_channels * shape.source_plane;
        const T* next_grads = last ? nullptr : grads + shape.out_channels * call.positions;
        squares += product_squares(call, shape, image, grads, next_images, next_grads, space);
      }
      if (call.bias)
        for (long c = 0; c < shape.out_channels; ++c) {
          const double total = sum(grads + c * call.positions, call.positions);
          bias_squares += total * total;
        }
    }
    put(call, i, squares, bias_squares);
  }
}

}  // namespace

extern const Both<ConvKernels> conv_table = {{norms_workspace<float>, norms<float>},
                                             {norms_workspace<double>, norms<double>}};

}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
