// A sparse matrix for products with a few pixels, which take as long as it takes to read: six bytes a non-zero.
//
// Rows are filled up to whole vectors by zeros that read what the row's last non-zero reads, so that only what is not
// finite already may become NaN.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "matrix.h"

namespace sparsify {

constexpr int kLeanBlock = 1 << 16;  // planes of a block: what 16 bits number

struct LeanMatrix {
  int32_t rows = 0, blocks = 0;
  std::vector<int64_t> starts;   // row r has the non-zeros from starts[block * rows + r] to the next start
  std::vector<uint16_t> planes;  // within their block
  std::vector<float> values;

  // The rows from `first` on, before `end`, in a block.
  FewCall part(int32_t block, int64_t first, int64_t end, FewCall call) const;
};

// `matrix` keeps all planes and has one tap; `lanes` are those of the vectors, at least four.
LeanMatrix lean(const Matrix& matrix, int lanes);

}  // namespace sparsify
