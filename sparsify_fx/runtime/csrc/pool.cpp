#include "pool.h"

#include <algorithm>

namespace sparsify {

MaxPool::MaxPool(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const std::vector<int64_t> kernel = attribute_ints(api, info, "kernel_shape");
  if (kernel != std::vector<int64_t>{2, 2} && kernel != std::vector<int64_t>{3, 3})
    throw InvalidArgument("kernel_shape must be [2, 2] or [3, 3]");
  attributes_ = read_attributes(api, info, {1, 1, kernel[0], kernel[1]});
  const auto largest = [](const std::vector<int64_t>& values) { return *std::max_element(values.begin(), values.end()); };
  if (largest(attributes_.strides) > 2) throw InvalidArgument("strides must be 1 or 2");
  if (largest(attributes_.dilations) > 1) throw InvalidArgument("dilations must be 1");
  if (largest(attributes_.pads) >= kernel[0]) throw InvalidArgument("pads must be smaller than the kernel");
}

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
