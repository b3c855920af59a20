// A sparse 1x1 convolution and the depthwise one behind it, without their large intermediate result in memory.
#pragma once

#include <vector>

#include "depthwise.h"

namespace sparsify {

class SparseConvDepthwise {
 public:
  static constexpr const char* kName = "SparseConvDepthwise";
  static constexpr size_t kInputs = 7;  // X, W, gaps and B of the first; D, gaps and C of the depthwise one
  static constexpr size_t kMoreGaps = 5;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  SparseConvDepthwise(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class Worker;

  const OrtApi* api_;
  ConvAttributes first_;
  Depthwise second_;
  std::vector<Matrix> matrices_;  // of kRows rows each; the last one may have fewer
  int max_vectors_;
};

}  // namespace sparsify
