// Depthwise convolution over NCHW activations: a small kernel of its own for every channel, computed densely: with 9
// to 49 weights to a channel, finding the zeros would take longer than multiplying by them.
#pragma once

#include <vector>

#include "bands.h"
#include "conv.h"

namespace sparsify {

// Whether the kernels can compute such a convolution: a channel to a group, square kernels, strides of 1 or 2.
bool is_depthwise(const ConvAttributes& attributes);

// Its weight, dense.
class Depthwise {
 public:
  Depthwise() = default;
  // Only of convolutions that is_depthwise.
  Depthwise(const Weights& weights, const ConvAttributes& attributes);
  // The kernel of a channel, column by column.
  const float* weights(int64_t channel) const { return weights_.data() + channel * taps_; }
  const ConvAttributes& attributes() const { return attributes_; }

 private:
  ConvAttributes attributes_;
  int64_t taps_ = 0;
  std::vector<float> weights_;  // [channel][column][row]
};

class DepthwiseConv : public ConvAlgorithm {
 public:
  explicit DepthwiseConv(const ConvModel& model) : weight_(model.weights, model.attributes) {}
  void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const override;

 private:
  struct Call;
  class Worker;

  Depthwise weight_;
};

}  // namespace sparsify
