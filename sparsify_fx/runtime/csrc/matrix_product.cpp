#include "matrix_product.h"

#include <algorithm>

namespace sparsify {

MatrixProduct::MatrixProduct(const Weights& weights, bool transposed, Activation activation, int block_planes)
    : activation_(activation) {
  if (weights.shape.size() != 2) throw InvalidArgument("the weight must have 2 dimensions");
  inner_ = weights.shape[transposed ? 1 : 0];
  outer_ = weights.shape[transposed ? 0 : 1];
  for (int64_t length : weights.shape) checked_most("the weight is too large: a side", length, kMaxLength);
  const double density = static_cast<double>(weights.values.size()) / static_cast<double>(inner_ * outer_);
  const Shape shape = choose_shape(density, 1);
  max_vectors_ = shape.max_vectors;
  Rows rows = transposed ? take_rows(weights, 0, outer_, inner_) : take_transposed(weights, inner_, outer_);
  // Planes that no row reads make all blocks equally wide.
  if (block_planes > 0) rows.planes = static_cast<int32_t>(round_up(inner_, block_planes));
  matrix_ = build_matrix(rows, block_planes > 0 ? block_planes : shape.block_planes, true);
}

// One run. The tasks are tiles of pixels, and parts of the rows when those are few.
struct MatrixProduct::Call : Operands {
  Tiling tiling;
  int parts;
  const LeanMatrix* lean;  // for no more pixels than a vector has lanes, else null
};

void pack_pixels(float* panel, int vectors, const float* a, int64_t inner, int pixels, const Norm& norm) {
  const Kernels& kernel = kernels();
  const int planes = static_cast<int>(inner);
  kernel.pack_transposed(panel, vectors * kernel.lanes, a, inner, pixels, planes);
  if (norm) kernel.normalize(vectors, {panel, planes, norm.scale, norm.shift, norm.epsilon});
}

void write_pixels(const PixelsCall& call) {
  const Kernels& kernel = kernels();
  const bool activates = call.activation != Activation::kNone;
  // Without a residual the activation comes first, on sums that lie side by side in the cache. With one it has to wait
  // until that was added, which is done on the way out.
  if (activates && call.residual == nullptr)
    kernel.epilogue(call.sums, call.sums, nullptr, call.rows * call.width, call.activation);
  kernel.unpack_transposed(call.y, call.step, call.sums, call.width, call.pixels, static_cast<int>(call.rows),
                           call.residual);
  for (int t = 0; t < call.pixels && activates && call.residual != nullptr; ++t)
    kernel.epilogue(call.y + t * call.step, call.y + t * call.step, nullptr, call.rows, call.activation);
}

namespace {

// At most a vector of pixels, normalized, pixel after pixel.
const float* normalized(Scratch& scratch, const Operands& operands, int64_t inner) {
  const int lanes = kernels().lanes, pixels = static_cast<int>(operands.pixels);
  float* panel = scratch.panel.need(inner * lanes);
  float* rows = scratch.sums.need(inner * lanes);
  pack_pixels(panel, 1, operands.a, inner, pixels, operands.norm);
  kernels().unpack_transposed(rows, inner, panel, lanes, pixels, static_cast<int>(inner), nullptr);
  return rows;
}

}  // namespace

const LeanMatrix& MatrixProduct::lean_matrix() const {
  std::call_once(once_, [&] { lean_ = lean(matrix_, kernels().lanes); });
  return lean_;
}

// One pixel: dot products with the rows.
class MatrixProduct::PixelWorker {
 public:
  PixelWorker(const MatrixProduct& op, const Call& call) : op_(op), call_(call) {}

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
  const MatrixProduct& op_;
  const Call& call_;
  ScratchLease scratch_;
};

class MatrixProduct::TileWorker {
 public:
  TileWorker(const MatrixProduct& op, const Call& call) : op_(op), call_(call) {}

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

  // The panel of a block.
  const float* packed(const Block& block) {
    const float* a = call_.a + first_ * op_.inner_;
    const int pixels = call_.tiling.count(tile_);
    // All blocks stay in the panel when other parts of the rows will need them again; a mean is one of all planes.
    if (call_.parts > 1 || call_.norm) {
      float* panel = scratch_->panel.need(op_.inner_ * width_);
      if (fresh_) pack_pixels(panel, vectors_, a, op_.inner_, pixels, call_.norm);
      fresh_ = false;
      return panel + static_cast<int64_t>(block.first_plane) * width_;
    }
    float* panel = scratch_->panel.need(op_.matrix_.widest_block() * width_);
    // The last planes of a block may be made up, see the constructor.
    const int64_t planes = std::min<int64_t>(block.planes, op_.inner_ - block.first_plane);
    kernels().pack_transposed(panel, width_, a + block.first_plane, op_.inner_, pixels, static_cast<int>(planes));
    return panel;
  }

  // Adds the products of a block with the rows of some groups to `sums`.
  void multiply(const Block& block, int from, int to, float* sums) {
    const Kernels& kernel = kernels();
    const float* panel = packed(block);
    RowsCall rows_call{};
    rows_call.panel = panel;
    rows_call.plane_step = width_;
    rows_call.offsets = nullptr;  // a matrix product has one tap
    rows_call.first = &block == &op_.matrix_.blocks.front();
    rows_call.bias = call_.bias;
    rows_call.sums = sums;
    for (int i = from; i < to; ++i) kernel.rows(vectors_, stretch_of(op_.matrix_, block, i, rows_call));
  }

  // `rows` sums from row `row` on become outputs.
  void write(int64_t row, int64_t rows, float* sums) {
    const int64_t outer = op_.outer_, at = first_ * outer + row;
    write_pixels({call_.y + at, call_.residual == nullptr ? nullptr : call_.residual + at, outer, sums, rows, width_,
                  call_.tiling.count(tile_), op_.activation_});
  }

  const MatrixProduct& op_;
  const Call& call_;
  ScratchLease scratch_;
  int64_t tile_ = -1, first_ = 0;  // whose panel is at hand, with several parts; its first pixel
  int vectors_ = 0, width_ = 0;
  bool fresh_ = true;  // whether that panel has still to be packed
};

void MatrixProduct::run(const OrtApi* api, const OrtKernelContext* context, const Operands& operands) const {
  Call call{operands, Tiling(operands.pixels, kernels().lanes, max_vectors_), 1, nullptr};
  ScratchLease scratch;
  if (operands.pixels <= kernels().lanes) {
    call.lean = &lean_matrix();
    // Every part of the rows reads the few pixels, so they are normalized once, before.
    if (operands.norm) call.a = normalized(*scratch.operator->(), operands, inner_);
    call.norm = {};
  }
  call.parts = row_parts(matrix_, call.tiling.tiles);
  const int64_t tasks = call.tiling.tiles * call.parts;
  if (operands.pixels == 1)
    run_workers<PixelWorker>(api, context, tasks, *this, call);
  else
    run_workers<TileWorker>(api, context, tasks, *this, call);
}

}  // namespace sparsify
