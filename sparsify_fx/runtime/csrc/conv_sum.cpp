#include "conv_sum.h"

#include <algorithm>
#include <string>

#include "conv_planes.h"
#include "conv_worker.h"

namespace sparsify {

namespace {

void check_point(const ConvAttributes& a) {
  const bool unpadded = std::all_of(a.pads.begin(), a.pads.end(), [](int64_t pad) { return pad == 0; });
  if (a.rank != 4 || a.kernel_height != 1 || a.kernel_width != 1 || a.group != 1 || !unpadded)
    throw InvalidArgument("needs two convolutions of images with 1x1 kernels, one group and no padding");
}

}  // namespace

SparseConvSum::SparseConvSum(const OrtApi* api, const OrtKernelInfo* info)
    : api_(api), conv_(api, info, 1, ""), projection_(api, info, 5, "projection_") {
  check_point(conv_.attributes_), check_point(projection_.attributes_);
  if (projection_.attributes_.out_channels != conv_.attributes_.out_channels)
    throw InvalidArgument("the projection gives " + std::to_string(projection_.attributes_.out_channels) +
                          " channels, what it is added to " + std::to_string(conv_.attributes_.out_channels));
  if (projection_.attributes_.activation != Activation::kNone)
    throw InvalidArgument("the projection cannot have an activation");
}

struct SparseConvSum::Inputs {
  Tensor x, p;
  const float *bias, *more;
};

SparseConvSum::Inputs SparseConvSum::inputs_of(OrtKernelContext* context) const {
  size_t inputs = 0;
  check(api_, GetInputCount::call(api_, context, &inputs));
  if (inputs <= 4) throw InvalidArgument("input P is missing");
  const auto bias_of = [&](size_t index, const char* name) -> const float* {
    const Tensor bias = inputs > index ? input(api_, context, index) : Tensor{};
    if (bias && (bias.type != kFloat || bias.shape != std::vector<int64_t>{conv_.attributes_.out_channels}))
      throw InvalidArgument(std::string("input ") + name + " must be a float32 vector with a value per output channel");
    return bias ? bias.floats() : nullptr;
  };
  const Inputs given{input(api_, context, 0), input(api_, context, 4), bias_of(3, "B"), bias_of(7, "C")};
  if (!given.p) throw InvalidArgument("input P is missing");
  return given;
}

namespace {

// Each task of both, the projection first.
template <typename Worker, typename Call>
void run_both(const OrtApi* api, const OrtKernelContext* context, const SparseConv& projection, const Call& first,
              const SparseConv& conv, const Call& second) {
  run_workers(api, context, first.tasks(), [&](Share& share) {
    int64_t task;
    if (!share.next(&task)) return;
    Worker project(projection, first), add(conv, second);
    do {
      project.run(task);
      add.run(task);
    } while (share.next(&task));
  });
}

}  // namespace

void SparseConvSum::compute(OrtKernelContext* context) const {
  const Inputs given = inputs_of(context);
  if (conv_.padded_) return compute_planes(context, given);
  const Geometry g = geometry_of(conv_.attributes_, given.x), h = geometry_of(projection_.attributes_, given.p);
  if (g.output_shape != h.output_shape) throw InvalidArgument("inputs X and P do not give results of the same shape");
  const Tensor y = output(api_, context, g.output_shape);
  if (y.size() == 0) return;
  float* target = static_cast<float*>(y.data);
  SparseConv::Call first(projection_, h, given.p.floats(), given.more, nullptr, target);
  SparseConv::Call second(conv_, g, given.x.floats(), given.bias, target, target);
  // Both have as many rows and positions, and so the same tiles.
  first.share(projection_, std::max(first.bands, second.bands));
  second.share(conv_, first.bands);
  run_both<SparseConv::Worker>(api_, context, projection_, first, conv_, second);
}

void SparseConvSum::compute_planes(OrtKernelContext* context, const Inputs& given) const {
  const Planes in = Planes::of(given.x, "X"), more = Planes::of(given.p, "P");
  const Planes out = conv_.output_planes(in, "X");
  if (!projection_.output_planes(more, "P").same_shape(out))
    throw InvalidArgument("inputs X and P do not give results of the same shape");
  const Tensor y = output(api_, context, {out.size()});
  float* target = static_cast<float*>(y.data);
  out.write_header(target);
  if (out.empty()) return;
  SparseConv::PlanesCall first(projection_, more, out, given.p.floats(), given.more, nullptr, target);
  SparseConv::PlanesCall second(conv_, in, out, given.x.floats(), given.bias, target, target);
  run_both<SparseConv::PlanesWorker>(api_, context, projection_, first, conv_, second);
}

}  // namespace sparsify
