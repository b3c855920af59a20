// A sparse matrix times the activations of many pixels: what convolution and matrix product have in common.
#pragma once

#include <algorithm>
#include <vector>

#include "cache.h"
#include "kernels/kernels.h"
#include "ort.h"
#include "scratch.h"
#include "workers.h"

namespace sparsify {

// How wide tiles and blocks of planes are.
struct Shape {
  int max_vectors;
  int block_planes;
};

// For a matrix of which a fraction `density` is non-zero, with `taps` columns in every plane.
Shape choose_shape(double density, double taps);

constexpr int64_t kMostPositions = int64_t{1} << 33;

// Cuts `pixels` into tiles of whole vectors, nearly equal and at most max_vectors wide.
struct Tiling {
  int64_t pixels, vectors, tiles;
  int lanes;

  // `shared`: among threads, tile by tile.
  Tiling(int64_t pixels_, int lanes_, int max_vectors, bool shared = true)
      : pixels(pixels_), vectors((pixels_ + lanes_ - 1) / lanes_), tiles((vectors + max_vectors - 1) / max_vectors),
        lanes(lanes_) {
    checked_most("the number of positions of one run", pixels, kMostPositions);  // so that first_vector does not wrap
    if (shared) tiles = even(tiles);
  }
  int64_t first_vector(int64_t tile) const { return vectors * tile / tiles; }
  int64_t first(int64_t tile) const { return first_vector(tile) * lanes; }
  int width(int64_t tile) const { return static_cast<int>(first_vector(tile + 1) - first_vector(tile)); }
  int count(int64_t tile) const {
    const int64_t end = first(tile) + static_cast<int64_t>(width(tile)) * lanes;
    return static_cast<int>((end < pixels ? end : pixels) - first(tile));
  }
};

// Into how many parts the rows are cut, so that a few tiles (or bands) still keep many threads busy.
int row_parts(const Matrix& matrix, int64_t tiles);

// The call for the rows of one row group in one block.
inline RowsCall stretch_of(const Matrix& matrix, const Block& block, int group, RowsCall call) {
  const Stretch& stretch = block.stretches[group];
  call.rows = matrix.refs.data() + stretch.first_row;
  call.row_count = stretch.rows;
  call.nonzeros = matrix.nonzeros.data() + stretch.first_nonzero;
  if (call.places != nullptr) call.places += stretch.first_nonzero;
  return call;
}

// The first row group of part `part` of the rows.
inline int first_group(const Matrix& matrix, int part, int parts) {
  return static_cast<int>(static_cast<int64_t>(matrix.groups()) * part / parts);
}

}  // namespace sparsify
