#include "matmul.h"

#include <algorithm>

#include "geometry.h"
#include "weights.h"

namespace sparsify {

SparseMatMul::SparseMatMul(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const Weights weights = constant_weights(api, info, kWeight, "weight_shape", "W");
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

namespace {}  // namespace

// One run. The tasks are tiles of pixels, and parts of the rows when those are few.
struct SparseMatMul::Call {
  Tiling tiling;
  int parts;
  const LeanMatrix* lean;  // for no more pixels than a vector has lanes, else null
  const float *a, *bias, *residual;
  float* y;
};

const LeanMatrix& SparseMatMul::lean_matrix() const {
  std::call_once(once_, [&] { lean_ = lean(matrix_, kernels().lanes); });
  return lean_;
}

// One pixel: dot products with the rows.
class SparseMatMul::PixelWorker {
 public:
  PixelWorker(const SparseMatMul& op, const Call& call) : op_(op), call_(call) {}

  void run(int64_t task) {
    const Kernels& kernel = kernels();
    const int part = static_cast<int>(task);
    const int64_t first = first_group(op_.matrix_, part, call_.parts) * kGroup;
    const int64_t end = std::min<int64_t>(first_group(op_.matrix_, part + 1, call_.parts) * kGroup, op_.outer_);
    FewCall few{};
    few.bias = call_.bias;
    few.sums = scratch_->sums.need(op_.outer_);
    for (int32_t b = 0; b < call_.lean->blocks; ++b) {
      few.panel = call_.a + static_cast<int64_t>(b) * kLeanBlock;
      kernel.dots(call_.lean->part(b, first, end, few));
    }
    kernel.epilogue(call_.y + first, few.sums + first, call_.residual == nullptr ? nullptr : call_.residual + first,
                    end - first, op_.activation_);
  }

 private:
  const SparseMatMul& op_;
  const Call& call_;
  ScratchLease scratch_;
};

class SparseMatMul::TileWorker {
 public:
  TileWorker(const SparseMatMul& op, const Call& call) : op_(op), call_(call) {}

  void run(int64_t task) {
    const Matrix& matrix = op_.matrix_;
    const int part = static_cast<int>(task % call_.parts);
    const int from = first_group(matrix, part, call_.parts), to = first_group(matrix, part + 1, call_.parts);
    set_tile(task / call_.parts);
    float* sums = scratch_->sums.need(op_.outer_ * width_);
    const int64_t row = from * kGroup, end = std::min<int64_t>(to * kGroup, op_.outer_);
    if (call_.lean != nullptr)
      multiply_few(row, end, sums);
    else
      for (const Block& block : matrix.blocks) multiply(block, from, to, sums);
    write(row, end - row, sums + row * width_);
  }

 private:
  void set_tile(int64_t tile) {
    fresh_ = tile != tile_;
    tile_ = tile;
    first_ = call_.tiling.first(tile);
    vectors_ = call_.tiling.width(tile);
    width_ = vectors_ * kernels().lanes;
  }

  // Packs all planes, of which there is one vector each, and multiplies some rows with them.
  void multiply_few(int64_t row, int64_t end, float* sums) {
    const Kernels& kernel = kernels();
    float* panel = scratch_->panel.need(op_.inner_ * width_);
    if (fresh_)
      kernel.pack_transposed(panel, width_, call_.a, op_.inner_, call_.tiling.count(tile_),
                             static_cast<int>(op_.inner_));
    FewCall few{};
    few.bias = call_.bias;
    few.sums = sums;
    for (int32_t b = 0; b < call_.lean->blocks; ++b) {
      few.panel = panel + static_cast<int64_t>(b) * kLeanBlock * width_;
      kernel.few(call_.lean->part(b, row, end, few));
    }
  }

  // Packs a block of planes, and adds its products with the rows of some groups to `sums`.
  void multiply(const Block& block, int from, int to, float* sums) {
    const Kernels& kernel = kernels();
    // All blocks stay in the panel when other parts of the rows will need them again.
    const bool keep = call_.parts > 1;
    float* panel = scratch_->panel.need((keep ? op_.inner_ : op_.matrix_.widest_block()) * width_);
    if (keep) panel += static_cast<int64_t>(block.first_plane) * width_;
    if (fresh_ || !keep)
      kernel.pack_transposed(panel, width_, call_.a + first_ * op_.inner_ + block.first_plane, op_.inner_,
                             call_.tiling.count(tile_), block.planes);
    RowsCall rows_call{};
    rows_call.panel = panel;
    rows_call.plane_step = width_;
    rows_call.first = &block == &op_.matrix_.blocks.front();
    rows_call.bias = call_.bias;
    rows_call.sums = sums;
    for (int i = from; i < to; ++i) kernel.rows(vectors_, stretch_of(op_.matrix_, block, i, rows_call));
  }

  // `rows` sums from row `row` on become outputs, pixel after pixel again.
  void write(int64_t row, int64_t rows, float* sums) {
    const Kernels& kernel = kernels();
    const Activation activation = op_.activation_;
    const int64_t outer = op_.outer_;
    const int count = call_.tiling.count(tile_);
    float* target = call_.y + first_ * outer + row;
    const float* residual = call_.residual == nullptr ? nullptr : call_.residual + first_ * outer + row;
    const bool activates = activation != Activation::kNone;
    // Without a residual the activation comes first, on sums that lie side by side in the cache. With one it has to
    // wait until that was added, which is done on the way out.
    if (activates && residual == nullptr) kernel.epilogue(sums, sums, nullptr, rows * width_, activation);
    kernel.unpack_transposed(target, outer, sums, width_, count, static_cast<int>(rows), residual);
    for (int t = 0; t < count && activates && residual != nullptr; ++t)
      kernel.epilogue(target + t * outer, target + t * outer, nullptr, rows, activation);
  }

  const SparseMatMul& op_;
  const Call& call_;
  ScratchLease scratch_;
  int64_t tile_ = -1, first_ = 0;  // whose panel is at hand, with several parts; its first pixel
  int vectors_ = 0, width_ = 0;
  bool fresh_ = true;  // whether that panel has still to be packed
};

void SparseMatMul::compute(OrtKernelContext* context) const {
  const Tensor a = input(api_, context, kA);
  const Tensor bias = optional_input(api_, context, kBias), residual = optional_input(api_, context, kResidual);
  if (a.type != kFloat || a.shape.empty() || a.shape.back() != inner_)
    throw InvalidArgument("input A must be float32 with a last dimension of " + std::to_string(inner_));
  checked_product("input A", a.shape);
  std::vector<int64_t> shape = a.shape;
  shape.back() = outer_;
  if (bias && (bias.type != kFloat || bias.shape != std::vector<int64_t>{outer_}))
    throw InvalidArgument("input B must be a float32 vector of " + std::to_string(outer_) + " values");
  const float* more = checked_residual(residual, shape);
  const Tensor y = output(api_, context, shape);
  if (y.size() == 0) return;
  Call call{Tiling(y.size() / outer_, kernels().lanes, max_vectors_),
            1,
            nullptr,
            a.floats(),
            bias ? bias.floats() : nullptr,
            more,
            y.writable()};
  if (call.tiling.pixels <= kernels().lanes) call.lean = &lean_matrix();
  call.parts = row_parts(matrix_, call.tiling.tiles);
  const int64_t tasks = call.tiling.tiles * call.parts;
  if (call.tiling.pixels == 1)
    run_workers<PixelWorker>(api_, context, tasks, *this, call);
  else
    run_workers<TileWorker>(api_, context, tasks, *this, call);
}

}  // namespace sparsify
