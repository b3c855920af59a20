// Sparse convolution over NCHW activations.
#pragma once

#include <string>
#include <vector>

#include "product.h"

namespace sparsify {

Activation parse_activation(const std::string& name);

struct ConvAttributes {
  int64_t group = 1;
  std::vector<int64_t> strides, pads, dilations;  // two, four, two values
  Activation activation = Activation::kNone;
};

class SparseConv {
 public:
  static constexpr const char* kName = "SparseConv";
  static constexpr size_t kInputs = 5;  // X, W or its non-zeros, gaps, B, Z

  SparseConv(const OrtApi* api, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context) const;

 private:
  struct Geometry;
  struct TileTaps;
  struct Call;
  Geometry geometry(const Tensor& x) const;
  void work(const Call& call, Tasks& tasks) const;

  const OrtApi* api_;
  ConvAttributes attributes_;
  size_t rank_;                                  // of the activations: 3 or 4
  int64_t out_channels_, in_channels_;           // of all groups; of one group
  int64_t kernel_height_, kernel_width_;
  std::vector<Matrix> matrices_;                 // one per group
  std::vector<std::vector<Column>> columns_;     // what the columns of each matrix stand for
  int max_vectors_;
};

}  // namespace sparsify
