#include "depthwise.h"

#include <algorithm>
#include <limits>

namespace sparsify {

namespace {

constexpr int64_t kNearFloats = 6144;              // copied at once: they stay in the nearest cache
constexpr int64_t kTaskFloats = int64_t{1} << 14;  // read by one task at least

int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// A power of two where several copied lines share a vector, otherwise whole vectors.
int64_t pitch_of(int64_t needed, const Geometry& g, const Kernels& kernel, bool maximum) {
  if (kernel.masks && !maximum && g.stride_x == 1 && g.stride_y == 1 && needed <= kernel.lanes / 2) {
    int64_t pitch = 1;
    while (pitch < needed) pitch *= 2;
    return pitch;
  }
  return round_up(needed, kernel.lanes);
}

}  // namespace

bool is_depthwise(const ConvAttributes& a) {
  const int64_t k = a.kernel_width;
  return a.rank == 4 && a.in_channels == 1 && a.out_channels == a.group && k == a.kernel_height &&
         (k == 3 || k == 5 || k == 7) && std::max(a.strides[0], a.strides[1]) <= 2 && a.dilations[0] == 1 &&
         a.dilations[1] == 1;
}

Bands::Bands(const ConvAttributes& a, const Geometry& g, int64_t most, bool maximum)
    : out_height(g.out_height), kernel(a.kernel_width), pad_y(g.pad_y) {
  const Kernels& kernels_here = kernels();
  int64_t lowest = 0, highest = 0;
  for (int64_t kx = 0; kx < kernel; ++kx) {
    offsets.push_back(floor_divide(kx - g.pad_x, g.stride_x));
    lowest = std::min(lowest, offsets.back()), highest = std::max(highest, offsets.back());
  }
  // Behind the pixels of a line lie the zeros that end it and those that the next one begins with.
  const int64_t length = (g.width + g.stride_x - 1) / g.stride_x;
  const int64_t pitch = pitch_of(std::max(length - lowest, g.out_width + highest), g, kernels_here, maximum);
  for (int64_t kx = 0; kx < kernel; ++kx) offsets[kx] += (kx - g.pad_x - offsets[kx] * g.stride_x) * pitch;
  plan = {g.width,
          g.height,
          g.out_width,
          g.stride_y,
          g.stride_x,
          static_cast<int>(kernel),
          pitch,
          pitch * g.stride_x,
          offsets.data(),
          a.activation,
          maximum ? -std::numeric_limits<float>::infinity() : 0.0f};
  const int64_t outputs = std::max<int64_t>(4, (most / plan.line - kernel) / g.stride_y / 4 * 4);
  count = (out_height + outputs - 1) / outputs;
  before = round_up(-lowest, kernels_here.lanes);
  behind = round_up(highest, kernels_here.lanes) + (kernel + 1) * kernels_here.lanes;
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

void run_bands(const OrtApi* api, const OrtKernelContext* context, const ConvAttributes& attributes, const Geometry& g,
               const Images& images, const float* weights) {
  const Kernels& kernel = kernels();
  const Bands bands(attributes, g, kNearFloats);
  const int64_t taps = bands.kernel * bands.kernel;
  const int64_t planes = g.images * g.channels, step = bands.most_lines() * bands.plan.line;
  const int64_t at_once = std::clamp<int64_t>(kNearFloats / step, 1, planes);
  const int64_t per_task = round_up(kTaskFloats / std::max<int64_t>(1, g.plane() / bands.count) + 1, at_once);
  const auto run_planes = [&](int64_t first, int64_t end, int64_t band, float* lines) {
    for (int64_t plane = first; plane < end; ++plane)
      kernel.copy_lines(bands.plan, images.x + plane * g.plane(), bands.first_line(band), bands.lines(band),
                        lines + (plane - first) * step);
    for (int64_t plane = first; plane < end; ++plane) {
      const int64_t channel = plane % g.channels;
      const int64_t at = plane * g.out_plane() + bands.first_output(band) * g.out_width;
      kernel.depthwise(bands.plan, {lines + (plane - first) * step, weights + channel * taps,
                                    images.bias == nullptr ? 0.0f : images.bias[channel], images.y + at,
                                    images.residual == nullptr ? nullptr : images.residual + at, bands.outputs(band)});
    }
  };
  run_workers(api, context, bands.count * ((planes + per_task - 1) / per_task), [&](Share& share) {
    int64_t task;
    if (!share.next(&task)) return;
    ScratchLease scratch;
    const int64_t size = bands.before + at_once * step + bands.behind;
    float* lines = scratch->panel.need(size);
    std::fill(lines, lines + size, bands.plan.padding);
    do {
      const int64_t first = task / bands.count * per_task, end = std::min(first + per_task, planes);
      for (int64_t plane = first; plane < end; plane += at_once)
        run_planes(plane, std::min(plane + at_once, end), task % bands.count, lines + bands.before);
    } while (share.next(&task));
  });
}

}  // namespace sparsify
