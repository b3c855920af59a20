// Two sparse 1x1 convolutions and the sum of their results: the end of a residual block whose input is projected. What
// the first one gives stays near the processor until the second one is added.
#pragma once

#include <memory>

#include "conv.h"

namespace sparsify {

class SparseConvSum {
 public:
  static constexpr const char* kName = "SparseConvSum";
  // `kProjected` is the input of the projection, and `kMoreBias` its bias.
  enum Input : size_t { kX, kWeight, kGaps, kBias, kProjected, kMoreWeight, kMoreGaps, kMoreBias, kInputs };
  static constexpr bool is_gaps(size_t input) { return input == kGaps || input == kMoreGaps; }
  static constexpr bool kSumInPlace = false;

  SparseConvSum(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

  // Over NCHW activations, or over padded planes; settled when the session is created.
  class Algorithm {
   public:
    virtual ~Algorithm() = default;
    virtual void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& given,
                         const ConvInputs& projected) const = 0;
  };

 private:
  const OrtApi* api_;
  std::unique_ptr<const Algorithm> algorithm_;
};

}  // namespace sparsify
