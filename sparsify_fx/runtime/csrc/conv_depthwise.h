// A sparse 1x1 convolution fused with the depthwise one that follows it: their large intermediate result is never
// materialized.
#pragma once

#include <vector>

#include "depthwise.h"
#include "matrix.h"

namespace sparsify {

class SparseConvDepthwise {
 public:
  static constexpr const char* kName = "SparseConvDepthwise";
  enum Input : size_t { kX, kWeight, kGaps, kBias, kDepthwiseWeight, kDepthwiseGaps, kDepthwiseBias, kInputs };
  static constexpr bool is_gaps(size_t input) { return input == kGaps || input == kDepthwiseGaps; }
  static constexpr bool kSumInPlace = false;

  SparseConvDepthwise(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class Worker;
  // The first rows of a matrix and their non-zeros: those of at most kThinRow.
  struct Thin {
    int rows;
    int64_t nonzeros;
  };
  static Thin thin_of(const Matrix& matrix);

  const OrtApi* api_;
  ConvAttributes first_;
  Depthwise second_;
  std::vector<Matrix> matrices_;   // of kRows rows each; the last one may have fewer
  std::vector<Thin> thin_;         // of each of them
  int max_vectors_, run_vectors_;  // of a tile, and of what thin rows go over at once
};

}  // namespace sparsify
