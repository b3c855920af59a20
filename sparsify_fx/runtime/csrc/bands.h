// Depthwise convolution and pooling work on one plane after another: how its lines are copied, with padding around
// them, and into how many bands its output lines are cut.
#pragma once

#include <vector>

#include "geometry.h"
#include "kernels/kernels.h"

namespace sparsify {

struct Bands {
  DepthwisePlan plan{};
  std::vector<int64_t> offsets;
  int64_t count = 1, out_height = 0, kernel = 0, pad_y = 0;
  int64_t before = 0, after = 0;  // floats around copied lines that may be read

  // Bands read at most about `most` floats. `maximum`: of a maximum pooling.
  Bands(const ConvAttributes& attributes, const Geometry& g, int64_t most, bool maximum = false);
  Bands(const Bands&) = delete;  // plan points into offsets
  int64_t first_output(int64_t band) const { return out_height * band / count; }
  int64_t outputs(int64_t band) const { return first_output(band + 1) - first_output(band); }
  int64_t first_line(int64_t band) const { return first_output(band) * plan.stride_y - pad_y; }
  int64_t lines(int64_t band) const { return (outputs(band) - 1) * plan.stride_y + kernel; }
  int64_t most_lines() const { return ((out_height + count - 1) / count - 1) * plan.stride_y + kernel; }
};

}  // namespace sparsify
