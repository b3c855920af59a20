// The non-zeros of a layer in the order in which they are multiplied, and the tiles that they multiply.
#pragma once

#include <cstdint>
#include <vector>

#include "geometry.h"
#include "kernels.h"

namespace sparsify {
namespace training {

// Where the outputs of a matrix are: position (y, x) of its grid is the pixel (first_y + y * step_y, ...).
struct Grid {
  int64_t height, width, first_y, first_x, step_y, step_x;
};

struct Tile {
  int64_t line, lines, vector, vectors;
};

// Rows that are multiplied one after another.
struct RowGroup {
  int64_t first, count;
};

// A living weight: its row and channel, and the floats from the beginning of a plane to what it reads.
struct Entry {
  int32_t row, channel, offset;
};

class Matrix {
 public:
  // The entries in the order of the living values; those of other phases have a row of -1. `taps` are those of a row
  // in one plane, at most.
  Matrix(const std::vector<Entry>& entries, int64_t rows, const Panel& panel, const Grid& grid, int64_t line_step,
         int64_t taps);

  const Grid& grid() const { return grid_; }
  int64_t line_step() const { return line_step_; }
  int64_t blocks() const { return blocks_; }
  int64_t nonzeros() const { return static_cast<int64_t>(sources_.size()); }
  const std::vector<RowGroup>& groups() const { return groups_; }
  const std::vector<int32_t>& sources() const { return sources_; }

  // The non-zeros of a row group in a block of channels.
  Rows rows(int64_t group, int64_t block, const float* values) const {
    const RowGroup& of = groups_[group];
    const int32_t* starts = starts_.data() + of.first * blocks_ + block * of.count;
    return {offsets_.data(), values, starts, static_cast<int>(of.count)};
  }

  // The whole grid, in tiles of at most so many vectors.
  std::vector<Tile> tiles(int64_t images_in_block, int64_t lanes, int64_t most) const;

 private:
  Grid grid_;
  int64_t line_step_, blocks_;
  std::vector<RowGroup> groups_;
  std::vector<int32_t> offsets_, sources_, starts_;
};

}  // namespace training
}  // namespace sparsify
