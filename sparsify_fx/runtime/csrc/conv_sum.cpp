#include "conv_sum.h"

#include <algorithm>
#include <string>

#include "conv_planes.h"
#include "conv_window.h"

namespace sparsify {

namespace {

void check_point(const ConvAttributes& a) {
  const bool unpadded = std::all_of(a.pads.begin(), a.pads.end(), [](int64_t pad) { return pad == 0; });
  if (a.rank != 4 || a.kernel_height != 1 || a.kernel_width != 1 || a.group != 1 || !unpadded)
    throw InvalidArgument("needs two convolutions of images with 1x1 kernels, one group and no padding");
}

void check_sum(const ConvAttributes& conv, const ConvAttributes& projection) {
  check_point(conv), check_point(projection);
  if (projection.out_channels != conv.out_channels)
    throw InvalidArgument("the projection gives " + std::to_string(projection.out_channels) +
                          " channels, what it is added to " + std::to_string(conv.out_channels));
  if (projection.activation != Activation::kNone) throw InvalidArgument("the projection cannot have an activation");
}

void check_shapes(bool equal) {
  if (!equal) throw InvalidArgument("inputs X and P do not give results of the same shape");
}

// Each task of both, the projection first: the second one finds its residual in the output, and in the cache.
template <typename Conv>
struct Both {
  const Conv &projection, &conv;
  const typename Conv::Call &first, &second;
};

template <typename Conv>
class BothWorker {
 public:
  explicit BothWorker(const Both<Conv>& both) : project_(both.projection, both.first), add_(both.conv, both.second) {}
  void run(int64_t task) {
    project_.run(task);
    add_.run(task);
  }

 private:
  typename Conv::Worker project_, add_;
};

class WindowSum : public SparseConvSum::Algorithm {
 public:
  WindowSum(const ConvModel& conv, const ConvModel& projection) : conv_(conv), projection_(projection) {}

  void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& given,
               const ConvInputs& projected) const override {
    const float* bias = checked_bias(conv_.attributes(), given.bias, "B");
    const float* more_bias = checked_bias(conv_.attributes(), projected.bias, "C");
    const Geometry g = geometry_of(conv_.attributes(), given.x), h = geometry_of(projection_.attributes(), projected.x);
    check_shapes(g.output_shape == h.output_shape);
    const Tensor y = output(api, context, g.output_shape);
    if (y.size() == 0) return;
    float* target = y.writable();
    WindowConv::Call first(projection_, h, projected.x.floats(), more_bias, nullptr, target);
    WindowConv::Call second(conv_, g, given.x.floats(), bias, target, target);
    // Both have as many rows and positions, and so the same tiles; with as many bands task i of both writes the same.
    first.share(projection_, std::max(first.bands, second.bands));
    second.share(conv_, first.bands);
    run_workers<BothWorker<WindowConv>>(api, context, first.tasks(),
                                        Both<WindowConv>{projection_, conv_, first, second});
  }

 private:
  WindowConv conv_, projection_;
};

class PlanesSum : public SparseConvSum::Algorithm {
 public:
  PlanesSum(const ConvModel& conv, const ConvModel& projection, bool halo)
      : conv_(conv, halo), projection_(projection, halo) {}

  void compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& given,
               const ConvInputs& projected) const override {
    const float* bias = checked_bias(conv_.attributes(), given.bias, "B");
    const float* more_bias = checked_bias(conv_.attributes(), projected.bias, "C");
    const Planes in = Planes::of(given.x, "X"), more = Planes::of(projected.x, "P");
    const Planes out = conv_.output_planes(in, "X");
    check_shapes(projection_.output_planes(more, "P").same_shape(out));
    const Tensor y = output(api, context, {out.size()});
    float* target = y.writable();
    out.write_header(target);
    if (out.empty()) return;
    const PlanesConv::Call first(projection_, more, out, projected.x.floats(), more_bias, nullptr, target);
    const PlanesConv::Call second(conv_, in, out, given.x.floats(), bias, target, target);
    run_workers<BothWorker<PlanesConv>>(api, context, first.tasks(),
                                        Both<PlanesConv>{projection_, conv_, first, second});
  }

 private:
  PlanesConv conv_, projection_;
};

}  // namespace

SparseConvSum::SparseConvSum(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const ConvModel conv = read_conv(api, info, kWeight, "W");
  const ConvModel projection = read_conv(api, info, kMoreWeight, "V", "projection_");
  check_sum(conv.attributes, projection.attributes);
  if (is_padded(api, info))
    algorithm_ = std::make_unique<PlanesSum>(conv, projection, has_halo(api, info));
  else
    algorithm_ = std::make_unique<WindowSum>(conv, projection);
}

void SparseConvSum::compute(OrtKernelContext* context) const {
  const ConvInputs given{input(api_, context, kX), optional_input(api_, context, kBias), {}};
  const ConvInputs projected{optional_input(api_, context, kProjected), optional_input(api_, context, kMoreBias), {}};
  if (!projected.x) throw InvalidArgument("input P is missing");
  algorithm_->compute(api_, context, given, projected);
}

}  // namespace sparsify
