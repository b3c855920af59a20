// What the operators with a single input tell register.cpp; those with more say it themselves.
#pragma once

#include <cstddef>

namespace sparsify {

struct OneInput {
  enum Input : size_t { kX, kInputs };
  static constexpr bool is_gaps(size_t) { return false; }
  static constexpr bool kSumInPlace = false;
};

}  // namespace sparsify
