#include "lean.h"

namespace sparsify {

namespace {

// Calls work(block of the lean matrix, row, plane within it, value) for all non-zeros, those of a row in their order.
template <typename Work>
void each_nonzero(const Matrix& matrix, const Work& work) {
  for (const Block& block : matrix.blocks) {
    for (const Stretch& stretch : block.stretches) {
      const Nonzero* entry = matrix.nonzeros.data() + stretch.first_nonzero;
      for (int32_t i = 0; i < stretch.rows; ++i) {
        const RowRef& row = matrix.refs[stretch.first_row + i];
        for (const Nonzero* end = entry + row.count; entry < end; ++entry) {
          const int32_t plane = block.first_plane + entry->plane;
          work(plane / kLeanBlock, row.row, static_cast<uint16_t>(plane % kLeanBlock), entry->value);
        }
      }
    }
  }
}

}  // namespace

FewCall LeanMatrix::part(int32_t block, int64_t first, int64_t end, FewCall call) const {
  call.starts = starts.data() + static_cast<int64_t>(block) * rows;
  call.planes = planes.data();
  call.values = values.data();
  call.first_row = first;
  call.end_row = end;
  call.first = block == 0;
  return call;
}

LeanMatrix lean(const Matrix& matrix, int lanes) {
  LeanMatrix made;
  made.rows = matrix.rows;
  made.blocks = static_cast<int32_t>(matrix.planes.size() - 1) / kLeanBlock + 1;
  made.starts.assign(static_cast<int64_t>(made.blocks) * made.rows + 1, 0);
  const auto place = [&](int32_t block, int32_t row) { return static_cast<int64_t>(block) * made.rows + row; };
  each_nonzero(matrix, [&](int32_t block, int32_t row, uint16_t, float) { ++made.starts[place(block, row) + 1]; });
  for (size_t i = 1; i < made.starts.size(); ++i)
    made.starts[i] = made.starts[i - 1] + (made.starts[i] + lanes - 1) / lanes * lanes;

  made.planes.resize(made.starts.back());
  made.values.resize(made.starts.back());
  std::vector<int64_t> next(made.starts.begin(), made.starts.end() - 1);
  each_nonzero(matrix, [&](int32_t block, int32_t row, uint16_t plane, float value) {
    const int64_t at = next[place(block, row)]++;
    made.planes[at] = plane;
    made.values[at] = value;
  });
  for (size_t i = 0; i < next.size(); ++i)
    for (int64_t at = next[i]; at < made.starts[i + 1]; ++at) made.planes[at] = made.planes[next[i] - 1];
  return made;
}

}  // namespace sparsify
