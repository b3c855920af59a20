#include "geometry.h"

#include <algorithm>

#include "../checked.h"

namespace sparsify {
namespace training {

namespace {

constexpr int64_t kMostOffsets = (int64_t{1} << 31) - 1;  // they have 32 bits

int64_t divided_up(int64_t size, int64_t by) { return (size + by - 1) / by; }

void check_side(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, int64_t out) {
  for (int64_t each : {size, kernel, stride, dilation, out}) {
    if (each < 1 || each > kMaxLength)
      throw InvalidArgument("a side, kernel, stride or dilation is " + std::to_string(each) + "; expected from 1 to " +
                            std::to_string(kMaxLength));
  }
  checked_most("a padding", pad, kMaxLength);
  const int64_t reach = (out - 1) * stride + (kernel - 1) * dilation + 1;
  if (reach > size + 2 * (pad + kernel * dilation) + stride)
    throw InvalidArgument("an output side of " + std::to_string(out) + " is too large for its input");
}

// Planes that lie a power of two apart would share a few sets of the cache: an odd number of its lines spreads them.
// Small planes are read as a whole, and fill whatever they share.
int64_t plane_step(const Panel& panel) {
  constexpr int64_t kLine = 16, kSmall = 256;
  const int64_t plane = panel.plane(), lines = divided_up(plane, kLine);
  return plane <= kSmall || lines % 4 != 0 ? plane : (lines | 1) * kLine;
}

// The first and the last line of the gradient, counted from an input line's own, that any tap reads.
struct Shifts {
  int64_t least, most;
};

Shifts shifts(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  Shifts found{0, 0};
  for (int64_t phase = 0; phase < std::min(stride, size); ++phase) {
    const int64_t grid = divided_up(size - phase, stride);
    for (int64_t tap = 0; tap < kernel; ++tap) {
      const int64_t distance = phase + pad - tap * dilation;
      if (distance % stride != 0) continue;
      found.least = std::min(found.least, distance / stride);
      found.most = std::max(found.most, distance / stride + grid - 1);
    }
  }
  return found;
}

}  // namespace

void check(const Geometry& layer) {
  check_side(layer.height, layer.kernel_y, layer.stride_y, layer.dilation_y, layer.pad_y, layer.out_height);
  check_side(layer.width, layer.kernel_x, layer.stride_x, layer.dilation_x, layer.pad_x, layer.out_width);
  for (int64_t each : {layer.images, layer.channels, layer.rows, layer.groups}) {
    if (each < 1) throw InvalidArgument("images, channels and groups must be at least 1");
  }
  if (layer.channels % layer.groups != 0 || layer.rows % layer.groups != 0)
    throw InvalidArgument("channels must be a multiple of groups");
  checked_most(
      "the weight",
      checked_product("the weight", {layer.rows, layer.channels / layer.groups, layer.kernel_y, layer.kernel_x}),
      kMostOffsets);
  for (const Panel& panel : {input_panel(layer, 16), gradient_panel(layer, 16)}) {
    checked_product("the panel", {panel.images(), panel.channels, panel.lines, panel.pitch});
    for (int64_t block : {int64_t{16}, int64_t{96}})
      checked_most("a block of images", panel.channels * panel.lines * panel.pitch * block, kMostOffsets);
  }
  checked_most("the output", layer.out_height * layer.out_width * (layer.images + 96), kMostOffsets);
  checked_most("the input", layer.height * layer.width * (layer.images + 96), kMostOffsets);
}

int64_t images_in_block(const Geometry& layer, int64_t lanes) {
  const int64_t all = divided_up(layer.images, lanes), positions = std::min(layer.width, layer.out_width);
  // A line of eight vectors, or as many as there are images for. Where each output reads one pixel, blocks of more
  // images cost nothing, and all of them are a panel that need not be packed. Fewer than fill a cache line (16 floats)
  // would have it read and written once for each of the blocks that share it.
  const bool pointwise = layer.kernel_y * layer.kernel_x * layer.stride_y * layer.stride_x == 1;
  const int64_t vectors = pointwise ? 16 : 8;
  const int64_t wanted =
      std::min(all, std::max<int64_t>(16 / lanes, pointwise && positions > 1 ? vectors : vectors / positions));
  // Equal blocks: fewer images are made up.
  return divided_up(all, divided_up(all, wanted)) * lanes;
}

Panel input_panel(const Geometry& layer, int64_t block) {
  const int64_t reach_y = (layer.out_height - 1) * layer.stride_y + (layer.kernel_y - 1) * layer.dilation_y + 1;
  const int64_t reach_x = (layer.out_width - 1) * layer.stride_x + (layer.kernel_x - 1) * layer.dilation_x + 1;
  Panel panel{};
  panel.block = block;
  panel.blocks = divided_up(layer.images, block);
  panel.channels = layer.channels;
  panel.lines = std::max(reach_y, layer.pad_y + layer.height);
  panel.stride = layer.stride_x;
  panel.phase_width = divided_up(std::max(reach_x, layer.pad_x + layer.width), layer.stride_x);
  panel.pitch = panel.phase_width * layer.stride_x;
  panel.lead_y = layer.pad_y;
  panel.lead_x = layer.pad_x;
  panel.step = plane_step(panel);
  return panel;
}

Panel gradient_panel(const Geometry& layer, int64_t block) {
  const Shifts y = shifts(layer.height, layer.kernel_y, layer.stride_y, layer.dilation_y, layer.pad_y);
  const Shifts x = shifts(layer.width, layer.kernel_x, layer.stride_x, layer.dilation_x, layer.pad_x);
  Panel panel{};
  panel.block = block;
  panel.blocks = divided_up(layer.images, block);
  panel.channels = layer.rows;
  panel.lead_y = -y.least;
  panel.lead_x = -x.least;
  panel.lines = panel.lead_y + std::max(layer.out_height, y.most + 1);
  panel.stride = 1;
  panel.phase_width = panel.pitch = panel.lead_x + std::max(layer.out_width, x.most + 1);
  panel.step = plane_step(panel);
  return panel;
}

}  // namespace training
}  // namespace sparsify
