// What images are made of: floats, or bfloat16, which takes half the memory. Panels, weights and sums are floats.
#pragma once

#include <cstdint>

namespace sparsify {
namespace training {

// The upper half of a float.
struct Bfloat16 {
  uint16_t bits;
};

enum class Type : int64_t { kFloat = 0, kBfloat16 = 1 };

// Calls work(an entry of this type), for what is written once for both.
template <typename Work>
void with_type(Type type, const Work& work) {
  if (type == Type::kFloat) return work(float{});
  work(Bfloat16{});
}

}  // namespace training
}  // namespace sparsify
