// How checkpoints of a linear probe are grouped, and the scratch memory of a block of rows. Internal linkage only.
#pragma once

#include "grad_norms/grad_norms.hpp"
#include "grad_norms/tiles.hpp"

namespace expunge::grad_norms::EXPUNGE_ISA_NS {
namespace {

constexpr long kRows = kProbeTileRows;
constexpr long kGroupColumns = 512;  // checkpoints are taken in groups of about so many logits

struct Grouping {
  long classes, checkpoints, per_group, groups;
  Grouping(long classes_, long checkpoints_)
      : classes(classes_), checkpoints(checkpoints_), per_group(most(1, kGroupColumns / most(1, classes_))) {
    groups = (checkpoints + per_group - 1) / per_group;
  }
  EXPUNGE_INLINE long count(long group) const { return least(per_group, checkpoints - group * per_group); }
  template <class T>
  EXPUNGE_INLINE long panels(long group) const {
    return (count(group) * classes + kTileColumns<T> - 1) / kTileColumns<T>;
  }
};

template <class T>
struct ProbeSpace {
  T* partial;
  double *logits, *row_squares;  // logits[column, row]
  long columns;
  ProbeSpace(Arena& arena, const ProbeNorms<T>& call) {
    const Grouping grouping(call.classes, call.checkpoints);
    columns = round_up(least(grouping.per_group, call.checkpoints) * call.classes, kTileColumns<T>);
    partial = arena.take<T>(call.d > kBlock ? kRows * columns : 0);
    logits = arena.take<double>(kRows * columns);
    row_squares = arena.take<double>(kRows);
  }
};

}  // namespace
}  // namespace expunge::grad_norms::EXPUNGE_ISA_NS
