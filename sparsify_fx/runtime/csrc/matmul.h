// Sparse matrix product: activations [..., K] times a constant weight [K, N].
#pragma once

#include <mutex>

#include "lean.h"
#include "product.h"

namespace sparsify {

class SparseMatMul {
 public:
  static constexpr const char* kName = "SparseMatMul";
  enum Input : size_t { kA, kWeight, kGaps, kBias, kResidual, kInputs };
  static constexpr bool is_gaps(size_t input) { return input == kGaps; }
  static constexpr bool kSumInPlace = false;

  SparseMatMul(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class TileWorker;
  class PixelWorker;

  const LeanMatrix& lean_matrix() const;

  const OrtApi* api_;
  int64_t inner_, outer_;  // K, N
  Activation activation_;
  Matrix matrix_;  // N rows, K columns
  int max_vectors_;
  // Made when it is first needed: most models never see a few pixels.
  mutable std::once_flag once_;
  mutable LeanMatrix lean_;
};

}  // namespace sparsify
