// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
//
// A member's rows are taken a few at a time, forward and backward, so that what lies between the layers stays in cache.
#include "ensemble/ensemble.hpp"

#include <math.h>
#include <string.h>

#include "ensemble/norms.hpp"
#include "ensemble/products.hpp"

namespace expunge::ensemble::EXPUNGE_ISA_NS {
namespace {

constexpr long kCached = 1200 << 10;  // bytes between the layers of the rows taken at once
constexpr long kMostRows = 64;

EXPUNGE_INLINE float exponential(float x) { return expf(x); }
EXPUNGE_INLINE double exponential(double x) { return exp(x); }
EXPUNGE_INLINE float logarithm(float x) { return logf(x); }
EXPUNGE_INLINE double logarithm(double x) { return log(x); }

// Hands out pieces of one block of memory; with no block, counts what they need.
struct Pieces {
  char* block;
  long used = 0;
  template <class T>
  T* take(long count) {
    T* piece = block == nullptr ? nullptr : reinterpret_cast<T*>(block + used);
    used += up_to(count * static_cast<long>(sizeof(T)), 64);
    return piece;
  }
};

long padded_size(const Layer& layer) {
  return (layer.height + 2 * layer.padding[0]) * (layer.width + 2 * layer.padding[1]) * layer.channels;
}

// Windows of a convolution: `lines` of `run` adjacent numbers each.
struct Windows {
  long lines, run, line, across, down, out;
  explicit Windows(const Layer& layer)
      : lines(layer.size[0]),
        run(layer.size[1] * layer.channels),
        line((layer.width + 2 * layer.padding[1]) * layer.channels),
        across(layer.stride[1] * layer.channels),
        down(layer.stride[0] * line),
        out(layer.out_channels) {}
};

// Memory of one layer for `rows` rows.
template <class T>
struct Space {
  T* made;  // output; a ReLU writes to its input's
  T *padded, *forth, *back;  // convolution: input with its border, weights for either pass
  T *weight_grad, *bias_grad;  // convolution: gradients of them
  T *kept, *spare;  // norm
  int32_t* chosen;  // pool: pixel of each maximum
  T *inputs, *outputs;  // matrix: of all rows of a member, inputs and gradients of outputs
};

template <class T>
long numbers_per_row(const Layer& layer) {
  long n = layer.kind == Kind::relu ? 0 : layer.out();
  if (layer.kind == Kind::convolution) n += padded_size(layer);
  if (layer.kind == Kind::max_pool) n += layer.out();
  return n;
}

template <class T>
struct Memory {
  long rows;
  T *input, *grad, *other, *line;
  Space<T>* spaces;

  Memory(const Call<T>& call, char* block, long* bytes) {
    Pieces pieces{block};
    const long first = call.layers[0].in();
    long per_row = first, widest = first, line_size = 0;
    for (long k = 0; k < call.n_layers; ++k) {
      const Layer& layer = call.layers[k];
      per_row += numbers_per_row<T>(layer);
      widest = larger(widest, larger(layer.in(), layer.out()));
      if (layer.kind != Kind::convolution) continue;
      widest = larger(widest, padded_size(layer));
      line_size = larger(line_size, layer.out_width * up_to(layer.size[1] * layer.channels, kWide<T>));
    }
    per_row += 2 * widest;
    rows = kCached / (per_row * static_cast<long>(sizeof(T)));
    rows = rows < kTall ? larger(rows, 1) : smaller(kMostRows, rows / kTall * kTall);  // whole tiles
    long most = 0;  // rows of a member
    for (long m = 0; m < call.members; ++m) most = larger(most, call.ends[m] - (m > 0 ? call.ends[m - 1] : 0));
    spaces = pieces.take<Space<T>>(call.n_layers);
    input = pieces.take<T>(rows * first);
    grad = pieces.take<T>(rows * widest + kWide<T>);  // sums of windows end within a vector behind it
    other = pieces.take<T>(rows * widest + kWide<T>);
    line = pieces.take<T>(line_size);
    for (long k = 0; k < call.n_layers; ++k) {
      const Layer& layer = call.layers[k];
      Space<T> space = {};
      if (layer.kind != Kind::relu) space.made = pieces.take<T>(rows * layer.out());
      if (layer.kind == Kind::convolution) {
        const Windows w(layer);
        const long wide = up_to(w.out, kWide<T>);
        space.padded = pieces.take<T>(rows * padded_size(layer));
        space.forth = pieces.take<T>(w.lines * w.run * wide);
        space.back = pieces.take<T>(w.lines * w.out * up_to(w.run, kWide<T>));
        space.weight_grad = pieces.take<T>(w.lines * w.run * wide);
        space.bias_grad = pieces.take<T>(w.out);
      } else if (layer.kind == Kind::matrix) {
        space.inputs = pieces.take<T>(most * layer.channels);
        space.outputs = pieces.take<T>(most * layer.out_channels);
      } else if (layer.kind == Kind::norm) {
        const Periods p = Periods::of<T>(layer.height * layer.width, layer.channels, layer.groups);
        space.kept = pieces.take<T>(rows * NormSpace<T>::size(p));
        space.spare = pieces.take<T>(NormSpace<T>::room(p));
      } else if (layer.kind == Kind::max_pool) {
        space.chosen = pieces.take<int32_t>(rows * layer.out());
      }
      if (block != nullptr) spaces[k] = space;
    }
    *bytes = pieces.used;
  }
};

template <class T>
struct Member {
  const Call<T>& call;
  Memory<T>& memory;
  const T* parameters;
  T* gradients;

  const T* parameter(long at) const { return at < 0 ? nullptr : parameters + at; }
  T* gradient(long at) const { return at < 0 ? nullptr : gradients + at; }

  // Lays out weights (out, channels, height, width) for windows with their channels last.
  void lay_out(const Layer& layer, const Space<T>& s) const {
    const Windows w(layer);
    const long wide = up_to(w.out, kWide<T>), run = up_to(w.run, kWide<T>), across = layer.size[1];
    memset(s.forth, 0, sizeof(T) * w.lines * w.run * wide);
    memset(s.back, 0, sizeof(T) * w.lines * w.out * run);
    memset(s.weight_grad, 0, sizeof(T) * w.lines * w.run * wide);
    memset(s.bias_grad, 0, sizeof(T) * w.out);
    const T* from = parameters + layer.weight;
    for (long o = 0; o < w.out; ++o)
      for (long c = 0; c < layer.channels; ++c)
        for (long i = 0; i < w.lines; ++i)
          for (long j = 0; j < across; ++j, ++from) {
            const long k = j * layer.channels + c;
            s.forth[(i * w.run + k) * wide + o] = *from;
            s.back[(i * w.out + o) * run + k] = *from;
          }
  }

  void put_back(const Layer& layer, const Space<T>& s) const {
    const Windows w(layer);
    const long wide = up_to(w.out, kWide<T>), across = layer.size[1];
    T* to = gradients + layer.weight;
    for (long o = 0; o < w.out; ++o)
      for (long c = 0; c < layer.channels; ++c)
        for (long i = 0; i < w.lines; ++i)
          for (long j = 0; j < across; ++j, ++to) *to = s.weight_grad[(i * w.run + j * layer.channels + c) * wide + o];
    if (layer.bias >= 0) memcpy(gradients + layer.bias, s.bias_grad, sizeof(T) * w.out);
  }

  void convolution_forward(const Layer& layer, const Space<T>& s, const T* x, long rows) const {
    const Windows w(layer);
    const long wide = up_to(w.out, kWide<T>), size = padded_size(layer), inside = layer.width * layer.channels;
    memset(s.padded, 0, sizeof(T) * rows * size);
    for (long r = 0; r < rows; ++r)
      for (long h = 0; h < layer.height; ++h, x += inside)
        memcpy(s.padded + r * size + (h + layer.padding[0]) * w.line + layer.padding[1] * layer.channels, x,
               sizeof(T) * inside);
    const T* bias = parameter(layer.bias);
    T* to = s.made;
    for (long r = 0; r < rows; ++r)
      for (long h = 0; h < layer.out_height; ++h, to += layer.out_width * w.out) {
        for (long k = 0; bias != nullptr && k < layer.out_width; ++k) memcpy(to + k * w.out, bias, sizeof(T) * w.out);
        product(Left<T>(s.padded + r * size + h * w.down, w.across, 1, w.run, w.lines, w.line - w.run), layer.out_width,
                s.forth, wide, to, w.out, w.out, bias != nullptr);
      }
  }

  // Adds to the gradients of its weights; returns that of the input, unless nobody wants it.
  T* convolution_backward(const Layer& layer, const Space<T>& s, const T* grad, T* to, bool wanted, long rows) const {
    const Windows w(layer);
    const long wide = up_to(w.out, kWide<T>), run = up_to(w.run, kWide<T>), size = padded_size(layer);
    if (wanted) memset(to, 0, sizeof(T) * (rows * size + kWide<T>));
    for (long r = 0; r < rows; ++r) {
      const T* image = s.padded + r * size;
      for (long i = 0; i < w.lines; ++i)  // what lies behind the outputs is summed as well, and not used
        product(Left<T>(image + i * w.line, 1, w.across, layer.out_width, layer.out_height,
                        w.down - layer.out_width * w.across),
                w.run, grad, w.out, s.weight_grad + i * w.run * wide, wide, wide, true);
      for (long h = 0; h < layer.out_height; ++h, grad += layer.out_width * w.out) {
        if (layer.bias >= 0)
          for (long k = 0; k < layer.out_width; ++k)
            for (long o = 0; o < w.out; ++o) s.bias_grad[o] += grad[k * w.out + o];
        for (long i = 0; wanted && i < w.lines; ++i) {
          product(Left<T>(grad, w.out, 1, w.out), layer.out_width, s.back + i * w.out * run, run, memory.line, run, run,
                  false);
          T* sums = to + r * size + h * w.down + i * w.line;
          for (long k = 0; k < layer.out_width; ++k)  // one after the other: windows overlap
            for (long j = 0; j < run; j += kWide<T>) {
              T* sum = sums + k * w.across + j;
              Lanes<T>::store(sum, Lanes<T>::load(sum) + Lanes<T>::load(memory.line + k * run + j));
            }
        }
      }
    }
    if (!wanted) return nullptr;
    const long inside = layer.width * layer.channels;  // the border is dropped in place: nothing moves up
    T* kept = to;
    for (long r = 0; r < rows; ++r)
      for (long h = 0; h < layer.height; ++h, kept += inside)
        memmove(kept, to + r * size + (h + layer.padding[0]) * w.line + layer.padding[1] * layer.channels,
                sizeof(T) * inside);
    return to;
  }

  // Gradients of the weights wait for the member's last rows.
  void matrix_backward(const Layer& layer, const Space<T>& s, const T* x, const T* grad, T* to, bool wanted, long done,
                       long rows) const {
    const long in = layer.channels, out = layer.out_channels;
    memcpy(s.inputs + done * in, x, sizeof(T) * rows * in);
    memcpy(s.outputs + done * out, grad, sizeof(T) * rows * out);
    if (wanted) large_product(grad, out, 1, rows, parameters + layer.weight, out, to, in, false);
  }

  void matrix_gradients(const Layer& layer, const Space<T>& s, long rows) const {
    const long in = layer.channels, out = layer.out_channels;
    large_product(s.outputs, 1, out, out, s.inputs, rows, gradients + layer.weight, in, false);
    for (long r = 0; layer.bias >= 0 && r < rows; ++r)
      for (long o = 0; o < out; ++o) gradients[layer.bias + o] += s.outputs[r * out + o];
  }

  void pool_forward(const Layer& layer, const Space<T>& s, const T* x, long rows) const {
    const long channels = layer.channels;
    T* to = s.made;
    int32_t* chosen = s.chosen;
    for (long r = 0; r < rows; ++r, x += layer.in())
      for (long h = 0; h < layer.out_height; ++h)
        for (long k = 0; k < layer.out_width; ++k, to += channels, chosen += channels) {
          const long top = h * layer.stride[0] - layer.padding[0], left = k * layer.stride[1] - layer.padding[1];
          bool first = true;
          for (long i = larger(top, 0); i < smaller(top + layer.size[0], layer.height); ++i)
            for (long j = larger(left, 0); j < smaller(left + layer.size[1], layer.width); ++j, first = false) {
              const int32_t pixel = static_cast<int32_t>(i * layer.width + j);
              const T* from = x + pixel * channels;
              for (long c = 0; c < channels; ++c) {
                const bool taken = first || from[c] > to[c] || from[c] != from[c];
                to[c] = taken ? from[c] : to[c];
                chosen[c] = taken ? pixel : chosen[c];
              }
            }
        }
  }

  void pool_backward(const Layer& layer, const Space<T>& s, const T* grad, T* to, long rows) const {
    const int32_t* chosen = s.chosen;
    memset(to, 0, sizeof(T) * rows * layer.in());
    for (long r = 0; r < rows; ++r, to += layer.in())
      for (long k = 0; k < layer.out(); k += layer.channels, grad += layer.channels, chosen += layer.channels)
        for (long c = 0; c < layer.channels; ++c) to[chosen[c] * layer.channels + c] += grad[c];
  }

  // Channels last to channels first, or back.
  static void turn(const Layer& layer, const T* from, T* to, long rows, bool forth) {
    const long pixels = layer.height * layer.width, channels = layer.channels;
    const long n = forth ? pixels : channels, m = forth ? channels : pixels;
    constexpr long side = 8;  // of squares, so that lines of either side stay in cache
    for (long r = 0; r < rows; ++r, from += n * m, to += n * m)
      for (long first = 0; first < n; first += side)
        for (long j = 0; j < m; ++j)
          for (long i = first; i < smaller(first + side, n); ++i) to[j * n + i] = from[i * m + j];
  }

  const T* forward(long k, T* x, long rows) const {
    const Layer& layer = call.layers[k];
    const Space<T>& s = memory.spaces[k];
    switch (layer.kind) {
      case Kind::convolution: convolution_forward(layer, s, x, rows); break;
      case Kind::matrix:
        dots(x, rows, parameters + layer.weight, layer.out_channels, layer.channels, s.made, parameter(layer.bias));
        break;
      case Kind::norm: {
        const Periods p = Periods::of<T>(layer.height * layer.width, layer.channels, layer.groups);
        for (long r = 0; r < rows; ++r)
          norm_forward(p, NormSpace<T>(p, s.kept + r * NormSpace<T>::size(p), s.spare), x + r * p.length,
                       parameter(layer.weight), parameter(layer.bias), static_cast<T>(layer.eps),
                       s.made + r * p.length);
        break;
      }
      case Kind::relu:
        for (long j = 0; j < rows * layer.in(); ++j) x[j] = x[j] < T(0) ? T(0) : x[j];
        return x;
      case Kind::max_pool: pool_forward(layer, s, x, rows); break;
      case Kind::flatten: turn(layer, x, s.made, rows, true); break;
    }
    return s.made;
  }

  // Returns where the gradient of the input is: in `grad` or in `to`.
  T* backward(long k, const T* x, const T* y, T* grad, T* to, long done, long rows) const {
    const Layer& layer = call.layers[k];
    const Space<T>& s = memory.spaces[k];
    switch (layer.kind) {
      case Kind::convolution: return convolution_backward(layer, s, grad, to, k > 0, rows);
      case Kind::matrix: matrix_backward(layer, s, x, grad, to, k > 0, done, rows); return to;
      case Kind::norm: {
        const Periods p = Periods::of<T>(layer.height * layer.width, layer.channels, layer.groups);
        for (long r = 0; r < rows; ++r)
          norm_backward(p, NormSpace<T>(p, s.kept + r * NormSpace<T>::size(p), s.spare), x + r * p.length,
                        parameter(layer.weight), gradient(layer.weight), gradient(layer.bias), grad + r * p.length);
        return grad;
      }
      case Kind::relu:
        for (long j = 0; j < rows * layer.in(); ++j) grad[j] = y[j] <= T(0) ? T(0) : grad[j];
        return grad;
      case Kind::max_pool: pool_backward(layer, s, grad, to, rows); return to;
      case Kind::flatten: turn(layer, grad, to, rows, false); return to;
    }
    return grad;
  }

  // Cross-entropy of logits, and its gradient.
  static T loss(const T* logits, long classes, long label, T* grad) {
    T most = logits[0], sum = 0;
    for (long c = 1; c < classes; ++c) most = logits[c] > most ? logits[c] : most;
    for (long c = 0; c < classes; ++c) sum += grad[c] = exponential(logits[c] - most);
    for (long c = 0; c < classes; ++c) grad[c] /= sum;
    grad[label] -= T(1);
    return logarithm(sum) - (logits[label] - most);
  }

  void some(const int64_t* rows, long done, long n, T* losses) const {
    const long in = call.layers[0].in(), classes = call.layers[call.n_layers - 1].out();
    for (long r = 0; r < n; ++r) memcpy(memory.input + r * in, call.images + rows[r] * in, sizeof(T) * in);
    T* x = memory.input;
    for (long k = 0; k < call.n_layers; ++k) {
      x = const_cast<T*>(forward(k, x, n));
      if (call.layers[k].kind == Kind::relu) memory.spaces[k].made = x;
    }
    T *grad = memory.grad, *other = memory.other;
    for (long r = 0; r < n; ++r) losses[r] = loss(x + r * classes, classes, call.labels[rows[r]], grad + r * classes);
    for (long k = call.n_layers - 1; k >= 0; --k) {
      const T* given = k > 0 ? memory.spaces[k - 1].made : memory.input;
      if (backward(k, given, memory.spaces[k].made, grad, other, done, n) == other) {
        T* const free = grad;
        grad = other;
        other = free;
      }
    }
  }
};

template <class T>
void gradients(const Call<T>& call, long begin, long end, double* scratch) {
  long bytes = 0;
  Memory<T> memory(call, reinterpret_cast<char*>(scratch), &bytes);
  for (long m = begin; m < end; ++m) {
    const Member<T> member{call, memory, call.parameters + m * call.n_parameters,
                           call.gradients + m * call.n_parameters};
    memset(member.gradients, 0, sizeof(T) * call.n_parameters);
    const long first = m > 0 ? call.ends[m - 1] : 0, last = call.ends[m];
    if (first == last) continue;
    for (long k = 0; k < call.n_layers; ++k)
      if (call.layers[k].kind == Kind::convolution) member.lay_out(call.layers[k], memory.spaces[k]);
    for (long at = first; at < last; at += memory.rows)
      member.some(call.rows + at, at - first, smaller(memory.rows, last - at), call.losses + at);
    for (long k = 0; k < call.n_layers; ++k) {
      const Layer& layer = call.layers[k];
      if (layer.kind == Kind::convolution) member.put_back(layer, memory.spaces[k]);
      if (layer.kind == Kind::matrix) member.matrix_gradients(layer, memory.spaces[k], last - first);
    }
  }
}

template <class T>
long scratch(const Call<T>& call) {
  long bytes = 0;
  Memory<T>(call, nullptr, &bytes);
  return (bytes + 7) / 8;
}

}  // namespace

extern const Table table;
const Table table = {&gradients<float>, &gradients<double>, &scratch<float>, &scratch<double>};

}  // namespace expunge::ensemble::EXPUNGE_ISA_NS
