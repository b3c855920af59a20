// A layer and the shapes that it is given, and how images lie in a panel.
#pragma once

#include <cstdint>

namespace sparsify {
namespace training {

// A convolution in two dimensions. In one dimension the height is 1; a linear layer has sides and kernels of 1, and an
// image is a row of its input.
struct Geometry {
  int64_t images, channels, height, width;
  int64_t rows, kernel_y, kernel_x;  // a row is an output channel
  int64_t stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int64_t groups, out_height, out_width;
};

// Images side by side in the lanes: panel[block][channel][line][phase][position][image], with a padding of zeros. A
// phase has the columns that lie whole strides apart, so that what a tap reads for neighboring outputs are neighbors.
struct Panel {
  int64_t block;   // images that lie side by side, whole vectors
  int64_t blocks;  // of images
  int64_t channels, lines;
  int64_t pitch;           // positions of a line, all phases
  int64_t phase_width;     // positions of a phase
  int64_t stride;          // number of phases
  int64_t lead_y, lead_x;  // where the first pixel lies

  int64_t step;  // floats from one plane to the next

  int64_t plane() const { return lines * pitch * block; }
  int64_t block_step() const { return channels * step; }
  int64_t floats() const { return blocks * block_step(); }
  int64_t images() const { return blocks * block; }
  // Floats from the beginning of a plane to a pixel.
  int64_t place(int64_t y, int64_t x) const {
    const int64_t column = x + lead_x;
    return ((y + lead_y) * pitch + column % stride * phase_width + column / stride) * block;
  }
};

// Throws InvalidArgument for sizes that make no layer, or too large a one.
void check(const Geometry& layer);

// How many images lie side by side: few, so that what a tile reads stays in the first-level cache, yet enough for a
// tile to have several vectors.
int64_t images_in_block(const Geometry& layer, int64_t lanes);

// Of the layer's input, and of the gradient of its output.
Panel input_panel(const Geometry& layer, int64_t block);
Panel gradient_panel(const Geometry& layer, int64_t block);

}  // namespace training
}  // namespace sparsify
