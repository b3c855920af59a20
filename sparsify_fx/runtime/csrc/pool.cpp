#include "pool.h"

#include <algorithm>

#include "cache.h"
#include "scratch.h"
#include "workers.h"

namespace sparsify {

int64_t pool_floats(const Bands& bands) {
  return round_up(bands.before + kPoolLines * bands.plan.line + bands.after, kLineFloats);
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
  if (a.activation != Activation::kNone) throw InvalidArgument(prefix + "activation is not computed after a pooling");
  if (largest(a.pads) >= kernel[0]) throw InvalidArgument(prefix + "pads must be smaller than the kernel");
  return a;
}

MaxPool::MaxPool(const OrtApi* api, const OrtKernelInfo* info) : api_(api), attributes_(read_pool(api, info)) {}

// One run. The tasks are the bands of some planes.
struct MaxPool::Call {
  const Geometry& g;
  const float* x;
  float* y;
  Bands bands;
  int64_t planes, per_task;  // of all images, and of a task

  Call(const ConvAttributes& attributes, const Geometry& geometry, const float* x_, float* y_)
      : g(geometry), x(x_), y(y_), bands(attributes, g, kNearFloats, true), planes(g.images * g.channels),
        per_task(kTaskFloats / std::max<int64_t>(1, g.plane() / bands.count) + 1) {}
  int64_t tasks() const { return bands.count * ((planes + per_task - 1) / per_task); }
};

class MaxPool::Worker {
 public:
  explicit Worker(const Call& call)
      : call_(call), lines_(pool_lines(call.bands, scratch_->panel.need(pool_floats(call.bands)))) {}

  void run(int64_t task) {
    const Geometry& g = call_.g;
    const Bands& bands = call_.bands;
    const int64_t first = task / bands.count * call_.per_task, band = task % bands.count;
    for (int64_t plane = first; plane < std::min(first + call_.per_task, call_.planes); ++plane)
      kernels().pool(bands.plan,
                     {call_.x + plane * g.plane(), g.height, g.width, bands.first_line(band), lines_,
                      call_.y + plane * g.out_plane() + bands.first_output(band) * g.out_width, bands.outputs(band)});
  }

 private:
  const Call& call_;
  ScratchLease scratch_;
  float* lines_;
};

void MaxPool::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  ConvAttributes a = attributes_;
  if (x.shape.size() == 4) a.group = a.out_channels = x.shape[1];
  const Geometry g = geometry_of(a, x);
  if (g.plane() == 0 && g.images > 0)
    throw InvalidArgument("input X has the sizes " + in_brackets(x.shape) +
                          "; expected at least one pixel, of which to take the largest");
  const Tensor y = output(api_, context, g.output_shape);
  if (y.size() == 0) return;
  const Call call(a, g, x.floats(), y.writable());
  run_workers<Worker>(api_, context, call.tasks(), call);
}

}  // namespace sparsify
