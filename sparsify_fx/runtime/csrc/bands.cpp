#include "bands.h"

#include <algorithm>
#include <limits>

#include "cache.h"

namespace sparsify {

namespace {

int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// A power of two where several copied lines share a vector, otherwise whole vectors.
int64_t pitch_of(int64_t needed, const Geometry& g, const Kernels& kernel, bool maximum) {
  if (kernel.masks && !maximum && g.stride_x == 1 && g.stride_y == 1 && needed <= kernel.lanes / 2) {
    int64_t pitch = 1;
    while (pitch < needed) pitch *= 2;
    return pitch;
  }
  return round_up(needed, kernel.lanes);
}

}  // namespace

Bands::Bands(const ConvAttributes& a, const Geometry& g, int64_t most, bool maximum)
    : out_height(g.out_height), kernel(a.kernel_width), pad_y(g.pad_y) {
  const Kernels& kernels_here = kernels();
  int64_t lowest = 0, highest = 0;
  for (int64_t kx = 0; kx < kernel; ++kx) {
    offsets.push_back(floor_divide(kx - g.pad_x, g.stride_x));
    lowest = std::min(lowest, offsets.back()), highest = std::max(highest, offsets.back());
  }
  // After the pixels of a line lie the zeros that end it, which are those that the next one begins with.
  const int64_t length = (g.width + g.stride_x - 1) / g.stride_x;
  const int64_t pitch = pitch_of(std::max(length - lowest, g.out_width + highest), g, kernels_here, maximum);
  // With a stride of two, columns of odd distance read the second half of a copied line, where the odd pixels lie.
  for (int64_t kx = 0; kx < kernel; ++kx) offsets[kx] += (kx - g.pad_x - offsets[kx] * g.stride_x) * pitch;
  plan = {g.width,
          g.height,
          g.out_width,
          g.stride_y,
          g.stride_x,
          static_cast<int>(kernel),
          pitch,
          pitch * g.stride_x,
          offsets.data(),
          a.activation,
          maximum ? -std::numeric_limits<float>::infinity() : 0.0f};
  const int64_t outputs = std::max<int64_t>(4, (most / plan.line - kernel) / g.stride_y / 4 * 4);
  count = (out_height + outputs - 1) / outputs;
  before = round_up(-lowest, kernels_here.lanes);
  after = round_up(highest, kernels_here.lanes) + (kernel + 1) * kernels_here.lanes;
}

}  // namespace sparsify
