#include "product.h"

#include <algorithm>

namespace sparsify {

Shape choose_shape(double density, double taps) {
  const Kernels& kernel = kernels();
  // What a tile reads of a block's planes stays in the first-level cache. Several taps of a plane reach beyond the
  // tile, hence half as many planes.
  const int cached = static_cast<int>(kTileFloats) / (kernel.max_vectors * kernel.lanes) / (taps > 1 ? 2 : 1);
  // A row should meet some non-zeros in every block, or starting and ending it costs more than its products.
  const int enough = static_cast<int>(std::min(28.0 / std::max(density * taps, 1e-3), 700.0));
  return {kernel.max_vectors, std::max(cached, enough)};
}

int row_parts(const Matrix& matrix, int64_t tiles) {
  const int64_t wanted = 8;  // tasks, and so threads; how many there are onnxruntime does not tell
  return static_cast<int>(std::clamp<int64_t>((wanted + tiles - 1) / tiles, 1, std::max(1, matrix.groups())));
}

}  // namespace sparsify
