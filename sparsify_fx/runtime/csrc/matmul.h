// Sparse matrix product: activations [..., K] times a constant weight [K, N], after a layer normalization perhaps.
#pragma once

#include "matrix_product.h"

namespace sparsify {

class SparseMatMul {
 public:
  static constexpr const char* kName = "SparseMatMul";
  enum Input : size_t { kA, kWeight, kGaps, kBias, kResidual, kScale, kShift, kInputs };
  static constexpr bool is_gaps(size_t input) { return input == kGaps; }
  static constexpr bool kSumInPlace = false;

  SparseMatMul(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  float epsilon_;
  MatrixProduct product_;
};

// The tensor [..., K] that a product reads; its result is [..., N].
Tensor checked_pixels(const OrtApi* api, const OrtKernelContext* context, size_t number, int64_t inner);
// An optional vector of `length` floats; null where it is missing.
const float* checked_vector(const OrtApi* api, const OrtKernelContext* context, size_t number, int64_t length,
                            const char* name);
float norm_epsilon(const OrtApi* api, const OrtKernelInfo* info);
// Inputs `scale` and `shift`, of length K.
Norm checked_norm(const OrtApi* api, const OrtKernelContext* context, size_t scale, size_t shift, int64_t inner,
                  float epsilon);

}  // namespace sparsify
