// The weight of a convolution as matrices of taps of planes.
#pragma once

#include <vector>

#include "geometry.h"
#include "kernels/kernels.h"
#include "matrix.h"
#include "weights.h"
#include "window.h"

namespace sparsify {

// `count` rows from row `first` on, the first of its group, as a matrix whose columns are taps of planes. Each group
// has planes of its own: the phases of its channel 0, then of channel 1, ...
Rows rows_of(const Weights& weights, const ConvAttributes& attributes, const Taps& taps, int64_t first, int64_t count);

struct ConvMatrices {
  Taps taps;
  std::vector<Matrix> matrices;                   // one per group, or for some groups together
  int64_t rows, channels;                         // of one matrix; the last one may have fewer
  std::vector<std::vector<PlaneSource>> sources;  // of the planes of each matrix
  int max_vectors;                                // of a tile
  double uses_per_plane;                          // rows that read a pixel

  // `keep_all`: channels without non-zeros have planes too, as where the image itself is the panel.
  ConvMatrices(const Weights& weights, const ConvAttributes& attributes, bool keep_all);
};

}  // namespace sparsify
