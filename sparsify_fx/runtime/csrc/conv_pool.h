// A sparse convolution and the maximum pooling behind it, without their large intermediate result in memory.
#pragma once

#include <vector>

#include "depthwise.h"
#include "window.h"

namespace sparsify {

class SparseConvPool {
 public:
  static constexpr const char* kName = "SparseConvPool";
  static constexpr size_t kInputs = 4;  // X, W or its non-zeros, gaps, B
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  SparseConvPool(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class Worker;

  const OrtApi* api_;
  ConvAttributes conv_, pool_;
  Taps taps_;
  std::vector<Matrix> matrices_;  // of kRows rows each
  std::vector<Column> columns_;   // what the planes of each of them stand for
};

}  // namespace sparsify
