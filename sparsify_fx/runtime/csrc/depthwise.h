// Depthwise convolution: a small kernel of its own for every channel, computed densely; and pooling, which is alike.
#pragma once

#include <vector>

#include "geometry.h"
#include "product.h"
#include "weights.h"

namespace sparsify {

// Whether the kernels can compute such a convolution: a channel to a group, square kernels, strides of 1 or 2.
bool is_depthwise(const ConvAttributes& attributes);

// How the lines of an image of one run are copied, and into how many bands the output lines are cut.
struct Bands {
  DepthwisePlan plan{};
  std::vector<int64_t> offsets;
  int64_t count = 1, out_height = 0, kernel = 0, pad_y = 0;
  int64_t before = 0, behind = 0;  // floats around copied lines that may be read

  // Bands read at most about `most` floats. `maximum`: pooling.
  Bands(const ConvAttributes& attributes, const Geometry& g, int64_t most, bool maximum = false);
  Bands(const Bands&) = delete;  // plan points into offsets
  int64_t first_output(int64_t band) const { return out_height * band / count; }
  int64_t outputs(int64_t band) const { return first_output(band + 1) - first_output(band); }
  int64_t first_line(int64_t band) const { return first_output(band) * plan.stride_y - pad_y; }
  int64_t lines(int64_t band) const { return (outputs(band) - 1) * plan.stride_y + kernel; }
  int64_t most_lines() const { return ((out_height + count - 1) / count - 1) * plan.stride_y + kernel; }
};

// What one run reads and writes; bias and residual may be null.
struct Images {
  const float *x, *bias, *residual;
  float* y;
};

// All bands of all planes. `weights`: the kernels of the channels, each column by column.
void run_bands(const OrtApi* api, const OrtKernelContext* context, const ConvAttributes& attributes, const Geometry& g,
               const Images& images, const float* weights);

class Depthwise {
 public:
  Depthwise() = default;
  Depthwise(const Weights& weights, const ConvAttributes& attributes);

  void run(const OrtApi* api, const OrtKernelContext* context, const Geometry& g, const Images& images) const {
    run_bands(api, context, attributes_, g, images, weights_.data());
  }

  // The kernel of a channel, column by column.
  const float* weights(int64_t channel) const { return weights_.data() + channel * taps_; }
  const ConvAttributes& attributes() const { return attributes_; }

 private:
  ConvAttributes attributes_;
  int64_t taps_ = 0;
  std::vector<float> weights_;  // [channel][column][row]
};

}  // namespace sparsify
