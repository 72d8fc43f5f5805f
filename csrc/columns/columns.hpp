// Interface of the kernels for columns of files: values that lie column by column become rows, and pages of Parquet
// that hold nothing but plain numbers are told from all others.
#pragma once

#include <stdint.h>

#include "common/isa.hpp"

namespace expunge::columns {

// A page of numbers of `item_bytes` bytes: `size` bytes from its header on, as far as they were read.
struct Page {
  const uint8_t* bytes;
  long size;
  long item_bytes;
  long max_definition, max_repetition;  // levels: 0 where the page has none; of repetition at most 1
  long width;                           // values of every list, and how many of the first one lie in earlier pages
  long phase;
};

enum class PageKind : long { plain = 0, other = 1, unread = 2 };  // unread: header and levels go beyond `size`

struct FoundPage {
  PageKind kind;
  long values_at, values;  // from the header on; no value is missing, and all lists have the width
  long next_at;
};

struct Table {
  // columns (p, stride) with n <= stride values each -> rows (n, p), of which [begin, end) are written.
  void (*rows_of_floats)(const float* columns, long stride, long p, float* rows, long begin, long end);
  void (*rows_of_doubles)(const double* columns, long stride, long p, double* rows, long begin, long end);
  FoundPage (*plain_page)(const Page& page);
};

EXPUNGE_ISA_TABLE(Table, table)

}  // namespace expunge::columns
