// Two sparse matrix products one after another, as in a transformer: act(norm(A) W + B) V + C + Z. What the first one
// gives stays in the cache, in the order that the second one reads.
#pragma once

#include "matmul.h"

namespace sparsify {

class SparseMlp {
 public:
  static constexpr const char* kName = "SparseMlp";
  enum Input : size_t {
    kA,
    kWeight,
    kGaps,
    kBias,
    kSecond,
    kSecondGaps,
    kSecondBias,
    kResidual,
    kScale,
    kShift,
    kInputs
  };
  static constexpr bool is_gaps(size_t input) { return input == kGaps || input == kSecondGaps; }
  static constexpr bool kSumInPlace = false;

  SparseMlp(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Call;
  class Worker;

  SparseMlp(const OrtApi* api, const OrtKernelInfo* info, const Weights& second);

  const OrtApi* api_;
  float epsilon_;
  int groups_;  // row groups of the first product that the second one takes at once
  MatrixProduct first_, second_;
};

}  // namespace sparsify
