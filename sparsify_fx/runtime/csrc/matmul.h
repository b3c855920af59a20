// Sparse matrix product: activations [..., K] times a constant weight [K, N].
#pragma once

#include "product.h"

namespace sparsify {

class SparseMatMul {
 public:
  static constexpr const char* kName = "SparseMatMul";
  static constexpr size_t kInputs = 5;  // A, W or its non-zeros, gaps, B, Z
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 4;              // the input Z
  static constexpr bool kResidualInPlace = false;  // every output is written after its place in Z was read

  SparseMatMul(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  void work(const Call& call, Share& share) const;
  void work_by_pixel(const Call& call, Share& share) const;

  const OrtApi* api_;
  int64_t inner_, outer_;  // K, N
  Activation activation_;
  Matrix matrix_;  // N rows, K columns
  int max_vectors_;
};

}  // namespace sparsify
