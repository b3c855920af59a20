// Weights in bytes: values of less than 32 bits, and gaps as codes of a few bits each
// (sparsify_fx/runtime/coded/weights.py).
#pragma once

#include <vector>

#include "weights.h"

namespace sparsify {

// The newest layout of weights that this library reads: 1 has float32 values and a byte for each gap, 2 what is here.
constexpr int kNewestFormat = 2;

// Decodes `values` and `gaps`, both uint8 vectors, into the float32 values that every kernel takes; once, when a
// session is created. What does not fit together is an InvalidArgument.
Weights read_coded(const Tensor& values, const Tensor& gaps, const std::vector<int64_t>& shape, int64_t size);

}  // namespace sparsify
