// Compiled once per instruction set into EXPUNGE_ISA_NS. Linear layers: norms, inner products, tied embeddings.
#include "grad_norms/grad_norms.hpp"
#include "grad_norms/packing.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

// The same for one matrix used once: its Gram matrices are symmetric, and half of each is computed. The other terms
// are copies, and columns past the diagonal.
template <class T>
EXPUNGE_INLINE bool half_gram_is_cheaper(long positions, long d_in, long d_out) {
  const double pairs = 0.5 * static_cast<double>(positions + kTileColumns<T>) + 8;
  const double product = static_cast<double>(d_in) * static_cast<double>(d_out);
  return positions > 1 && pairs * static_cast<double>(d_in + d_out) < product;
}

// --- norms --------------------------------------------------------------------------------------

template <class T>
struct ProductSpace {
  T *rows, *panel;
  double* strip;
  ProductSpace(Arena& arena, long positions, long n_rows) {
    rows = arena.take<T>(positions * n_rows);
    panel = arena.take<T>(positions * kTileColumns<T>);
    strip = arena.take<double>(positions > kBlock ? n_rows * kTileColumns<T> : 0);
  }
};

template <class T>
struct GramSpace {
  T *input_panel, *output_panel;
  double *input_squares, *output_squares, *strip_in, *strip_out;
  GramSpace(Arena& arena, long positions, long d_in, long d_out) {
    input_panel = arena.take<T>(d_in * kTileColumns<T>);
    output_panel = arena.take<T>(d_out * kTileColumns<T>);
    input_squares = arena.take<double>(positions + kTileColumns<T>);
    output_squares = arena.take<double>(positions + kTileColumns<T>);
    strip_in = arena.take<double>(positions * kTileColumns<T>);
    strip_out = arena.take<double>(positions * kTileColumns<T>);
  }
};

// Whole vectors go to the side where they waste less.
template <class T>
EXPUNGE_INLINE bool inputs_as_rows(long d_in, long d_out) {
  const long lanes = Lanes<T>::W;
  return d_in * round_up(d_out, lanes) <= d_out * round_up(d_in, lanes);
}

// The same matrices of the next example, to be read ahead; null at the end.
template <class T>
double product_squares(const T* rows, long n_rows, const T* columns, long n_columns, long positions, const T* next_rows,
                       const T* next_columns, const ProductSpace<T>& space) {
  constexpr long width = kTileColumns<T>;
  const RowTiles tiles(n_rows);
  Ahead ahead;
  if (next_rows != nullptr)
    ahead = Ahead(next_rows, positions * n_rows, next_columns, positions * n_columns,
                  positions * tiles.tiles * ((n_columns + width - 1) / width));
  pack_rows(rows, n_rows, positions, tiles, space.rows);
  const PackedTiles<T> rows_at{tiles, space.rows, positions};
  double total = 0;
  for (long j = 0; j < n_columns; j += width) {
    const long columns_here = least(width, n_columns - j);
    pack_columns(columns + j, n_columns, positions, columns_here, space.panel);
    const Panel<T> panel{space.panel, width, columns_here};
    with_vectors<T>(columns_here, [&](auto vectors) {
      total += panel_squares<decltype(vectors)::value>(tiles, positions, panel, rows_at, space.strip, ahead);
    });
  }
  return total;
}

template <class T>
GramSum gram_squares(const T* inputs, const T* outputs, long positions, long d_in, long d_out,
                     const GramSpace<T>& space) {
  const FactorSide<T> side{inputs,
                           outputs,
                           d_in,
                           d_out,
                           positions,
                           space.input_panel,
                           space.output_panel,
                           space.input_squares,
                           space.output_squares};
  return half_gram<T>(side, d_in, d_out, space.strip_in, space.strip_out, [&] {
    for (long t = 0; t < positions; ++t) {
      space.input_squares[t] = sum_squares(inputs + t * d_in, d_in);
      space.output_squares[t] = sum_squares(outputs + t * d_out, d_out);
    }
    for (long t = positions; t < positions + kTileColumns<T>; ++t) space.input_squares[t] = space.output_squares[t] = 0;
  });
}

template <class T>
long norms_workspace(const LinearNorms<T>& call) {
  Arena arena{nullptr};
  if (call.positions > 1) {
    const bool as_rows = inputs_as_rows<T>(call.d_in, call.d_out);
    ProductSpace<T>(arena, call.positions, as_rows ? call.d_in : call.d_out);
    if (half_gram_is_cheaper<T>(call.positions, call.d_in, call.d_out))
      GramSpace<T>(arena, call.positions, call.d_in, call.d_out);
  }
  return arena.used;
}

template <class T>
void norms(const LinearNorms<T>& call, long begin, long end, char* workspace) {
  const long positions = call.positions, d_in = call.d_in, d_out = call.d_out;
  if (positions == 1) {  // rank one: the norm of an outer product
    for (long i = begin; i < end; ++i) {
      const double outputs = sum_squares(call.output_grads + i * d_out, d_out);
      const double inputs = sum_squares(call.activations + i * d_in, d_in);
      put(call, i, inputs * outputs, call.bias ? outputs : 0.0);
    }
    return;
  }
  Arena arena{workspace};
  const bool as_rows = inputs_as_rows<T>(d_in, d_out);
  const bool by_gram = half_gram_is_cheaper<T>(positions, d_in, d_out);
  const ProductSpace<T> product(arena, positions, as_rows ? d_in : d_out);
  for (long i = begin; i < end; ++i) {
    const T* inputs = call.activations + i * positions * d_in;
    const T* outputs = call.output_grads + i * positions * d_out;
    double squares = 0;
    bool done = false;
    if (by_gram) {
      Arena rest = arena;
      const GramSum sum =
          gram_squares(inputs, outputs, positions, d_in, d_out, GramSpace<T>(rest, positions, d_in, d_out));
      squares = sum.value;
      done = sum.trustworthy(kGramLimit<T>);  // false for a NaN too: the product settles what it is
    }
    if (!done) {
      const bool last = i + 1 == end;
      const T* next_inputs = last ? nullptr : inputs + positions * d_in;
      const T* next_outputs = last ? nullptr : outputs + positions * d_out;
      squares = as_rows ? product_squares(inputs, d_in, outputs, d_out, positions, next_inputs, next_outputs, product)
                        : product_squares(outputs, d_out, inputs, d_in, positions, next_outputs, next_inputs, product);
    }
    put(call, i, squares, call.bias ? row_sum_squares(outputs, positions, d_out) : 0.0);
  }
}

// --- inner products -----------------------------------------------------------------------------

template <class T>
struct DotsProductSpace {
  T *rows_1, *panel_1, *rows_2, *panel_2;
  double *strip_1, *strip_2;
  DotsProductSpace(Arena& arena, const LinearDots<T>& call) {
    rows_1 = arena.take<T>(call.positions_1 * call.d_in);
    panel_1 = arena.take<T>(call.positions_1 * kTileColumns<T>);
    rows_2 = arena.take<T>(call.positions_2 * call.d_in);
    panel_2 = arena.take<T>(call.positions_2 * kTileColumns<T>);
    strip_1 = arena.take<double>(call.d_in * kTileColumns<T>);
    strip_2 = arena.take<double>(call.d_in * kTileColumns<T>);
  }
};

// Inner products may be small beside the norms, so their Gram form runs in float64 whatever T is.
struct DotsGramSpace {
  double *inputs_1, *outputs_1, *inputs_2, *outputs_2, *squares, *strip_in, *strip_out;
  DotsGramSpace(Arena& arena, long positions_1, long positions_2, long d_in, long d_out) {
    const long length_1 = padded_length<double>(positions_1), length_2 = padded_length<double>(positions_2);
    inputs_1 = arena.take<double>(d_in * length_1);
    outputs_1 = arena.take<double>(d_out * length_1);
    inputs_2 = arena.take<double>(d_in * length_2);
    outputs_2 = arena.take<double>(d_out * length_2);
    squares = arena.take<double>(2 * (length_1 + length_2));
    strip_in = arena.take<double>(positions_1 * kTileColumns<double>);
    strip_out = arena.take<double>(positions_1 * kTileColumns<double>);
  }
};

template <class T>
double product_dot(const T* a1, const T* g1, const T* a2, const T* g2, const LinearDots<T>& call,
                   const DotsProductSpace<T>& space) {
  constexpr int width = kTileColumns<T>;
  const RowTiles tiles(call.d_in);
  pack_rows(a1, call.d_in, call.positions_1, tiles, space.rows_1);
  pack_rows(a2, call.d_in, call.positions_2, tiles, space.rows_2);
  double total = 0;
  for (long j = 0; j < call.d_out; j += width) {
    const long columns = least(width, call.d_out - j);
    pack_columns(g1 + j, call.d_out, call.positions_1, columns, space.panel_1);
    pack_columns(g2 + j, call.d_out, call.positions_2, columns, space.panel_2);
    strip_products(tiles, tiles.tiles, call.positions_1, Panel<T>{space.panel_1, width, columns},
                   PackedTiles<T>{tiles, space.rows_1, call.positions_1}, call.d_in, space.strip_1);
    strip_products(tiles, tiles.tiles, call.positions_2, Panel<T>{space.panel_2, width, columns},
                   PackedTiles<T>{tiles, space.rows_2, call.positions_2}, call.d_in, space.strip_2);
    for (long r = 0; r < call.d_in; ++r) total += dot(space.strip_1 + r * width, space.strip_2 + r * width, columns);
  }
  return total;
}

template <class T>
GramSum gram_dot(const T* a1, const T* g1, const T* a2, const T* g2, const LinearDots<T>& call,
                 const DotsGramSpace& space) {
  const long length_1 = padded_length<double>(call.positions_1), length_2 = padded_length<double>(call.positions_2);
  transpose(a1, call.positions_1, call.d_in, length_1, space.inputs_1);
  transpose(g1, call.positions_1, call.d_out, length_1, space.outputs_1);
  transpose(a2, call.positions_2, call.d_in, length_2, space.inputs_2);
  transpose(g2, call.positions_2, call.d_out, length_2, space.outputs_2);
  double* squares = space.squares;
  const GramSide<double> left{space.inputs_1, space.outputs_1, call.positions_1, length_1, squares, squares + length_1};
  column_squares(left.inputs, call.d_in, length_1, length_1, squares);
  column_squares(left.outputs, call.d_out, length_1, length_1, squares + length_1);
  squares += 2 * length_1;
  const GramSide<double> right{space.inputs_2, space.outputs_2, call.positions_2,
                               length_2,       squares,         squares + length_2};
  column_squares(right.inputs, call.d_in, length_2, length_2, squares);
  column_squares(right.outputs, call.d_out, length_2, length_2, squares + length_2);
  return gram<false, true, double>(left, right, call.d_in, call.d_out, space.strip_in, space.strip_out);
}

template <class T>
bool dots_by_gram(const LinearDots<T>& call) {
  return gram_is_cheaper(call.positions_1, call.positions_2, call.d_in, call.d_out);
}

template <class T>
long dots_workspace(const LinearDots<T>& call) {
  Arena arena{nullptr};
  DotsProductSpace<T>(arena, call);
  if (dots_by_gram(call)) DotsGramSpace(arena, call.positions_1, call.positions_2, call.d_in, call.d_out);
  return arena.used;
}

template <class T>
void dots(const LinearDots<T>& call, long begin, long end, char* workspace) {
  for (long i = begin; i < end; ++i) {
    const T* a1 = call.activations_1 + i * call.positions_1 * call.d_in;
    const T* g1 = call.output_grads_1 + i * call.positions_1 * call.d_out;
    const T* a2 = call.activations_2 + i * call.positions_2 * call.d_in;
    const T* g2 = call.output_grads_2 + i * call.positions_2 * call.d_out;
    if (call.positions_1 == 0 || call.positions_2 == 0) {
      call.out[i] = 0;
      continue;
    }
    if (call.positions_1 == 1 && call.positions_2 == 1) {
      call.out[i] = dot(a1, a2, call.d_in) * dot(g1, g2, call.d_out);
      continue;
    }
    Arena arena{workspace};
    const DotsProductSpace<T> product(arena, call);
    if (dots_by_gram(call)) {
      const GramSum sum = gram_dot(a1, g1, a2, g2, call,
                                   DotsGramSpace(arena, call.positions_1, call.positions_2, call.d_in, call.d_out));
      // float32 inputs have float64 digits to spare; a non-finite value is settled by the product.
      if (sizeof(T) == 4 ? __builtin_isfinite(sum.value) : sum.trustworthy(kGramLimit<T>)) {
        call.out[i] = sum.value;
        continue;
      }
    }
    call.out[i] = product_dot(a1, g1, a2, g2, call, product);
  }
}

// --- an embedding tied to a linear layer ---------------------------------------------------------

template <class T>
struct EmbeddingDotsSpace {
  long* kept;
  T *rows, *panel;
  double* strip;
  EmbeddingDotsSpace(Arena& arena, const EmbeddingLinearDots<T>& call) {
    kept = arena.take<long>(call.n_tokens);
    rows = arena.take<T>(call.n_tokens * call.positions);
    panel = arena.take<T>(call.positions * kTileColumns<T>);
    strip = arena.take<double>(call.n_tokens * kTileColumns<T>);
  }
};

template <class T>
long embedding_dots_workspace(const EmbeddingLinearDots<T>& call) {
  Arena arena{nullptr};
  EmbeddingDotsSpace<T>(arena, call);
  return arena.used;
}

// Row `token` of the linear gradient is sum_s R[s, token] C[s]; only the rows of tokens that occur are formed, in
// tiles.
template <class T>
void embedding_dots(const EmbeddingLinearDots<T>& call, long begin, long end, char* workspace) {
  constexpr int width = kTileColumns<T>;
  Arena arena{workspace};
  const EmbeddingDotsSpace<T> space(arena, call);
  for (long i = begin; i < end; ++i) {
    const long* tokens = call.tokens + i * call.n_tokens;
    const T* grads = call.embedding_grads + i * call.n_tokens * call.width;
    const T* row_factors = call.row_factors + i * call.positions * call.rows;
    const T* column_factors = call.column_factors + i * call.positions * call.width;
    long n_kept = 0;
    for (long t = 0; t < call.n_tokens; ++t)
      if (tokens[t] != call.padding_token) space.kept[n_kept++] = t;
    const RowTiles tiles(n_kept);
    for (long t = 0; t < tiles.tiles; ++t) {
      const long first = tiles.begin(t);
      const int height = tiles.height(t);
      T* to = space.rows + first * call.positions;
      for (long s = 0; s < call.positions; ++s)
        for (int r = 0; r < height; ++r)
          to[s * height + r] = row_factors[s * call.rows + tokens[space.kept[first + r]]];
    }
    double total = 0;
    for (long j = 0; j < call.width && n_kept > 0 && call.positions > 0; j += width) {
      const long columns = least(width, call.width - j);
      pack_columns(column_factors + j, call.width, call.positions, columns, space.panel);
      strip_products(tiles, tiles.tiles, call.positions, Panel<T>{space.panel, width, columns},
                     PackedTiles<T>{tiles, space.rows, call.positions}, n_kept, space.strip);
      for (long r = 0; r < n_kept; ++r) {
        const T* grad = grads + space.kept[r] * call.width + j;
        for (long c = 0; c < columns; ++c) total += space.strip[r * width + c] * static_cast<double>(grad[c]);
      }
    }
    call.out[i] = total;
  }
}

}  // namespace

extern const Both<LinearKernels> linear_table = {
    {norms_workspace<float>, norms<float>, dots_workspace<float>, dots<float>, embedding_dots_workspace<float>,
     embedding_dots<float>},
    {norms_workspace<double>, norms<double>, dots_workspace<double>, dots<double>, embedding_dots_workspace<double>,
     embedding_dots<double>}};

}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
