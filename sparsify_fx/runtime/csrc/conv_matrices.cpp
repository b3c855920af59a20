#include "conv_matrices.h"

#include <algorithm>

#include "product.h"

namespace sparsify {

namespace {

constexpr int64_t kGroupedPlanes = 16;  // of a matrix that stands for several groups: as many as the L1 cache holds

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
    // The weight's own order goes tap by tap, and with a stride neighboring taps are of different phases; blocks need
    // the order of the planes. Stable: the taps of a plane keep theirs, and so every sum its bits.
    if (taps.shared && phases > 1) std::stable_sort(begin, end, earlier);
  }
  return taken;
}

ConvMatrices::ConvMatrices(const Weights& weights, const ConvAttributes& a, bool keep_all) : taps(choose_taps(a)) {
  const int64_t kernel = a.kernel_height * a.kernel_width;
  const int32_t phases = static_cast<int32_t>(taps.phases.size());
  checked_most("the weight is too large: input channels of a group times phases of the stride", a.in_channels * phases,
               kMaxLength);
  const double density =
      static_cast<double>(weights.values.size()) / static_cast<double>(a.out_channels * a.in_channels * kernel);
  const Shape shape = choose_shape(density, static_cast<double>(kernel) / phases);
  max_vectors = shape.max_vectors;
  uses_per_plane = density * static_cast<double>(a.out_channels) / static_cast<double>(a.group);
  // Small groups, as of a depthwise convolution, are taken together: each alone would be over before it has begun.
  const int64_t together = std::clamp<int64_t>(kGroupedPlanes / (a.in_channels * phases), 1, a.group);
  const int block_planes = together > 1 ? kGroupedPlanes : shape.block_planes;
  const int64_t group_rows = a.out_channels / a.group;
  rows = together * group_rows;
  channels = together * a.in_channels;
  for (int64_t g = 0; g < a.group; g += together) {
    const Rows taken = rows_of(weights, a, taps, g * group_rows, std::min(together, a.group - g) * group_rows);
    matrices.push_back(build_matrix(taken, block_planes, keep_all));
    sources.emplace_back();
    for (int32_t plane : matrices.back().planes) sources.back().push_back({plane / phases, plane % phases});
  }
}

}  // namespace sparsify
