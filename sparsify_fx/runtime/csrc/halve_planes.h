// Every second pixel of every second line of padded planes, with channels of zeros before and behind: the shortcut of a
// residual block that halves its image.
#pragma once

#include "planes.h"

namespace sparsify {

class HalvePlanes {
 public:
  static constexpr const char* kName = "HalvePlanes";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  HalvePlanes(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  int64_t before_, behind_;  // channels of zeros
  bool edges_;
};

}  // namespace sparsify
