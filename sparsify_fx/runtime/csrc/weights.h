// Constant weights of a model as rows: dense tensors, or gap codes.
#pragma once

#include <string>
#include <vector>

#include "matrix.h"
#include "ort.h"

namespace sparsify {

constexpr int64_t kMaxWeights = int64_t{1} << 31;

// The non-zeros of a weight, read one after another in the order of the dense tensor.
struct Weights {
  std::vector<int64_t> shape;
  std::vector<int64_t> positions;
  std::vector<float> values;
};

// `values` is the dense tensor when `gaps` is missing; otherwise value i stands gaps[i] + 1 places after value i - 1
// (the first one at gaps[0]) in a tensor of `shape`, and values that are zero only bridge gaps above 255. Values of
// type uint8 are codes of less than 32 bits (coded.h).
Weights read_weights(const Tensor& values, const Tensor& gaps, const std::vector<int64_t>& shape);

// The same of the inputs `input` and `input` + 1 of a node, which must be constant; `shape` is an attribute that gives
// the sizes, `name` the input's in errors.
Weights constant_weights(const OrtApi* api, const OrtKernelInfo* info, size_t input, const std::string& shape,
                         const std::string& name);

// Rows [first, first + rows) of a row-major matrix with `columns` columns; transposed gives columns as rows.
Rows take_rows(const Weights& weights, int64_t first, int64_t rows, int64_t columns);
Rows take_transposed(const Weights& weights, int64_t rows, int64_t columns);

}  // namespace sparsify
