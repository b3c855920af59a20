#include "conv.h"

#include "conv_planes.h"
#include "conv_window.h"
#include "depthwise.h"

namespace sparsify {

ConvModel read_conv(const OrtApi* api, const OrtKernelInfo* info, size_t weight, const char* name,
                    const std::string& prefix) {
  ConvModel model;
  model.weights = constant_weights(api, info, weight, prefix.empty() ? "weight_shape" : prefix + "shape", name);
  model.attributes = read_attributes(api, info, model.weights.shape, prefix);
  return model;
}

bool is_padded(const OrtApi* api, const OrtKernelInfo* info) { return attribute_int(api, info, "padded", 0) != 0; }
bool has_halo(const OrtApi* api, const OrtKernelInfo* info) { return attribute_int(api, info, "edges", 0) != 0; }

namespace {

std::unique_ptr<const ConvAlgorithm> choose_algorithm(const OrtApi* api, const OrtKernelInfo* info,
                                                      const ConvModel& model) {
  if (is_padded(api, info)) return std::make_unique<PlanesConv>(model, has_halo(api, info));
  if (is_depthwise(model.attributes)) return std::make_unique<DepthwiseConv>(model);
  return std::make_unique<WindowConv>(model);
}

}  // namespace

SparseConv::SparseConv(const OrtApi* api, const OrtKernelInfo* info)
    : api_(api), algorithm_(choose_algorithm(api, info, read_conv(api, info, kWeight, "W"))) {}

void SparseConv::compute(OrtKernelContext* context) const {
  algorithm_->compute(
      api_, context,
      {input(api_, context, kX), optional_input(api_, context, kBias), optional_input(api_, context, kResidual)});
}

}  // namespace sparsify
