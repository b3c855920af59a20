// Pooling over NCHW activations, for models whose convolutions are sparse: onnxruntime's own would convert them first.
#pragma once

#include "bands.h"
#include "one_input.h"

namespace sparsify {

// Those of a pooling that the kernels compute; all names begin with `prefix`.
ConvAttributes read_pool(const OrtApi* api, const OrtKernelInfo* info, const std::string& prefix = "");

// The memory that a worker needs for PoolCall::lines, and these, with padding, in it.
int64_t pool_floats(const Bands& bands);
float* pool_lines(const Bands& bands, float* room);

class MaxPool : public OneInput {
 public:
  static constexpr const char* kName = "MaxPool";

  MaxPool(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class Worker;

  const OrtApi* api_;
  ConvAttributes attributes_;
};

}  // namespace sparsify
