#include "matmul.h"

#include <algorithm>

#include "conv.h"
#include "weights.h"

namespace sparsify {

SparseMatMul::SparseMatMul(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const Tensor values = constant_input(api, info, 1);
  const Tensor gaps = constant_input(api, info, 2);
  if (!values) throw InvalidArgument("input W must be a constant initializer");
  const Weights weights = read_weights(values, gaps, attribute_ints(api, info, "weight_shape"));
  if (weights.shape.size() != 2) throw InvalidArgument("the weight must have 2 dimensions");
  const bool transposed = attribute_int(api, info, "transB", 0) != 0;  // as in Gemm: the weight is [N, K]
  inner_ = weights.shape[transposed ? 1 : 0];
  outer_ = weights.shape[transposed ? 0 : 1];
  for (int64_t length : weights.shape) checked_most("the weight is too large: a side", length, kMaxLength);
  activation_ = parse_activation(attribute_string(api, info, "activation"));
  const double density = static_cast<double>(weights.values.size()) / static_cast<double>(inner_ * outer_);
  const Shape shape = choose_shape(density, 1);
  max_vectors_ = shape.max_vectors;
  Rows rows = transposed ? take_rows(weights, 0, outer_, inner_) : take_transposed(weights, inner_, outer_);
  matrix_ = build_matrix(rows, shape.block_planes, true);
}

namespace {

constexpr int64_t kFewPixels = 4;
constexpr int32_t kNoOffset = 0;  // a matrix product has one tap

}  // namespace

struct SparseMatMul::Call {
  Tiling tiling;
  int parts;
  const float *a, *bias, *residual;
  float* y;
};

void SparseMatMul::compute(OrtKernelContext* context) const {
  size_t inputs = 0;
  check(api_, GetInputCount::call(api_, context, &inputs));
  const Tensor a = input(api_, context, 0);
  const Tensor bias = inputs > 3 ? input(api_, context, 3) : Tensor{};
  const Tensor residual = inputs > 4 ? input(api_, context, 4) : Tensor{};
  if (a.type != kFloat || a.shape.empty() || a.shape.back() != inner_)
    throw InvalidArgument("input A must be float32 with a last dimension of " + std::to_string(inner_));
  checked_product("input A", a.shape);
  std::vector<int64_t> shape = a.shape;
  shape.back() = outer_;
  if (bias && (bias.type != kFloat || bias.shape != std::vector<int64_t>{outer_}))
    throw InvalidArgument("input B must be a float32 vector of " + std::to_string(outer_) + " values");
  if (residual && (residual.type != kFloat || residual.shape != shape))
    throw InvalidArgument("input Z must be float32 and have the shape of the output");
  const Tensor y = output(api_, context, shape);
  if (y.size() == 0) return;
  Call call{Tiling(y.size() / outer_, kernels().lanes, max_vectors_),
            1,
            a.floats(),
            bias ? bias.floats() : nullptr,
            residual ? residual.floats() : nullptr,
            static_cast<float*>(y.data)};
  call.parts = row_parts(matrix_, call.tiling.tiles);
  if (call.tiling.pixels <= kFewPixels) {
    call.parts = row_parts(matrix_, call.tiling.pixels);
    run_workers(api_, context, call.tiling.pixels * call.parts, [&](Share& share) { work_by_pixel(call, share); });
  } else {
    run_workers(api_, context, call.tiling.tiles * call.parts, [&](Share& share) { work(call, share); });
  }
}

// A few pixels leave most lanes of a tile empty: dot products, pixel by pixel, then take less time.
void SparseMatMul::work_by_pixel(const Call& call, Share& share) const {
  int64_t task;
  if (!share.next(&task)) return;
  const Kernels& kernel = kernels();
  ScratchLease scratch;
  do {
    const int part = static_cast<int>(task % call.parts);
    const int64_t pixel = task / call.parts;
    const int from = first_group(matrix_, part, call.parts), to = first_group(matrix_, part + 1, call.parts);
    RowsCall rows_call{};
    rows_call.bias = call.bias;
    rows_call.sums = scratch->sums.need(outer_);
    for (size_t b = 0; b < matrix_.blocks.size(); ++b) {
      rows_call.panel = call.a + pixel * inner_ + matrix_.blocks[b].first_plane;
      rows_call.first = b == 0;
      for (int i = from; i < to; ++i) kernel.dots(stretch_of(matrix_, matrix_.blocks[b], i, rows_call));
    }
    const int64_t row = from * kGroup, rows = std::min<int64_t>(to * kGroup, outer_) - row;
    const int64_t at = pixel * outer_ + row;
    kernel.finish(call.y + at, rows_call.sums + row, call.residual == nullptr ? nullptr : call.residual + at, rows,
                  activation_);
  } while (share.next(&task));
}

void SparseMatMul::work(const Call& call, Share& share) const {
  int64_t task;
  if (!share.next(&task)) return;
  const Kernels& kernel = kernels();
  ScratchLease scratch;
  int64_t packed = -1;  // the tile whose panel lies in `scratch`
  do {
    const int part = static_cast<int>(task % call.parts);
    const int64_t tile = task / call.parts, first = call.tiling.first(tile);
    const int vectors = call.tiling.width(tile), width = vectors * kernel.lanes, count = call.tiling.count(tile);
    const bool keep = call.parts > 1, fresh = packed != tile || !keep;
    packed = tile;
    float* panel = scratch->panel.need((keep ? inner_ : matrix_.widest_block()) * width);
    float* sums = scratch->sums.need(outer_ * width);
    const int from = first_group(matrix_, part, call.parts), to = first_group(matrix_, part + 1, call.parts);
    for (size_t b = 0; b < matrix_.blocks.size(); ++b) {
      const Block& block = matrix_.blocks[b];
      float* here = keep ? panel + static_cast<int64_t>(block.first_plane) * width : panel;
      if (fresh)
        kernel.pack_transposed(here, width, call.a + first * inner_ + block.first_plane, inner_, count, block.planes);
      RowsCall rows_call{};
      rows_call.panel = here;
      rows_call.plane_step = width;
      rows_call.offsets = &kNoOffset;
      rows_call.first = b == 0;
      rows_call.bias = call.bias;
      rows_call.sums = sums;
      for (int i = from; i < to; ++i) kernel.rows(vectors, stretch_of(matrix_, block, i, rows_call));
    }
    const int64_t row = from * kGroup, rows = std::min<int64_t>(to * kGroup, outer_) - row;
    float *target = call.y + first * outer_ + row, *found = sums + row * width;
    const float* residual = call.residual == nullptr ? nullptr : call.residual + first * outer_ + row;
    const bool activates = activation_ != Activation::kNone;
    // Where they lie in the cache side by side, if nothing need be added before.
    if (activates && residual == nullptr) kernel.finish(found, found, nullptr, rows * width, activation_);
    kernel.unpack_transposed(target, outer_, found, width, count, static_cast<int>(rows), residual);
    for (int t = 0; t < count && activates && residual != nullptr; ++t)
      kernel.finish(target + t * outer_, target + t * outer_, nullptr, rows, activation_);
  } while (share.next(&task));
}

}  // namespace sparsify
