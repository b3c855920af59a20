// The attributes of a convolution, and its sizes for one input.
#pragma once

#include <string>
#include <vector>

#include "checked.h"
#include "kernels/kernels.h"
#include "ort.h"

namespace sparsify {

Activation parse_activation(const std::string& name);

// A one-dimensional convolution is a two-dimensional one of height 1.
struct ConvAttributes {
  size_t rank = 4;                            // of the activations: 3 or 4
  int64_t out_channels = 0, in_channels = 0;  // of all groups; of one group
  int64_t kernel_height = 1, kernel_width = 1;
  int64_t group = 1;
  std::vector<int64_t> strides, pads, dilations;  // two, four, two values
  Activation activation = Activation::kNone;
};

// Read and checked; `weight_shape` is that of the dense weight. All names begin with `prefix`.
ConvAttributes read_attributes(const OrtApi* api, const OrtKernelInfo* info, const std::vector<int64_t>& weight_shape,
                               const std::string& prefix = "");

// Sizes of one run. A 1x1 convolution without stride and padding sees its image as a single line.
struct Geometry {
  int64_t images, channels, height, width;
  int64_t out_height, out_width;
  int64_t stride_y, stride_x, pad_y, pad_x;
  std::vector<int64_t> output_shape;

  int64_t plane() const { return height * width; }
  int64_t out_plane() const { return out_height * out_width; }
};

Geometry geometry_of(const ConvAttributes& attributes, const Tensor& x);

// The values of a bias, null when there is none; InvalidArgument unless it has one for every output channel.
const float* checked_bias(const ConvAttributes& attributes, const Tensor& bias, const char* name);
// Those of a residual in the shape of the output, null when there is none.
const float* checked_residual(const Tensor& residual, const std::vector<int64_t>& output_shape);

}  // namespace sparsify
