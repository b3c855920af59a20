// The kernels' own format of a sparse matrix.
//
// A matrix of M rows and K columns is cut into blocks of columns, so that the part of the activations that a block
// reads stays in the first level cache. Columns without any non-zero are left out. Within a block, rows are ordered
// by their number of non-zeros (in groups of kGroup rows): the inner loop then runs equally often many times in a
// row, which branch predictors like.
#pragma once

#include <cstdint>
#include <vector>

namespace sparsify {

constexpr int kGroup = 128;

struct Nonzero {
  int32_t column;  // within its block
  float value;
};

struct RowRef {
  int32_t row;
  int32_t count;  // of non-zeros in this block
};

// The rows of one group in one block: where their RowRefs and non-zeros begin.
struct Stretch {
  int32_t first_row, rows;
  int64_t first_nonzero;
};

struct Block {
  int32_t first_column, columns;   // places in Matrix::columns
  std::vector<Stretch> stretches;  // one per group
};

struct Matrix {
  int32_t rows = 0;
  std::vector<int32_t> columns;  // the original numbers of the columns that have non-zeros
  std::vector<Block> blocks;     // at least one
  std::vector<RowRef> refs;
  std::vector<Nonzero> nonzeros;

  int groups() const { return (rows + kGroup - 1) / kGroup; }
  int32_t widest_block() const;
};

// A sparse matrix row by row, as it is read from a model.
struct Rows {
  int32_t rows = 0, columns = 0;
  std::vector<int64_t> begin;  // rows + 1
  std::vector<Nonzero> nonzeros;
};

// Cuts `rows` into blocks of `block_columns` used columns, or of all columns with `keep_all`.
Matrix build_matrix(const Rows& rows, int block_columns, bool keep_all);

}  // namespace sparsify
