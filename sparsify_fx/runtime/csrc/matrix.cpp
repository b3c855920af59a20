#include "matrix.h"

#include <algorithm>

namespace sparsify {

namespace {

std::vector<int32_t> used_planes(const Rows& rows, bool all) {
  std::vector<char> used(rows.planes, all ? 1 : 0);
  for (const Rows::Entry& entry : rows.nonzeros) used[entry.plane] = 1;
  std::vector<int32_t> planes;
  for (int32_t plane = 0; plane < rows.planes; ++plane)
    if (used[plane]) planes.push_back(plane);
  return planes;
}

// Appends the rows of a row group and their non-zeros before plane `end`; `next` remembers how far each row has come.
Stretch add_stretch(Matrix& matrix, const Rows& rows, const std::vector<int32_t>& place, std::vector<int64_t>& next,
                    int group, const Block& block, int32_t end, bool keep_empty) {
  struct Part {
    RowRef ref;
    int64_t from;
  };
  std::vector<Part> parts;
  for (int32_t row = group * kGroup; row < std::min((group + 1) * kGroup, matrix.rows); ++row) {
    int64_t from = next[row], to = from;
    while (to < rows.begin[row + 1] && rows.nonzeros[to].plane < end) ++to;
    next[row] = to;
    if (to > from || keep_empty) parts.push_back({{row, static_cast<int32_t>(to - from)}, from});
  }
  // Stable, so that the same weight gives the same matrix with any library.
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.ref.count < b.ref.count; });
  Stretch stretch{static_cast<int32_t>(matrix.refs.size()), static_cast<int32_t>(parts.size()),
                  static_cast<int64_t>(matrix.nonzeros.size())};
  for (const Part& part : parts) {
    matrix.refs.push_back(part.ref);
    for (int64_t i = part.from; i < part.from + part.ref.count; ++i) {
      const Rows::Entry& entry = rows.nonzeros[i];
      const int32_t plane = place[entry.plane] - block.first_plane;
      matrix.nonzeros.push_back({static_cast<uint16_t>(plane), static_cast<uint16_t>(entry.tap), entry.value});
    }
  }
  return stretch;
}

}  // namespace

int32_t Matrix::widest_block() const {
  int32_t widest = 0;
  for (const Block& block : blocks) widest = std::max(widest, block.planes);
  return widest;
}

Matrix build_matrix(const Rows& rows, int block_planes, bool keep_all) {
  Matrix matrix;
  matrix.rows = rows.rows;
  matrix.planes = used_planes(rows, keep_all);
  matrix.nonzeros.reserve(rows.nonzeros.size());
  const int32_t used = static_cast<int32_t>(matrix.planes.size());
  std::vector<int32_t> place(rows.planes, 0);
  for (int32_t i = 0; i < used; ++i) place[matrix.planes[i]] = i;
  std::vector<int64_t> next(rows.begin.begin(), rows.begin.end() - 1);
  block_planes = std::min(block_planes, kMaxBlockPlanes);
  const int count = std::max(1, (used + block_planes - 1) / block_planes);
  for (int b = 0; b < count; ++b) {
    // Blocks of nearly equal width: a narrow last one would cost the starts and ends of all its rows for few products.
    const int32_t first = static_cast<int32_t>(static_cast<int64_t>(used) * b / count);
    const int32_t last = static_cast<int32_t>(static_cast<int64_t>(used) * (b + 1) / count);
    Block block{first, last - first, {}};
    const int32_t end = last < used ? matrix.planes[last] : rows.planes;
    // The first block starts the sums of every row, the last one writes them.
    const bool keep_empty = b == 0 || b == count - 1;
    for (int group = 0; group < matrix.groups(); ++group)
      block.stretches.push_back(add_stretch(matrix, rows, place, next, group, block, end, keep_empty));
    matrix.blocks.push_back(std::move(block));
  }
  return matrix;
}

}  // namespace sparsify
