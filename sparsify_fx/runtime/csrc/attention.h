// Multi-head attention over packed queries, keys and values: softmax(scale Q K^T) V in pieces that stay in the cache.
// The input is [images, tokens, 3 * channels]: queries, keys, values, each head by head.
#pragma once

#include "one_input.h"
#include "ort.h"

namespace sparsify {

class Attention : public OneInput {
 public:
  static constexpr const char* kName = "Attention";

  Attention(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  int64_t heads_, head_;  // how many, and floats to each
  bool tokens_first_;     // [tokens, images, ...], input and output
  float scale_ = 1.0f;
};

}  // namespace sparsify
