// The operator SparseConv. Which of three algorithms computes it is settled once, from its attributes:
//
//   WindowConv (conv_window.h)    NCHW; any kernel, stride, dilation and group
//   PlanesConv (conv_planes.h)    padded planes, with the attribute `padded`
//   DepthwiseConv (depthwise.h)   NCHW; a channel to a group and a small square kernel, computed densely
#pragma once

#include <memory>
#include <string>

#include "geometry.h"
#include "ort.h"
#include "weights.h"

namespace sparsify {

// What a model holds of one convolution.
struct ConvModel {
  Weights weights;
  ConvAttributes attributes;
};

// With input `weight` as the weight, which errors call `name`, and the next one as gaps. All attributes but
// weight_shape begin with `prefix`, and that is then called prefix + "shape".
ConvModel read_conv(const OrtApi* api, const OrtKernelInfo* info, size_t weight, const char* name,
                    const std::string& prefix = "");

// Whether a node reads and writes padded planes, and whether those that it writes have a halo.
bool is_padded(const OrtApi* api, const OrtKernelInfo* info);
bool has_halo(const OrtApi* api, const OrtKernelInfo* info);

// Bias and residual may be missing.
struct ConvInputs {
  Tensor x, bias, residual;
};

class ConvAlgorithm {
 public:
  virtual ~ConvAlgorithm() = default;
  // Checks the inputs, asks for the output and writes it.
  virtual void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const = 0;
};

class SparseConv {
 public:
  static constexpr const char* kName = "SparseConv";
  enum Input : size_t { kX, kWeight, kGaps, kBias, kResidual, kInputs };
  static constexpr bool is_gaps(size_t input) { return input == kGaps; }
  static constexpr bool kSumInPlace = true;  // every output is written after its place in the residual was read

  SparseConv(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  std::unique_ptr<const ConvAlgorithm> algorithm_;
};

}  // namespace sparsify
