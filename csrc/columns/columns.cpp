// Compiled once per instruction set into EXPUNGE_ISA_NS. Internal linkage for everything but the table.
#include "columns/columns.hpp"

#include "columns/pages.hpp"
#include "common/lanes.hpp"

namespace expunge::columns::EXPUNGE_ISA_NS {
namespace {

// Rows of a run: columns are read on, and lines of rows stay in the cache until they are full.
constexpr long kRun = 64;

// Halves zipped log2(W) times: W vectors of W lanes change places.
template <class T>
EXPUNGE_INLINE void turn(const T* from, long stride, T* to, long p) {
  using L = Lanes<T>;
  constexpr long W = L::W;
  typename L::F a[W], b[W];
  EXPUNGE_UNROLL(16)
  for (long k = 0; k < W; ++k) a[k] = L::load(from + k * stride);
  EXPUNGE_UNROLL(4)
  for (long half = 1; half < W; half *= 2) {
    EXPUNGE_UNROLL(8)
    for (long k = 0; k < W / 2; ++k) {
      b[2 * k] = zip_low(a[k], a[k + W / 2]);
      b[2 * k + 1] = zip_high(a[k], a[k + W / 2]);
    }
    EXPUNGE_UNROLL(16)
    for (long k = 0; k < W; ++k) a[k] = b[k];
  }
  EXPUNGE_UNROLL(16)
  for (long k = 0; k < W; ++k) L::store(to + k * p, a[k]);
}

template <class T>
void rows_of(const T* columns, long stride, long p, T* rows, long begin, long end) {
  constexpr long W = Lanes<T>::W;
  for (long first = begin; first < end; first += kRun) {
    const long last = first + kRun < end ? first + kRun : end;
    long j = 0;
    for (; j + W <= p; j += W) {
      long i = first;
      for (; i + W <= last; i += W) turn(columns + j * stride + i, stride, rows + i * p + j, p);
      for (; i < last; ++i)
        for (long k = j; k < j + W; ++k) rows[i * p + k] = columns[k * stride + i];
    }
    for (; j < p; ++j)
      for (long i = first; i < last; ++i) rows[i * p + j] = columns[j * stride + i];
  }
}

FoundPage plain_page(const Page& page) { return found_page(page); }

}  // namespace

extern const Table table = {rows_of<float>, rows_of<double>, plain_page};

}  // namespace expunge::columns::EXPUNGE_ISA_NS
