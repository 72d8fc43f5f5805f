#include "bindings/bind_c_api.hpp"

#include <cstdio>
#include <exception>
#include <new>
#include <vector>

#include "bindings/c_arguments.hpp"
#include "bindings/conv_places.hpp"
#include "bindings/grad_norm_runs.hpp"
#include "common/float_mode.hpp"

namespace expunge::bindings {
namespace {

using namespace expunge::grad_norms;

constexpr long kRoom = 1L << 20;  // bytes of copies of strided arrays a thread holds

thread_local char message[512] = "";

// Runs the body of a function of the table. Nothing may be thrown past it.
template <class Body>
int guarded(Body&& body) noexcept {
  message[0] = '\0';
  try {
    body();
    return EXPUNGE_OK;
  } catch (const InvalidArgument& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
    return EXPUNGE_INVALID_ARGUMENT;
  } catch (const std::exception&) {
    std::snprintf(message, sizeof message, "there must be enough memory for scratch");
    return EXPUNGE_OUT_OF_MEMORY;
  }
}

template <class Body>
void by_dtype(std::int32_t dtype, Body&& body) {
  if (dtype == EXPUNGE_FLOAT32)
    body(float{});
  else
    body(double{});
}

// Lets `place(part, begin, end, room)` lead a copy of the call to the examples [begin, end), and runs the kernel on it.
// `room_for(n)` is the room that copies of n examples take, and 0 where nothing is copied.
template <class Call, class Kernel, class Scratch, class RoomFor, class Place>
void run_placed(const Call& call, Kernel kernel, Scratch scratch_bytes, long items, int threads, long unit,
                RoomFor&& room_for, Place&& place) {
  if (ran_empty(call, items)) return;
  const long unit_room = room_for(unit);
  const long block = unit_room == 0 ? items : unit * (unit_room >= kRoom ? 1 : kRoom / unit_room);
  const long start = (scratch_bytes(call) + 63) / 64 * 64;
  run_ranges(start + room_for(block < items ? block : items), items, operations(call), threads, unit,
             [&](long begin, long end, char* workspace) {
               for (long first = begin; first < end; first += block) {
                 const long last = first + block < end ? first + block : end;
                 Call part = call;
                 char* room = workspace + start;
                 place(part, first, last, room);
                 kernel(part, 0, last - first, workspace);
               }
             });
}

template <class Call, class Args>
void set_out(Call& call, const Args& args, long items) {
  call.squared = flag("squared", args.squared);
  call.bias = flag("bias", args.bias);
  call.out = written("out", args.out, items);
  call.bias_out = aligned("bias_out", args.bias_out);
  if (args.bias_out != nullptr && !call.bias) throw InvalidArgument("bias_out must be NULL unless bias is 1");
}

template <class Call>
void move_out(Call& part, long first) {
  part.out += first;
  if (part.bias_out != nullptr) part.bias_out += first;
}

int linear_grad_norms(const expunge_linear_grad_norms* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      LinearNorms<T> call{};
      const long items = at_least(0, "examples", args.examples);
      call.positions = at_least(0, "positions", args.positions);
      call.d_in = at_least(0, "d_in", args.d_in);
      call.d_out = at_least(0, "d_out", args.d_out);
      const Operand<T> inputs("activations", args.activations, {items, call.positions, call.d_in});
      const Operand<T> grads("output_grads", args.output_grads, {items, call.positions, call.d_out});
      set_out(call, args, items);
      const auto& kernels = kernels_of<T>(linear_table());
      run_placed(
          call, kernels.norms, kernels.norms_workspace, items, args.threads, 1,
          [&](long n) { return inputs.room(n) + grads.room(n); },
          [&](LinearNorms<T>& part, long first, long last, char* room) {
            part.activations = inputs.at(first, last, room);
            part.output_grads = grads.at(first, last, room);
            move_out(part, first);
          });
    });
  });
}

int linear_grad_dots(const expunge_linear_grad_dots* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      LinearDots<T> call{};
      const long items = at_least(0, "examples", args.examples);
      call.positions_1 = at_least(0, "positions_1", args.positions_1);
      call.positions_2 = at_least(0, "positions_2", args.positions_2);
      call.d_in = at_least(0, "d_in", args.d_in);
      call.d_out = at_least(0, "d_out", args.d_out);
      const Operand<T> inputs_1("activations_1", args.activations_1, {items, call.positions_1, call.d_in});
      const Operand<T> grads_1("output_grads_1", args.output_grads_1, {items, call.positions_1, call.d_out});
      const Operand<T> inputs_2("activations_2", args.activations_2, {items, call.positions_2, call.d_in});
      const Operand<T> grads_2("output_grads_2", args.output_grads_2, {items, call.positions_2, call.d_out});
      call.out = written("out", args.out, items);
      const auto& kernels = kernels_of<T>(linear_table());
      run_placed(
          call, kernels.dots, kernels.dots_workspace, items, args.threads, 1,
          [&](long n) { return inputs_1.room(n) + grads_1.room(n) + inputs_2.room(n) + grads_2.room(n); },
          [&](LinearDots<T>& part, long first, long last, char* room) {
            part.activations_1 = inputs_1.at(first, last, room);
            part.output_grads_1 = grads_1.at(first, last, room);
            part.activations_2 = inputs_2.at(first, last, room);
            part.output_grads_2 = grads_2.at(first, last, room);
            part.out += first;
          });
    });
  });
}

int conv_grad_norms(const expunge_conv_grad_norms* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      ConvNorms<T> call{};
      const long items = at_least(0, "examples", args.examples);
      call.channels = at_least(0, "channels", args.channels);
      call.out_channels = at_least(0, "out_channels", args.out_channels);
      const ConvPlaces places = conv_places(args);
      call.groups = static_cast<long>(args.groups);
      const auto longest = [&](const std::int64_t lengths[3], int axis) {
        return axis < args.axes ? lengths[axis] : std::int64_t{1};  // axes behind the last have length 1
      };
      const auto image = [&](const char* name, const expunge_array& array, std::int64_t channels,
                             const std::int64_t lengths[3]) {
        std::int64_t strides[5] = {};
        expunge_array whole = array;
        if (array.strides != nullptr) {
          for (int axis = 0; axis < 2 + args.axes; ++axis) strides[axis] = array.strides[axis];
          whole.strides = strides;
        }
        return Operand<T>(name, whole,
                          {items, channels, longest(lengths, 0), longest(lengths, 1), longest(lengths, 2)});
      };
      const Operand<T> inputs = image("activations", args.activations, args.channels, args.length);
      const Operand<T> grads = image("output_grads", args.output_grads, args.out_channels, args.output_length);
      for (int axis = 0; axis < 3; ++axis) {
        call.source[axis] = places.source[axis];
        call.padded[axis] = places.padded[axis];
        call.pad_map[axis] = places.pad_maps[axis].empty() ? nullptr : places.pad_maps[axis].data();
      }
      call.position_offsets = places.position_offsets.data();
      call.feature_offsets = places.feature_offsets.data();
      call.positions = static_cast<long>(places.position_offsets.size());
      call.features = static_cast<long>(places.feature_offsets.size());
      set_out(call, args, items);
      const auto& kernels = kernels_of<T>(conv_table());
      run_placed(
          call, kernels.norms, kernels.norms_workspace, items, args.threads, 1,
          [&](long n) { return inputs.room(n) + grads.room(n); },
          [&](ConvNorms<T>& part, long first, long last, char* room) {
            part.images = inputs.at(first, last, room);
            part.output_grads = grads.at(first, last, room);
            move_out(part, first);
          });
    });
  });
}

long padding_token(std::int64_t token) {
  require_number(token >= -1, "padding_token", "a token, or -1 for none", token);
  return static_cast<long>(token);
}

int embedding_grad_norms(const expunge_embedding_grad_norms* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      EmbeddingNorms<T> call{};
      const long items = at_least(0, "examples", args.examples);
      call.n_tokens = at_least(0, "n_tokens", args.n_tokens);
      call.width = at_least(0, "width", args.width);
      const Operand<long> tokens("tokens", args.tokens, {items, call.n_tokens});
      const Operand<T> grads("output_grads", args.output_grads, {items, call.n_tokens, call.width});
      require_all_within(tokens, "tokens", 0, kMostElements);
      require_number(args.reserved == 0, "reserved", "0", args.reserved);
      call.padding_token = padding_token(args.padding_token);
      call.squared = flag("squared", args.squared);
      call.out = written("out", args.out, items);
      const auto& kernels = kernels_of<T>(layer_table());
      run_placed(
          call, kernels.embedding, kernels.embedding_workspace, items, args.threads, 1,
          [&](long n) { return tokens.room(n) + grads.room(n); },
          [&](EmbeddingNorms<T>& part, long first, long last, char* room) {
            part.tokens = tokens.at(first, last, room);
            part.output_grads = grads.at(first, last, room);
            part.out += first;
          });
    });
  });
}

int embedding_linear_grad_dots(const expunge_embedding_linear_grad_dots* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      EmbeddingLinearDots<T> call{};
      const long items = at_least(0, "examples", args.examples);
      call.n_tokens = at_least(0, "n_tokens", args.n_tokens);
      call.positions = at_least(0, "positions", args.positions);
      call.rows = at_least(0, "rows", args.rows);
      call.width = at_least(0, "width", args.width);
      const Operand<long> tokens("tokens", args.tokens, {items, call.n_tokens});
      const Operand<T> grads("embedding_grads", args.embedding_grads, {items, call.n_tokens, call.width});
      const Operand<T> rows("row_factors", args.row_factors, {items, call.positions, call.rows});
      const Operand<T> columns("column_factors", args.column_factors, {items, call.positions, call.width});
      require_all_within(tokens, "tokens", 0, call.rows);
      call.padding_token = padding_token(args.padding_token);
      call.out = written("out", args.out, items);
      const auto& kernels = kernels_of<T>(linear_table());
      run_placed(
          call, kernels.embedding_dots, kernels.embedding_dots_workspace, items, args.threads, 1,
          [&](long n) { return tokens.room(n) + grads.room(n) + rows.room(n) + columns.room(n); },
          [&](EmbeddingLinearDots<T>& part, long first, long last, char* room) {
            part.tokens = tokens.at(first, last, room);
            part.embedding_grads = grads.at(first, last, room);
            part.row_factors = rows.at(first, last, room);
            part.column_factors = columns.at(first, last, room);
            part.out += first;
          });
    });
  });
}

int norm_layer_grad_norms(const expunge_norm_layer_grad_norms* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      NormLayerNorms<T> call{};
      const long items = at_least(0, "examples", args.examples);
      require_number(args.kind >= EXPUNGE_LAYER_NORM && args.kind <= EXPUNGE_GROUP_NORM, "kind",
                     "one of EXPUNGE_LAYER_NORM, EXPUNGE_RMS_NORM and EXPUNGE_GROUP_NORM", args.kind);
      call.kind = static_cast<NormKind>(args.kind - EXPUNGE_LAYER_NORM);
      const bool group = call.kind == NormKind::group;
      call.positions = at_least(0, "positions", args.positions);
      call.width = at_least(0, "width", args.width);
      const long rows = group ? call.width : call.positions, columns = group ? call.positions : call.width;
      const Operand<T> inputs("activations", args.activations, {items, rows, columns});
      const Operand<T> grads("output_grads", args.output_grads, {items, rows, columns});
      call.normalized = flag("normalized", args.normalized);
      if (group && !call.normalized)
        require_number(args.num_groups >= 1 && args.width % args.num_groups == 0, "num_groups", "a divisor of width",
                       args.num_groups);
      call.n_groups = group && !call.normalized ? static_cast<long>(args.num_groups) : 1;
      require_number(args.reserved == 0, "reserved", "0", args.reserved);
      call.eps = finite_at_least_0("eps", args.eps);
      call.weight = flag("weight", args.weight);
      set_out(call, args, items);
      const auto& kernels = kernels_of<T>(layer_table());
      run_placed(
          call, kernels.norm_layer, kernels.norm_layer_workspace, items, args.threads, 1,
          [&](long n) { return inputs.room(n) + grads.room(n); },
          [&](NormLayerNorms<T>& part, long first, long last, char* room) {
            part.activations = inputs.at(first, last, room);
            part.output_grads = grads.at(first, last, room);
            move_out(part, first);
          });
    });
  });
}

int probe_grad_norms(const expunge_probe_grad_norms* pointer) {
  return guarded([&] {
    const auto& args = given(pointer);
    by_dtype(args.dtype, [&](auto zero) {
      using T = decltype(zero);
      ProbeNorms<T> call{};
      const long items = at_least(0, "examples", args.examples);
      require_number(args.loss >= EXPUNGE_SOFTMAX && args.loss <= EXPUNGE_SQUARED, "loss",
                     "one of EXPUNGE_SOFTMAX, EXPUNGE_LOGISTIC and EXPUNGE_SQUARED", args.loss);
      call.loss = static_cast<Loss>(args.loss - EXPUNGE_SOFTMAX);
      call.d = at_least(1, "d", args.d);
      call.checkpoints = at_least(0, "checkpoints", args.checkpoints);
      call.classes = at_least(1, "classes", args.classes);
      if (call.loss == Loss::logistic)
        require_number(args.classes == 1, "classes", "1 for EXPUNGE_LOGISTIC", args.classes);
      if (call.loss == Loss::softmax)
        require_number(args.classes >= 2, "classes", "at least 2 for EXPUNGE_SOFTMAX", args.classes);
      const Operand<T> x("x", args.x, {items, call.d});
      const Operand<T> stack("weights", args.weights, {call.checkpoints, call.d, call.classes});
      const bool labelled = call.loss != Loss::squared;
      const Operand<long> labels("y", args.y, {labelled ? items : 0});
      const Operand<T> targets("y", args.y, {labelled ? 0 : items, call.classes});
      require_all_within(labels, "y", 0, call.loss == Loss::logistic ? 2 : call.classes);
      call.alpha = finite_at_least_0("alpha", args.alpha);
      call.squared = flag("squared", args.squared);
      call.checkpoint_weights = aligned("checkpoint_weights", args.checkpoint_weights);
      const bool summed = args.checkpoint_weights != nullptr;
      call.out = written("out", args.out, summed ? items : items * call.checkpoints);
      const auto& kernels = kernels_of<T>(probe_table());
      if (items == 0) return;
      Workspaces copies(stack.room(call.checkpoints), 1);
      char* room = copies.take();
      call.weights = stack.at(0, call.checkpoints, room);
      Workspaces packed(kernels.packed_length(call) * static_cast<long>(sizeof(T)), 1);
      std::vector<double> weight_squares(static_cast<std::size_t>(call.checkpoints));
      T* buffer = reinterpret_cast<T*>(packed.take());
      {
        const IeeeArithmetic ieee;
        kernels.pack(call, buffer, weight_squares.data());
      }
      call.packed_weights = buffer;
      call.weight_squares = weight_squares.data();
      run_placed(
          call, kernels.norms, kernels.workspace, items, args.threads, kProbeTileRows,
          [&](long n) { return x.room(n) + (labelled ? labels.room(n) : targets.room(n)); },
          [&](ProbeNorms<T>& part, long first, long last, char* left) {
            part.x = x.at(first, last, left);
            part.labels = labelled ? labels.at(first, last, left) : nullptr;
            part.targets = labelled ? nullptr : targets.at(first, last, left);
            part.out += summed ? first : first * call.checkpoints;
          });
    });
  });
}

const char* last_error() { return message; }

// The address stays the same for the life of the process: callers keep it.
const expunge_api table = {
    EXPUNGE_API_VERSION,         sizeof(expunge_api),    &last_error,       &default_threads,
    &linear_grad_norms,          &linear_grad_dots,      &conv_grad_norms,  &embedding_grad_norms,
    &embedding_linear_grad_dots, &norm_layer_grad_norms, &probe_grad_norms,
};

}  // namespace

void bind_c_api(pybind11::module_& module) {
  module.attr(EXPUNGE_CAPSULE_ATTRIBUTE) = pybind11::capsule(static_cast<const void*>(&table), EXPUNGE_CAPSULE_NAME);
}

}  // namespace expunge::bindings
