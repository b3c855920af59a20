// Sparse convolution over NCHW activations, by way of a window (window.h): how one run is cut into tasks, and what a
// worker does with them.
#pragma once

#include "conv.h"
#include "conv_matrices.h"
#include "product.h"
#include "window.h"

namespace sparsify {

class WindowConv : public ConvAlgorithm {
 public:
  explicit WindowConv(const ConvModel& model);
  void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const override;
  const ConvAttributes& attributes() const { return attributes_; }

  struct Call;
  class Worker;

 private:
  ConvAttributes attributes_;
  bool point_;  // a 1x1 kernel: the image itself can be the panel where nothing has to be padded
  ConvMatrices weight_;
};

// One run. Tiles are taken in bands, whose window is packed at once for each matrix; its rows are taken in parts.
struct WindowConv::Call {
  const Geometry& g;
  const float *x, *bias, *residual;
  float* y;
  Window window;
  Tiling tiling;
  int64_t bands, matrices;
  int parts;
  bool in_place;  // tiles within one image are read from it, without packing

  Call(const WindowConv& conv, const Geometry& geometry, const float* x_, const float* bias_, const float* residual_,
       float* y_);
  int64_t tasks() const { return bands * matrices * parts; }
  int64_t count_bands(const WindowConv& conv) const;
  void share(const WindowConv& conv, int64_t count);  // cuts the work into so many bands, and their rows into parts
  int64_t first_tile(int64_t band) const { return tiling.tiles * band / bands; }
};

class WindowConv::Worker {
 public:
  Worker(const WindowConv& conv, const Call& call) : conv_(conv), call_(call) {}
  void run(int64_t task);

 private:
  void set_band(int64_t band);
  const float* panel_of(const Block& block, bool pack);
  void multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows);

  const WindowConv& conv_;
  const Call& call_;
  ScratchLease scratch_;
  int64_t matrix_ = -1, band_ = -1;  // whose pieces, and with several parts whose panel, are at hand
  int64_t first_tile_ = 0, end_tile_ = 0;
  int window_vectors_ = 0;  // of a plane of the panel
  bool in_place_ = false;
  Pieces inputs_, outputs_;
};

}  // namespace sparsify
