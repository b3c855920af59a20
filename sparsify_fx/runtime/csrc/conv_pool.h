// A sparse convolution fused with the maximum pooling that follows it: their large intermediate result is never
// materialized.
#pragma once

#include <vector>

#include "bands.h"
#include "kernels/kernels.h"
#include "matrix.h"
#include "window.h"

namespace sparsify {

class SparseConvPool {
 public:
  static constexpr const char* kName = "SparseConvPool";
  enum Input : size_t { kX, kWeight, kGaps, kBias, kInputs };
  static constexpr bool is_gaps(size_t input) { return input == kGaps; }
  static constexpr bool kSumInPlace = false;

  SparseConvPool(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class Worker;

  const OrtApi* api_;
  ConvAttributes conv_, pool_;
  Taps taps_;
  std::vector<Matrix> matrices_;      // of kRows rows each
  std::vector<PlaneSource> sources_;  // of the planes of each of them
};

}  // namespace sparsify
