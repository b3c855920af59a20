#include "pool.h"

#include <algorithm>

namespace sparsify {

namespace {

constexpr int64_t kBandFloats = 6144, kTaskFloats = int64_t{1} << 14;  // read at once, and by one task at least

}  // namespace

int64_t pool_floats(const Bands& bands) {
  return (bands.before + kPoolLines * bands.plan.line + bands.behind + 15) / 16 * 16;
}

float* pool_lines(const Bands& bands, float* room) {
  std::fill_n(room, pool_floats(bands), bands.plan.padding);
  return room + bands.before;
}

ConvAttributes read_pool(const OrtApi* api, const OrtKernelInfo* info, const std::string& prefix) {
  const std::vector<int64_t> kernel = attribute_ints(api, info, (prefix + "kernel_shape").c_str());
  if (kernel != std::vector<int64_t>{2, 2} && kernel != std::vector<int64_t>{3, 3})
    throw InvalidArgument(prefix + "kernel_shape must be [2, 2] or [3, 3]");
  const ConvAttributes a = read_attributes(api, info, {1, 1, kernel[0], kernel[1]}, prefix);
  const auto largest = [](const std::vector<int64_t>& values) {
    return *std::max_element(values.begin(), values.end());
  };
  if (largest(a.strides) > 2) throw InvalidArgument(prefix + "strides must be 1 or 2");
  if (largest(a.dilations) > 1) throw InvalidArgument(prefix + "dilations must be 1");
  if (a.activation != Activation::kNone) throw InvalidArgument(prefix + "activation is not computed behind a pooling");
  if (largest(a.pads) >= kernel[0]) throw InvalidArgument(prefix + "pads must be smaller than the kernel");
  return a;
}

MaxPool::MaxPool(const OrtApi* api, const OrtKernelInfo* info) : api_(api), attributes_(read_pool(api, info)) {}

void MaxPool::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, 0);
  ConvAttributes a = attributes_;
  if (x.shape.size() == 4) a.group = a.out_channels = x.shape[1];
  const Geometry g = geometry_of(a, x);
  if (g.plane() == 0 && g.images > 0)
    throw InvalidArgument("input X has the sizes " + in_brackets(x.shape) +
                          "; expected at least one pixel, of which to take the largest");
  const Tensor y = output(api_, context, g.output_shape);
  if (y.size() == 0) return;
  const Kernels& kernel = kernels();
  const Bands bands(a, g, kBandFloats, true);
  const int64_t planes = g.images * g.channels,
                per_task = kTaskFloats / std::max<int64_t>(1, g.plane() / bands.count) + 1;
  run_workers(api_, context, bands.count * ((planes + per_task - 1) / per_task), [&](Share& share) {
    int64_t task;
    if (!share.next(&task)) return;
    ScratchLease scratch;
    float* lines = pool_lines(bands, scratch->panel.need(pool_floats(bands)));
    do {
      const int64_t first = task / bands.count * per_task, band = task % bands.count;
      for (int64_t plane = first; plane < std::min(first + per_task, planes); ++plane)
        kernel.pool(bands.plan,
                    {x.floats() + plane * g.plane(), g.height, g.width, bands.first_line(band), lines,
                     static_cast<float*>(y.data) + plane * g.out_plane() + bands.first_output(band) * g.out_width,
                     bands.outputs(band)});
    } while (share.next(&task));
  });
}

}  // namespace sparsify
