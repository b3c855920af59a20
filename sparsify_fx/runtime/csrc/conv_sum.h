// Two sparse 1x1 convolutions and the sum of their results: the end of a residual block whose input is projected. What
// the first one gives stays near the processor until the second one is added.
#pragma once

#include "conv.h"

namespace sparsify {

class SparseConvSum {
 public:
  static constexpr const char* kName = "SparseConvSum";
  static constexpr size_t kInputs = 8;  // X, W, gaps and B of one; P, V, gaps and C of the projection
  static constexpr size_t kMoreGaps = 6;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  SparseConvSum(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Inputs;
  Inputs inputs_of(OrtKernelContext* context) const;
  void compute_planes(OrtKernelContext* context, const Inputs& given) const;

  const OrtApi* api_;
  SparseConv conv_, projection_;
};

}  // namespace sparsify
