// Convolutions that read and write padded planes: 1x1, or 3x3 with a padding of one, with strides of one or two.
//
// With a stride of one, what a tap reads lies equally far from every output position: the planes are the panel, and
// nothing is packed. With a stride of two the even and odd pixels of some lines are packed apart, as for other
// convolutions.
#pragma once

#include <memory>
#include <vector>

#include "conv.h"
#include "planes.h"

namespace sparsify {

// InvalidArgument for convolutions that cannot.
void check_planes(const ConvAttributes& attributes);

// The non-zeros for planes of one size; empty when they lie too far apart.
struct SparseConv::Places {
  int64_t step;
  std::vector<int32_t> offsets;
  std::vector<Place> nonzeros;
};

// One run. The tasks are bands of the output, and parts of the rows when those are few.
struct SparseConv::PlanesCall {
  const Planes &in, &out;
  const float *x, *bias, *residual;  // x, residual and y are whole tensors
  float* y;
  bool direct;
  std::shared_ptr<const std::vector<int32_t>> kept, kept_last;  // of a band, and of the last one
  std::vector<int32_t> offsets;                                 // of the taps
  std::shared_ptr<const Places> places;                         // null with a stride
  int64_t reach;                                                // positions that the furthest tap reads beyond a tile
  Tiling tiling;                                                // of a band
  int64_t chunks;                                               // of tiles that are packed together
  int parts;

  PlanesCall(const SparseConv& conv, const Planes& in_, const Planes& out_, const float* x_, const float* bias_,
             const float* residual_, float* y_);
  int64_t tasks() const { return out.images * out.bands * parts; }
  int64_t first_tile(int64_t chunk) const { return tiling.tiles * chunk / chunks; }
};

class SparseConv::PlanesWorker {
 public:
  PlanesWorker(const SparseConv& conv, const PlanesCall& call) : conv_(conv), call_(call) {}
  void run(int64_t task);

 private:
  void set_chunk(int64_t chunk);
  // Row 0 of the panel of a block, at position 0 of the band.
  const float* panel_of(const Block& block, bool pack);
  void multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows);

  const SparseConv& conv_;
  const PlanesCall& call_;
  ScratchLease scratch_;
  int64_t image_ = -1, band_ = -1;
  int64_t first_tile_ = 0, end_tile_ = 0;
  // Of the packed panel: its first line in the band, where its lines lie, and the floats of a row.
  int64_t first_line_ = 0, row_step_ = 0;
  std::vector<int64_t> lines_;
};

}  // namespace sparsify
