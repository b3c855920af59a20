// Sparse products of the panels of some blocks: outputs, gradients of inputs, and samples at the living weights.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "matrix.h"
#include "panels.h"

namespace sparsify {
namespace training {

// Some blocks of a panel, and where the first of them begins.
struct Packed {
  const Panel& panel;
  Blocks blocks;
  const float* floats;
};

// Where outputs of all images go, side by side: floats[row][position][image].
struct Outputs {
  float* floats;
  int64_t positions, width;  // of an image
};

// Writes the sums of these images. `values` lie as the matrix multiplies them; `bias`: of each row, or null.
void product(const Kernels& kernels, const Matrix& matrix, const float* values, const Packed& source, const float* bias,
             const Outputs& out, int64_t threads);

// Adds to the gradient of each non-zero what these images give.
void sample(const Kernels& kernels, const Matrix& matrix, const Packed& source, const Packed& gradients, float* sums,
            int64_t threads);

}  // namespace training
}  // namespace sparsify
