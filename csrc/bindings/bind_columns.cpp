// Bindings of the kernels for columns of files, which are on the host alone.
#include "bindings/families.hpp"
#include "bindings/kernel.hpp"
#include "columns/columns.hpp"

namespace expunge::bindings {
namespace {

template <class T, class Kernel>
void turn(Kernel kernel, const Array& columns, const Array& rows, Place& place) {
  const long n = length(rows, 0), p = length(rows, 1), stride = length(columns, 1);
  const T* from = input<T>(columns, {p, stride});
  T* to = output<T>(rows, {n, p});
  if (n > stride) refuse("rows", "be at most the values of a column, " + std::to_string(stride));
  place.run(n, 1024, [&](long begin, long end) { kernel(from, stride, p, to, begin, end); });
}

void rows_of_columns(const Array& columns, const Array& rows, Place& place) {
  if (columns.is<float>())
    turn<float>(columns::table().rows_of_floats, columns, rows, place);
  else
    turn<double>(columns::table().rows_of_doubles, columns, rows, place);
}

void plain_page(const Array& head, const Array& found, long item_bytes, long max_definition, long max_repetition,
                long width, long phase, Place& place) {
  columns::Page page = {};
  page.size = length(head, 0);
  page.bytes = input<std::uint8_t>(head, {page.size});
  std::int64_t* const out = output<std::int64_t>(found, {4});
  if (item_bytes < 1 || item_bytes > 64) refuse("item_bytes", "be within [1, 64], got " + std::to_string(item_bytes));
  if (max_definition < 0 || max_definition > 255) refuse("max_definition", "be within [0, 255]");
  if (max_repetition < 0 || max_repetition > 1) refuse("max_repetition", "be 0 or 1");
  if (width < 1) refuse("width", "be at least 1, got " + std::to_string(width));
  if (phase < 0 || phase >= width) refuse("phase", "be within [0, width)");
  page.item_bytes = item_bytes;
  page.max_definition = max_definition;
  page.max_repetition = max_repetition;
  page.width = width;
  page.phase = phase;
  place.run_once([&] {
    const columns::FoundPage one = columns::table().plain_page(page);
    out[0] = static_cast<std::int64_t>(one.kind);
    out[1] = one.values_at;
    out[2] = one.values;
    out[3] = one.next_at;
  });
}

}  // namespace

void bind_columns(py::module_& module) {
  define<2>(module, "rows_of_columns", &rows_of_columns, {"columns", "rows"});
  define<2>(module, "plain_page", &plain_page,
            {"head", "found", "item_bytes", "max_definition", "max_repetition", "width", "phase"});
}

}  // namespace expunge::bindings
