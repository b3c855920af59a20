#include "depthwise.h"

#include <algorithm>

#include "cache.h"
#include "scratch.h"
#include "workers.h"

namespace sparsify {

bool is_depthwise(const ConvAttributes& a) {
  const int64_t k = a.kernel_width;
  return a.rank == 4 && a.in_channels == 1 && a.out_channels == a.group && k == a.kernel_height &&
         (k == 3 || k == 5 || k == 7) && std::max(a.strides[0], a.strides[1]) <= 2 && a.dilations[0] == 1 &&
         a.dilations[1] == 1;
}

Depthwise::Depthwise(const Weights& weights, const ConvAttributes& attributes)
    : attributes_(attributes), taps_(attributes.kernel_height * attributes.kernel_width),
      weights_(attributes.out_channels * taps_) {
  const int64_t kernel = attributes.kernel_width;
  for (size_t i = 0; i < weights.values.size(); ++i) {
    const int64_t channel = weights.positions[i] / taps_, tap = weights.positions[i] % taps_;
    weights_[channel * taps_ + tap % kernel * kernel + tap / kernel] = weights.values[i];
  }
}

// One run. The tasks are the bands of some planes.
struct DepthwiseConv::Call {
  const Geometry& g;
  const float *x, *bias, *residual;
  float* y;
  Bands bands;
  int64_t planes, step;       // of all images; floats of the copied lines of one
  int64_t at_once, per_task;  // planes that are copied together, and planes of a task

  Call(const ConvAttributes& attributes, const Geometry& geometry)
      : g(geometry), bands(attributes, g, kNearFloats), planes(g.images * g.channels),
        step(bands.most_lines() * bands.plan.line), at_once(std::clamp<int64_t>(kNearFloats / step, 1, planes)),
        per_task(round_up(kTaskFloats / std::max<int64_t>(1, g.plane() / bands.count) + 1, at_once)) {}
  int64_t tasks() const { return bands.count * ((planes + per_task - 1) / per_task); }
};

class DepthwiseConv::Worker {
 public:
  Worker(const DepthwiseConv& conv, const Call& call) : conv_(conv), call_(call) {
    const int64_t size = call.bands.before + call.at_once * call.step + call.bands.after;
    float* room = scratch_->panel.need(size);
    // The padding to the left of the first line lies before it; that of each other line ends the line before.
    std::fill(room, room + size, call.bands.plan.padding);
    lines_ = room + call.bands.before;
  }

  void run(int64_t task) {
    const int64_t first = task / call_.bands.count * call_.per_task;
    const int64_t end = std::min(first + call_.per_task, call_.planes);
    for (int64_t plane = first; plane < end; plane += call_.at_once)
      run_planes(plane, std::min(plane + call_.at_once, end), task % call_.bands.count);
  }

 private:
  // Some planes are copied before the first of them is computed: what was just stored is not at hand at once.
  void run_planes(int64_t first, int64_t end, int64_t band) {
    const Kernels& kernel = kernels();
    const Geometry& g = call_.g;
    const Bands& bands = call_.bands;
    for (int64_t plane = first; plane < end; ++plane)
      kernel.copy_lines(bands.plan, call_.x + plane * g.plane(), bands.first_line(band), bands.lines(band),
                        lines_ + (plane - first) * call_.step);
    for (int64_t plane = first; plane < end; ++plane) {
      const int64_t channel = plane % g.channels;
      const int64_t at = plane * g.out_plane() + bands.first_output(band) * g.out_width;
      kernel.depthwise(bands.plan, {lines_ + (plane - first) * call_.step, conv_.weight_.weights(channel),
                                    call_.bias == nullptr ? 0.0f : call_.bias[channel], call_.y + at,
                                    call_.residual == nullptr ? nullptr : call_.residual + at, bands.outputs(band)});
    }
  }

  const DepthwiseConv& conv_;
  const Call& call_;
  ScratchLease scratch_;
  float* lines_;
};

void DepthwiseConv::compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const {
  const ConvAttributes& attributes = weight_.attributes();
  const Geometry g = geometry_of(attributes, inputs.x);
  const float* bias = checked_bias(attributes, inputs.bias, "B");
  const float* residual = checked_residual(inputs.residual, g.output_shape);
  const Tensor y = output(api, context, g.output_shape);
  if (y.size() == 0) return;
  Call call(attributes, g);
  call.x = inputs.x.floats();
  call.bias = bias;
  call.residual = residual;
  call.y = y.writable();
  run_workers<Worker>(api, context, call.tasks(), *this, call);
}

}  // namespace sparsify
