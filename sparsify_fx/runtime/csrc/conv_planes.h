// Convolutions that read and write padded planes (planes.h): 1x1, or 3x3 with a padding of one, with strides of one or
// two.
//
// With a stride of one, what a tap reads lies equally far from every output position: the planes are the panel, and
// nothing is packed. With a stride of two the even and odd pixels of some lines are packed apart, as for other
// convolutions.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "conv.h"
#include "conv_matrices.h"
#include "planes.h"
#include "product.h"

namespace sparsify {

class PlanesConv : public ConvAlgorithm {
 public:
  // `halo`: of what it writes. InvalidArgument for convolutions that cannot.
  PlanesConv(const ConvModel& model, bool halo);
  void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const override;
  const ConvAttributes& attributes() const { return attributes_; }
  // What it gives for such an input; InvalidArgument, which calls the input `name`, for one that it cannot read.
  Planes output_planes(const Planes& in, const char* name) const;

  struct Call;
  class Worker;

 private:
  struct Places;
  std::shared_ptr<const Places> places_for(int64_t step, const std::vector<int32_t>& offsets) const;

  ConvAttributes attributes_;
  bool halo_;    // of what it writes
  bool direct_;  // a stride of one
  ConvMatrices weight_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Places> places_;  // for the planes of the last run
};

// The non-zeros for planes of one size; empty when they lie too far apart.
struct PlanesConv::Places {
  int64_t step;
  std::vector<int32_t> offsets;
  std::vector<Place> nonzeros;
};

// One run. The tasks are bands of the output, and parts of the rows when those are few.
struct PlanesConv::Call {
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

  Call(const PlanesConv& conv, const Planes& in_, const Planes& out_, const float* x_, const float* bias_,
       const float* residual_, float* y_);
  int64_t tasks() const { return out.images * out.bands * parts; }
  int64_t first_tile(int64_t chunk) const { return tiling.tiles * chunk / chunks; }
};

class PlanesConv::Worker {
 public:
  Worker(const PlanesConv& conv, const Call& call) : conv_(conv), call_(call) {}
  void run(int64_t task);

 private:
  void set_chunk(int64_t chunk);
  // Plane 0 of the panel of a block, at position 0 of the band.
  const float* panel_of(const Block& block, bool pack);
  void multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows);

  const PlanesConv& conv_;
  const Call& call_;
  ScratchLease scratch_;
  int64_t image_ = -1, band_ = -1;
  int64_t first_tile_ = 0, end_tile_ = 0;
  // Of the packed panel: its first line in the band, floats from plane to plane, and where its lines come from.
  int64_t first_line_ = 0, plane_step_ = 0;
  std::vector<int64_t> lines_;
};

}  // namespace sparsify
