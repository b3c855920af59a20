// How one run of a convolution is cut into tasks, and what a worker does with them.
#pragma once

#include "conv.h"

namespace sparsify {

// One run. Tiles are taken in bands, whose window is packed at once for each matrix; its rows are taken in parts.
struct SparseConv::Call {
  const Geometry& g;
  const float *x, *bias, *residual;
  float* y;
  Window window;
  Tiling tiling;
  int64_t bands, matrices;
  int parts;
  bool in_place;  // tiles within one image are read from it, without packing

  Call(const SparseConv& conv, const Geometry& geometry, const float* input, const float* bias_, const float* residual_,
       float* output);
  int64_t tasks() const { return bands * matrices * parts; }
  int64_t count_bands(const SparseConv& conv) const;
  void share(const SparseConv& conv, int64_t count);  // cuts the work into so many bands, and their rows into parts
  int64_t first_tile(int64_t band) const { return tiling.tiles * band / bands; }
};

class SparseConv::Worker {
 public:
  Worker(const SparseConv& conv, const Call& call) : conv_(conv), call_(call) {}
  void run(int64_t task);

 private:
  void set_band(int64_t band);
  const float* panel_of(const Block& block, bool pack);
  void multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows);

  const SparseConv& conv_;
  const Call& call_;
  ScratchLease scratch_;
  int64_t matrix_ = -1, band_ = -1;  // whose pieces, and with several parts whose panel, are at hand
  int64_t first_tile_ = 0, end_tile_ = 0;
  int window_vectors_ = 0;  // of a panel row
  bool in_place_ = false;
  Pieces inputs_, outputs_;
};

}  // namespace sparsify
