// Sizes that come out of models and inputs, multiplied without wrapping.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace sparsify {

// An attribute or input that an operator cannot take; becomes an onnxruntime error.
struct InvalidArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Of any tensor and of all that is packed of it: sums and small multiples of such numbers stay far below 2^63. Fewer
// for tests under a sanitizer, which ends the process where there is no memory (tests/runtime/sanitize.py).
#ifndef SPARSIFY_FX_MOST_FLOATS
#define SPARSIFY_FX_MOST_FLOATS (int64_t{1} << 40)
#endif
constexpr int64_t kMostFloats = SPARSIFY_FX_MOST_FLOATS;
constexpr int64_t kMaxLength = int64_t{1} << 24;  // of a stride, pad, dilation, image side, or number of channels

inline std::string in_brackets(const std::vector<int64_t>& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

// The product of sizes, none of them negative. Zeros count as ones until the end, so that every part of the product
// fits too, in any order, and what is computed from a tensor without elements.
inline int64_t checked_product(const std::string& what, const std::vector<int64_t>& sizes) {
  int64_t product = 1;
  bool empty = false;
  for (int64_t size : sizes) {
    if (size < 0) throw InvalidArgument(what + " has sizes below 0: " + in_brackets(sizes));
    empty |= size == 0;
    if (__builtin_mul_overflow(product, size == 0 ? 1 : size, &product) || product > kMostFloats)
      throw InvalidArgument(what + " is too large: its sizes are " + in_brackets(sizes) +
                            "; expected a product of at most " + std::to_string(kMostFloats));
  }
  return empty ? 0 : product;
}

// A number that must not exceed another one.
inline int64_t checked_most(const std::string& what, int64_t size, int64_t most) {
  if (size < 0 || size > most)
    throw InvalidArgument(what + " is " + std::to_string(size) + "; expected from 0 to " + std::to_string(most));
  return size;
}

}  // namespace sparsify
