// Every second pixel of every second line of padded planes, with channels of zeros before and after: the shortcut of a
// residual block that halves its image.
#pragma once

#include "planes.h"

namespace sparsify {

class HalvePlanes : public OneInput {
 public:
  static constexpr const char* kName = "HalvePlanes";

  HalvePlanes(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  int64_t before_, after_;  // channels of zeros
  bool halo_;
};

}  // namespace sparsify
