// The losses that kernels know, by the names that every family gives them.
#pragma once

namespace expunge {

enum class Loss : int { softmax = 0, logistic = 1, squared = 2 };

}  // namespace expunge
