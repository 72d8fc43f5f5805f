// Pages of Parquet [https://parquet.apache.org/docs/file-format/data-pages]: the header, in Thrift's compact protocol,
// and the levels. The bytes are anybody's: nothing is read beyond them, and whatever is not known to be plain is other.
#pragma once

#include <stdint.h>
#include <string.h>

#include "columns/columns.hpp"

namespace expunge::columns {
namespace {

// What was asked for lies beyond the bytes (`ended`), or is no such thing (`wrong`); then everything is 0.
class Bytes {
 public:
  Bytes(const uint8_t* bytes, long size) : bytes_(bytes), size_(size) {}

  bool good() const { return !wrong && !ended; }
  long at() const { return at_; }

  uint8_t byte() {
    if (at_ >= size_) ended = true;
    return good() ? bytes_[at_++] : uint8_t(0);
  }

  void pass(uint64_t count) {
    if (count > uint64_t(size_ - at_))
      ended = true;
    else
      at_ += long(count);
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t next = byte();
      if (!good()) return 0;
      value |= uint64_t(next & 0x7f) << shift;
      if (next < 0x80) return value;
    }
    wrong = true;
    return 0;
  }

  int64_t zigzag() {
    const uint64_t value = varint();
    return int64_t(value >> 1) ^ -int64_t(value & 1);
  }

  bool wrong = false, ended = false;

 private:
  const uint8_t* bytes_;
  long size_, at_ = 0;
};

enum Type { kStop = 0, kTrue = 1, kFalse = 2, kByte = 3, kI32 = 5, kDouble = 7, kBinary = 8, kList = 9, kSet = 10 };
constexpr int kMap = 11, kStruct = 12, kUuid = 13;
constexpr int kDeepest = 8;  // of structures within one another: a page's statistics have one

void skip(Bytes& in, int type, int depth, bool element);

// Calls field(id, type) for each field of a structure; it reads the value.
template <class Field>
void each_field(Bytes& in, Field field) {
  int64_t id = 0;
  while (in.good()) {
    const uint8_t head = in.byte();
    if (!in.good() || head == kStop) return;
    id = head >> 4 ? id + (head >> 4) : in.zigzag();
    field(id, head & 15);
  }
}

void skip_items(Bytes& in, uint64_t count, int type, int depth) {
  for (uint64_t i = 0; i < count && in.good(); ++i) skip(in, type, depth, true);
}

void skip(Bytes& in, int type, int depth, bool element) {
  if (depth > kDeepest) in.wrong = true;
  if (!in.good()) return;
  if (type == kTrue || type == kFalse) {
    if (element) in.byte();
  } else if (type == kByte) {
    in.byte();
  } else if (type > kByte && type < kDouble) {
    in.varint();
  } else if (type == kDouble) {
    in.pass(8);
  } else if (type == kBinary) {
    in.pass(in.varint());
  } else if (type == kList || type == kSet) {
    const uint8_t head = in.byte();
    skip_items(in, head >> 4 == 15 ? in.varint() : uint64_t(head >> 4), head & 15, depth + 1);
  } else if (type == kMap) {
    const uint64_t count = in.varint();
    const uint8_t types = count ? in.byte() : uint8_t(0);
    for (uint64_t i = 0; i < count && in.good(); ++i) {
      skip(in, types >> 4, depth + 1, true);
      skip(in, types & 15, depth + 1, true);
    }
  } else if (type == kStruct) {
    each_field(in, [&](int64_t, int inner) { skip(in, inner, depth + 1, false); });
  } else if (type == kUuid) {
    in.pass(16);
  } else {
    in.wrong = true;
  }
}

struct Header {
  int64_t kind = -1, bytes = -1, packed_bytes = -1;
  int64_t values = -1, encoding = -1, definition_encoding = -1, repetition_encoding = -1;
  int64_t nulls = 0, definition_bytes = 0, repetition_bytes = 0;
  int data = 0;  // version of the data page's own header, 0 without one
};

Header header_of(Bytes& in) {
  Header found;
  const auto number = [&](int type, int64_t* value) {
    if (type != kI32) in.wrong = true;
    if (in.good()) *value = in.zigzag();
  };
  each_field(in, [&](int64_t id, int type) {
    int64_t* const outer = id == 1 ? &found.kind : id == 2 ? &found.bytes : id == 3 ? &found.packed_bytes : nullptr;
    if (outer != nullptr) {
      number(type, outer);
    } else if ((id == 5 || id == 8) && type == kStruct) {
      const bool second = id == 8;
      if (found.data != 0) in.wrong = true;
      found.data = second ? 2 : 1;
      each_field(in, [&](int64_t inner, int inner_type) {
        int64_t* value = nullptr;
        if (inner == 1) value = &found.values;
        if (inner == 2) value = second ? &found.nulls : &found.encoding;
        if (inner == 3 && !second) value = &found.definition_encoding;
        if (inner == 4) value = second ? &found.encoding : &found.repetition_encoding;
        if (inner == 5 && second) value = &found.definition_bytes;
        if (inner == 6 && second) value = &found.repetition_bytes;
        if (value != nullptr)
          number(inner_type, value);
        else
          skip(in, inner_type, 0, false);
      });
    } else {
      skip(in, type, 0, false);
    }
  });
  return found;
}

// Runs of equal levels and groups of eight packed ones. run(value, count) and packed(bits, count) say whether levels
// are as they should be; packed ones are at `bits` bits from `packed` on.
template <class Run, class Packed>
bool levels_fit(const uint8_t* bytes, long size, int bits, int64_t count, Run run, Packed packed) {
  Bytes in(bytes, size);
  while (count > 0) {
    const uint64_t head = in.varint();
    if (!in.good()) return false;
    if (head & 1) {
      const uint64_t groups = head >> 1;
      if (groups == 0 || groups > uint64_t(size - in.at()) / unsigned(bits)) return false;
      const int64_t here = int64_t(groups) * 8 < count ? int64_t(groups) * 8 : count;
      if (!packed(bytes + in.at(), here)) return false;
      in.pass(groups * unsigned(bits));
      count -= here;
    } else {
      const uint64_t here = head >> 1;
      const uint8_t value = in.byte();
      if (!in.good() || here == 0 || here > uint64_t(count) || !run(value, int64_t(here))) return false;
      count -= int64_t(here);
    }
  }
  return in.at() == size;
}

bool all_present(const uint8_t* bytes, long size, long highest, int64_t count) {
  int bits = 0;
  while (highest >> bits) ++bits;
  return levels_fit(
      bytes, size, bits, count, [&](uint8_t value, int64_t) { return value == highest; },
      [&](const uint8_t* from, int64_t here) {
        for (int64_t i = 0; i < here; ++i) {
          long level = 0;
          for (int b = 0; b < bits; ++b) level |= long(from[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1) << b;
          if (level != highest) return false;
        }
        return true;
      });
}

// Level 0 begins a list, 1 goes on with it: one in `width` is 0.
bool all_of_width(const uint8_t* bytes, long size, long width, long phase, int64_t count) {
  int64_t left = phase ? width - phase : 0;  // of the list that is open
  return levels_fit(
      bytes, size, 1, count,
      [&](uint8_t value, int64_t here) {
        if (value == 1) {
          left -= here;
          return left >= 0;
        }
        if (value != 0 || left != 0 || (here > 1 && width != 1)) return false;
        left = width - 1;
        return true;
      },
      [&](const uint8_t* from, int64_t here) {
        for (int64_t i = 0; i < here; ++i) {
          const bool on = from[i / 8] >> (i % 8) & 1;
          if (on != (left > 0)) return false;
          left = on ? left - 1 : width - 1;
        }
        return true;
      });
}

FoundPage found_page(const Page& page) {
  const FoundPage other = {PageKind::other, 0, 0, 0}, unread = {PageKind::unread, 0, 0, 0};
  Bytes in(page.bytes, page.size);
  const Header header = header_of(in);
  if (in.wrong) return other;
  if (in.ended) return unread;
  const int64_t n = header.values, size = header.bytes;
  const bool first = header.data == 1 && header.kind == 0, second = header.data == 2 && header.kind == 3;
  if ((!first && !second) || header.encoding != 0 || header.nulls != 0) return other;
  if (n < 0 || n > INT32_MAX || size < 0 || size > INT32_MAX || header.packed_bytes != size) return other;
  const long begin = in.at();
  long at = begin;
  int64_t lengths[2] = {header.repetition_bytes, header.definition_bytes};
  for (int kind = 0; kind < 2; ++kind) {  // repetition, then definition
    const long highest = kind == 0 ? page.max_repetition : page.max_definition;
    if (highest == 0) {
      if (lengths[kind] != 0) return other;
      continue;
    }
    if (first) {
      constexpr int64_t kRle = 3;
      if ((kind == 0 ? header.repetition_encoding : header.definition_encoding) != kRle) return other;
      if (at - begin + 4 > size) return other;
      if (page.size - at < 4) return unread;
      uint32_t bytes;
      memcpy(&bytes, page.bytes + at, 4);
      lengths[kind] = bytes;
      at += 4;
    }
    if (lengths[kind] < 0 || lengths[kind] > size - (at - begin)) return other;
    if (page.size - at < lengths[kind]) return unread;
    const uint8_t* const levels = page.bytes + at;
    const long bytes = long(lengths[kind]);
    if (!(kind == 0 ? all_of_width(levels, bytes, page.width, page.phase, n) : all_present(levels, bytes, highest, n)))
      return other;
    at += bytes;
  }
  if (size - (at - begin) != n * page.item_bytes) return other;
  return {PageKind::plain, at, long(n), begin + long(size)};
}

}  // namespace
}  // namespace expunge::columns
