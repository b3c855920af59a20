#include "weights.h"

#include <algorithm>

#include "coded.h"

namespace sparsify {

namespace {

int64_t checked_size(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (int64_t length : shape) {
    if (length < 1)
      throw InvalidArgument("every dimension of the weight must be positive; it has " + in_brackets(shape));
    if (__builtin_mul_overflow(size, length, &size) || size >= kMaxWeights)
      throw InvalidArgument("the weight is too large: it has the sizes " + in_brackets(shape) +
                            "; expected less than 2^31 values");
  }
  return size;
}

}  // namespace

Weights read_weights(const Tensor& values, const Tensor& gaps, const std::vector<int64_t>& shape) {
  if (values.type != kFloat && values.type != kUint8)
    throw InvalidArgument("the weight must be float32, or uint8 with gaps; its ONNX type is " +
                          std::to_string(values.type));
  if (gaps && shape.empty()) throw InvalidArgument("with gaps, weight_shape must give the shape of the weight");
  Weights weights;
  weights.shape = gaps ? shape : values.shape;
  const int64_t size = checked_size(weights.shape);
  if (values.type == kUint8) return read_coded(values, gaps, weights.shape, size);
  const float* from = values.floats();
  if (!gaps) {
    for (int64_t i = 0; i < size; ++i)
      if (from[i] != 0.0f) {
        weights.positions.push_back(i);
        weights.values.push_back(from[i]);
      }
    return weights;
  }
  if (gaps.type != kUint8 || gaps.shape.size() != 1 || values.shape != gaps.shape)
    throw InvalidArgument("values and gaps must be float32 and uint8 vectors of the same length");
  const uint8_t* step = static_cast<const uint8_t*>(gaps.data);
  int64_t position = -1;
  for (int64_t i = 0; i < values.size(); ++i) {
    position += step[i] + 1;
    if (position >= size) throw InvalidArgument("the gaps lead beyond the end of weight_shape");
    if (from[i] == 0.0f) continue;
    weights.positions.push_back(position);
    weights.values.push_back(from[i]);
  }
  return weights;
}

Weights constant_weights(const OrtApi* api, const OrtKernelInfo* info, size_t input, const std::string& shape,
                         const std::string& name) {
  const Tensor values = constant_input(api, info, input), gaps = constant_input(api, info, input + 1);
  if (!values) throw InvalidArgument("input " + name + " must be a constant initializer");
  return read_weights(values, gaps, attribute_ints(api, info, shape.c_str()));
}

Rows take_rows(const Weights& weights, int64_t first, int64_t rows, int64_t columns) {
  Rows taken{static_cast<int32_t>(rows), static_cast<int32_t>(columns), {0}, {}};
  const auto& positions = weights.positions;
  auto at = std::lower_bound(positions.begin(), positions.end(), first * columns) - positions.begin();
  const int64_t count = static_cast<int64_t>(positions.size());
  for (int64_t row = first; row < first + rows; ++row) {
    for (; at < count && positions[at] < (row + 1) * columns; ++at)
      taken.nonzeros.push_back({static_cast<int32_t>(positions[at] - row * columns), weights.values[at]});
    taken.begin.push_back(static_cast<int64_t>(taken.nonzeros.size()));
  }
  return taken;
}

Rows take_transposed(const Weights& weights, int64_t rows, int64_t columns) {
  Rows taken{static_cast<int32_t>(columns), static_cast<int32_t>(rows), {}, {}};
  taken.begin.assign(columns + 1, 0);
  for (int64_t position : weights.positions) ++taken.begin[position % columns + 1];
  for (int64_t i = 0; i < columns; ++i) taken.begin[i + 1] += taken.begin[i];
  std::vector<int64_t> next(taken.begin.begin(), taken.begin.end() - 1);
  taken.nonzeros.resize(weights.positions.size());
  for (size_t i = 0; i < weights.positions.size(); ++i) {
    const int64_t position = weights.positions[i];
    taken.nonzeros[next[position % columns]++] = {static_cast<int32_t>(position / columns), weights.values[i]};
  }
  return taken;
}

}  // namespace sparsify
