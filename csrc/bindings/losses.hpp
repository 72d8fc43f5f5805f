// Losses by their names, as Python gives them to every family.
#pragma once

#include <string>

#include "bindings/array_checks.hpp"
#include "common/losses.hpp"

namespace expunge::bindings {

inline Loss loss_named(const std::string& name) {
  if (name == "softmax") return Loss::softmax;
  if (name == "logistic") return Loss::logistic;
  if (name == "squared") return Loss::squared;
  refuse("loss", "be 'softmax', 'logistic' or 'squared', got '" + name + "'");
}

}  // namespace expunge::bindings
