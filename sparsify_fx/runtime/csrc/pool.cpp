#include "pool.h"

#include <algorithm>

namespace sparsify {

ConvAttributes read_pool(const OrtApi* api, const OrtKernelInfo* info, const std::string& prefix) {
  const std::vector<int64_t> kernel = attribute_ints(api, info, (prefix + "kernel_shape").c_str());
  if (kernel != std::vector<int64_t>{2, 2} && kernel != std::vector<int64_t>{3, 3})
    throw InvalidArgument(prefix + "kernel_shape must be [2, 2] or [3, 3]");
  const ConvAttributes a = read_attributes(api, info, {1, 1, kernel[0], kernel[1]}, prefix);
  const auto largest = [](const std::vector<int64_t>& values) { return *std::max_element(values.begin(), values.end()); };
  if (largest(a.strides) > 2) throw InvalidArgument(prefix + "strides must be 1 or 2");
  if (largest(a.dilations) > 1) throw InvalidArgument(prefix + "dilations must be 1");
  if (largest(a.pads) >= kernel[0]) throw InvalidArgument(prefix + "pads must be smaller than the kernel");
  return a;
}

MaxPool::MaxPool(const OrtApi* api, const OrtKernelInfo* info) : api_(api), attributes_(read_pool(api, info)) {}

void MaxPool::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, 0);
  ConvAttributes a = attributes_;
  if (x.shape.size() == 4) a.group = a.out_channels = x.shape[1];
  const Geometry g = geometry_of(a, x);
  const Tensor y = output(api_, context, g.output_shape);
  if (y.size() == 0) return;
  run_bands(api_, context, a, g, {x.floats(), nullptr, nullptr, static_cast<float*>(y.data)}, nullptr);
}

}  // namespace sparsify
