// Sparse convolution over NCHW activations.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "depthwise.h"
#include "planes.h"
#include "product.h"
#include "window.h"

namespace sparsify {

// `count` rows from row `first` on, the first of its group, as a matrix whose columns are taps of planes. Each group
// has planes of its own: the phases of its channel 0, then of channel 1, ...
Rows rows_of(const Weights& weights, const ConvAttributes& a, const Taps& taps, int64_t first, int64_t count);

class SparseConv {
 public:
  static constexpr const char* kName = "SparseConv";
  static constexpr size_t kInputs = 5;  // X, W or its non-zeros, gaps, B, Z
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 4;             // the input Z
  static constexpr bool kResidualInPlace = true;  // every output is written after its place in Z was read

  SparseConv(const OrtApi* api, const OrtKernelInfo* info) : SparseConv(api, info, 1, "") {}
  // With input `weight` as W and the next one as gaps; all attributes but weight_shape begin with `prefix`, and that
  // is then called prefix + "shape".
  SparseConv(const OrtApi* api, const OrtKernelInfo* info, size_t weight, const std::string& prefix);
  void compute(OrtKernelContext* context) const;

 private:
  friend class SparseConvSum;
  struct Call;
  class Worker;
  struct Places;
  struct PlanesCall;
  class PlanesWorker;
  Planes output_planes(const Planes& in, const char* name) const;
  void compute_planes(OrtKernelContext* context) const;
  std::shared_ptr<const Places> places_for(int64_t step, const std::vector<int32_t>& offsets) const;
  void check_bias(const Tensor& bias) const;

  const OrtApi* api_;
  ConvAttributes attributes_;
  bool padded_, edges_;  // reads and writes padded planes; whose bands hold the lines of their neighbours
  bool is_depthwise_;
  Depthwise depthwise_;  // then all that follows is empty
  Taps taps_;
  std::vector<Matrix> matrices_;              // one per group, or for some groups together
  int64_t matrix_rows_, matrix_channels_;     // of one matrix; the last one may have fewer
  std::vector<std::vector<Column>> columns_;  // what the planes of each matrix stand for
  int max_vectors_;
  bool direct_;            // can read the image itself where nothing has to be padded
  double uses_per_plane_;  // rows that read a pixel
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Places> places_;  // for the planes of the last run
};

}  // namespace sparsify
