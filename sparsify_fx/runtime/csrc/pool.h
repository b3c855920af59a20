// Pooling over NCHW activations, for models whose convolutions are sparse: onnxruntime's own would convert them first.
#pragma once

#include "depthwise.h"

namespace sparsify {

// Those of a pooling that the kernels compute; all names begin with `prefix`.
ConvAttributes read_pool(const OrtApi* api, const OrtKernelInfo* info, const std::string& prefix = "");

// The memory that a worker needs for PoolCall::lines, and these, with padding, in it.
int64_t pool_floats(const Bands& bands);
float* pool_lines(const Bands& bands, float* room);

class MaxPool {
 public:
  static constexpr const char* kName = "MaxPool";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  MaxPool(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  ConvAttributes attributes_;
};

}  // namespace sparsify
