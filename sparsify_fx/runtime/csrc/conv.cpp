#include "conv.h"

#include <algorithm>

#include "conv_planes.h"
#include "conv_worker.h"
#include "weights.h"

namespace sparsify {

namespace {

constexpr int64_t kFusedPlanes = 16;  // of a matrix that stands for several groups: as many as the nearest cache holds

}  // namespace

Rows rows_of(const Weights& weights, const ConvAttributes& a, const Taps& taps, int64_t first, int64_t count) {
  const int64_t rows = a.out_channels / a.group, kernel = a.kernel_height * a.kernel_width;
  Rows taken = take_rows(weights, first, count, a.in_channels * kernel);
  const int32_t phases = static_cast<int32_t>(taps.phases.size());
  const int32_t planes = static_cast<int32_t>(a.in_channels) * phases;  // of one group
  taken.planes = static_cast<int32_t>((count + rows - 1) / rows) * planes;
  const auto earlier = [](const Rows::Entry& a, const Rows::Entry& b) { return a.plane < b.plane; };
  for (int32_t row = 0; row < taken.rows; ++row) {
    const auto begin = taken.nonzeros.begin() + taken.begin[row], end = taken.nonzeros.begin() + taken.begin[row + 1];
    for (auto entry = begin; entry != end; ++entry) {
      const int64_t column = entry->plane, tap = column % kernel;
      entry->plane =
          static_cast<int32_t>(row / rows) * planes + static_cast<int32_t>(column / kernel) * phases + taps.phase[tap];
      entry->tap = static_cast<int32_t>(taps.shared ? tap : 0);
    }
    if (taps.shared && phases > 1) std::stable_sort(begin, end, earlier);
  }
  return taken;
}

SparseConv::SparseConv(const OrtApi* api, const OrtKernelInfo* info, size_t weight, const std::string& prefix)
    : api_(api) {
  const Tensor values = constant_input(api, info, weight);
  const Tensor gaps = constant_input(api, info, weight + 1);
  if (!values)
    throw InvalidArgument(std::string("input ") + (prefix.empty() ? "W" : "V") + " must be a constant initializer");
  const std::string shape_name = prefix.empty() ? "weight_shape" : prefix + "shape";
  const Weights weights = read_weights(values, gaps, attribute_ints(api, info, shape_name.c_str()));
  attributes_ = read_attributes(api, info, weights.shape, prefix);
  const ConvAttributes& a = attributes_;
  padded_ = attribute_int(api, info, "padded", 0) != 0, edges_ = attribute_int(api, info, "edges", 0) != 0;
  if (padded_) check_planes(a);
  is_depthwise_ = !padded_ && is_depthwise(a);
  if (is_depthwise_) {
    depthwise_ = Depthwise(weights, a);
    return;
  }
  taps_ = choose_taps(a);
  const int64_t kernel = a.kernel_height * a.kernel_width;
  const int32_t phases = static_cast<int32_t>(taps_.phases.size());
  checked_most("the weight is too large: input channels of a group times phases of the stride", a.in_channels * phases,
               kMaxLength);
  const double density =
      static_cast<double>(weights.values.size()) / static_cast<double>(a.out_channels * a.in_channels * kernel);
  const Shape shape = choose_shape(density, static_cast<double>(kernel) / phases);
  max_vectors_ = shape.max_vectors;
  direct_ = kernel == 1;
  uses_per_plane_ = density * static_cast<double>(a.out_channels) / static_cast<double>(a.group);
  // Small groups, as of a depthwise convolution, are taken together: each alone would be over before it has begun.
  const int64_t fused = std::clamp<int64_t>(kFusedPlanes / (a.in_channels * phases), 1, a.group);
  const int block_planes = fused > 1 ? kFusedPlanes : shape.block_planes;
  const int64_t group_rows = a.out_channels / a.group;
  matrix_rows_ = fused * group_rows;
  matrix_channels_ = fused * a.in_channels;
  for (int64_t g = 0; g < a.group; g += fused) {
    const Rows rows = rows_of(weights, a, taps_, g * group_rows, std::min(fused, a.group - g) * group_rows);
    matrices_.push_back(build_matrix(rows, block_planes, direct_ || (padded_ && a.strides[0] == 1)));
    columns_.emplace_back();
    for (int32_t plane : matrices_.back().planes) columns_.back().push_back({plane / phases, plane % phases});
  }
}

void SparseConv::check_bias(const Tensor& bias) const {
  if (bias && (bias.type != kFloat || bias.shape != std::vector<int64_t>{attributes_.out_channels}))
    throw InvalidArgument("input B must be a float32 vector with a value per output channel");
}

void SparseConv::compute(OrtKernelContext* context) const {
  if (padded_) return compute_planes(context);
  size_t inputs = 0;
  check(api_, GetInputCount::call(api_, context, &inputs));
  const Tensor x = input(api_, context, 0);
  const Tensor bias = inputs > 3 ? input(api_, context, 3) : Tensor{};
  const Tensor residual = inputs > 4 ? input(api_, context, 4) : Tensor{};
  const Geometry g = geometry_of(attributes_, x);
  check_bias(bias);
  if (residual && (residual.type != kFloat || residual.shape != g.output_shape))
    throw InvalidArgument("input Z must be float32 and have the shape of the output");
  const Tensor y = output(api_, context, g.output_shape);
  if (y.size() == 0) return;
  const Images images{x.floats(), bias ? bias.floats() : nullptr, residual ? residual.floats() : nullptr,
                      static_cast<float*>(y.data)};
  if (is_depthwise_) return depthwise_.run(api_, context, g, images);
  const Call call(*this, g, images.x, images.bias, images.residual, images.y);
  run_workers(api_, context, call.tasks(), [&](Share& share) {
    int64_t task;
    if (!share.next(&task)) return;
    Worker worker(*this, call);
    do worker.run(task);
    while (share.next(&task));
  });
}

}  // namespace sparsify
