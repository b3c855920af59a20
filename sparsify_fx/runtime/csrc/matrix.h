// The kernels' own format of a sparse matrix; README.md has the words and a drawing.
//
// Planes without any non-zero are left out. Within a block, the rows of a group are ordered by their number of
// non-zeros: the inner loop then runs equally often many times in a row, which branch predictors like.
#pragma once

#include <cstdint>
#include <vector>

namespace sparsify {

constexpr int kGroup = 128;  // rows of a row group

// What 16 bits of a Nonzero can number.
constexpr int kMaxTaps = 1 << 16, kMaxBlockPlanes = 1 << 16;

struct Nonzero {
  uint16_t plane;  // within its block
  uint16_t tap;
  float value;
};

// A non-zero for planes of a known size.
struct Place {
  int32_t at;  // what it reads, in floats from plane 0 of its block
  float value;
};

struct RowRef {
  int32_t row;
  int32_t count;  // of non-zeros in this block
};

// The rows of one row group in one block: where their RowRefs and non-zeros begin.
struct Stretch {
  int32_t first_row, rows;
  int64_t first_nonzero;
};

struct Block {
  int32_t first_plane, planes;     // places in Matrix::planes
  std::vector<Stretch> stretches;  // one per group
};

struct Matrix {
  int32_t rows = 0;
  std::vector<int32_t> planes;  // the original numbers of the planes that have non-zeros
  std::vector<Block> blocks;    // at least one
  std::vector<RowRef> refs;
  std::vector<Nonzero> nonzeros;

  int groups() const { return (rows + kGroup - 1) / kGroup; }
  int32_t widest_block() const;
};

// A sparse matrix row by row, as it is read from a model.
struct Rows {
  struct Entry {
    int32_t plane;
    float value;
    int32_t tap = 0;
  };
  int32_t rows = 0, planes = 0;
  std::vector<int64_t> begin;   // rows + 1
  std::vector<Entry> nonzeros;  // of each row in the order of their planes
};

// Cuts `rows` into blocks of `block_planes` used planes, or of all planes with `keep_all`.
Matrix build_matrix(const Rows& rows, int block_planes, bool keep_all);

}  // namespace sparsify
