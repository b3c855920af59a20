#include "mlp.h"

#include <algorithm>

#include "geometry.h"

namespace sparsify {

namespace {

// With fewer tiles threads would have nothing to do: both products then run one after another, each in parts.
constexpr int64_t kLeastTiles = 4;

int widest_tile() {
  const Kernels& kernel = kernels();
  // What a tile has of a row group of the first product stays in the first-level cache.
  return std::min(kernel.max_vectors, static_cast<int>(kTileFloats) / (kGroup * kernel.lanes));
}

// Row groups of the first product that are a block of planes of the second, in which its rows should meet non-zeros.
int groups_of_block(const Weights& weights) {
  double places = 1;
  for (int64_t length : weights.shape) places *= static_cast<double>(length);
  const double density = static_cast<double>(weights.values.size()) / places;
  return std::clamp(choose_shape(density, 1).block_planes / kGroup, 1, 4);
}

}  // namespace

SparseMlp::SparseMlp(const OrtApi* api, const OrtKernelInfo* info)
    : SparseMlp(api, info, constant_weights(api, info, kSecond, "second_weight_shape", "V")) {}

SparseMlp::SparseMlp(const OrtApi* api, const OrtKernelInfo* info, const Weights& second)
    : api_(api), epsilon_(norm_epsilon(api, info)), groups_(groups_of_block(second)),
      first_(constant_weights(api, info, kWeight, "weight_shape", "W"), attribute_int(api, info, "transB", 0) != 0,
             parse_activation(attribute_string(api, info, "activation"))),
      second_(second, attribute_int(api, info, "second_transB", 0) != 0,
              parse_activation(attribute_string(api, info, "second_activation")), groups_ * kGroup) {
  if (second_.inner() != first_.outer())
    throw InvalidArgument("the second weight takes " + std::to_string(second_.inner()) + " values, the first gives " +
                          std::to_string(first_.outer()));
}

struct SparseMlp::Call {
  Operands given;  // whose bias is that of the first product, and whose residual that of the second
  const float* bias;
  Tiling tiling;
};

// A task is a tile of pixels, from packing to results.
class SparseMlp::Worker {
 public:
  Worker(const SparseMlp& op, const Call& call) : op_(op), call_(call) {}

  void run(int64_t tile) {
    const int64_t inner = op_.first_.inner(), outer = op_.second_.outer(), first = call_.tiling.first(tile);
    const int count = call_.tiling.count(tile);
    vectors_ = call_.tiling.width(tile);
    width_ = vectors_ * kernels().lanes;
    panel_ = scratch_->panel.need(inner * width_);
    sums_ = scratch_->sums.need((outer + op_.groups_ * kGroup) * width_);
    hidden_ = sums_ + outer * width_;
    pack_pixels(panel_, vectors_, call_.given.a + first * inner, inner, count, call_.given.norm);
    const int groups = op_.first_.matrix().groups();
    for (int group = 0; group < groups; group += op_.groups_) {
      for (int i = 0; i < op_.groups_ && group + i < groups; ++i) multiply(group + i, hidden_ + i * kGroup * width_);
      add(op_.second_.matrix().blocks[group / op_.groups_]);
    }
    write(first, count);
  }

 private:
  // A row group of the first product, activated: `sums` begins with it.
  void multiply(int group, float* sums) {
    const Kernels& kernel = kernels();
    const Matrix& matrix = op_.first_.matrix();
    const int64_t row = static_cast<int64_t>(group) * kGroup, rows = std::min<int64_t>(kGroup, matrix.rows - row);
    RowsCall call = call_of(sums - row * width_, call_.given.bias);
    for (const Block& block : matrix.blocks) {
      call.panel = panel_ + static_cast<int64_t>(block.first_plane) * width_;
      call.first = &block == &matrix.blocks.front();
      kernel.rows(vectors_, stretch_of(matrix, block, group, call));
    }
    if (op_.first_.activation() != Activation::kNone)
      kernel.epilogue(sums, sums, nullptr, rows * width_, op_.first_.activation());
  }

  // Those groups, as a block of planes of the second product.
  void add(const Block& block) {
    const Matrix& matrix = op_.second_.matrix();
    RowsCall call = call_of(sums_, call_.bias);
    call.panel = hidden_;
    call.first = &block == &matrix.blocks.front();
    for (int group = 0; group < matrix.groups(); ++group)
      kernels().rows(vectors_, stretch_of(matrix, block, group, call));
  }

  RowsCall call_of(float* sums, const float* bias) const {
    RowsCall call{};
    call.plane_step = width_;
    call.sums = sums;
    call.bias = bias;
    return call;
  }

  void write(int64_t first, int count) {
    const int64_t outer = op_.second_.outer(), at = first * outer;
    const Operands& given = call_.given;
    write_pixels({given.y + at, given.residual == nullptr ? nullptr : given.residual + at, outer, sums_, outer, width_,
                  count, op_.second_.activation()});
  }

  const SparseMlp& op_;
  const Call& call_;
  ScratchLease scratch_;
  int vectors_ = 0, width_ = 0;
  float *panel_ = nullptr, *sums_ = nullptr, *hidden_ = nullptr;
};

void SparseMlp::compute(OrtKernelContext* context) const {
  const int64_t outer = second_.outer();
  const Tensor a = checked_pixels(api_, context, kA, first_.inner());
  const Tensor residual = optional_input(api_, context, kResidual);
  std::vector<int64_t> shape = a.shape;
  shape.back() = outer;
  const float* bias = checked_vector(api_, context, kBias, first_.outer(), "B");
  const float* more_bias = checked_vector(api_, context, kSecondBias, outer, "C");
  const float* more = checked_residual(residual, shape);
  const Norm norm = checked_norm(api_, context, kScale, kShift, first_.inner(), epsilon_);
  const Tensor y = output(api_, context, shape);
  if (y.size() == 0) return;
  const int64_t pixels = y.size() / outer;
  const Call call{
      {a.floats(), pixels, bias, more, norm, y.writable()}, more_bias, Tiling(pixels, kernels().lanes, widest_tile())};
  if (call.tiling.tiles >= kLeastTiles) return run_workers<Worker>(api_, context, call.tiling.tiles, *this, call);
  ScratchLease scratch;
  float* hidden = scratch->panel.need(pixels * first_.outer());
  first_.run(api_, context, {a.floats(), pixels, bias, nullptr, norm, hidden});
  second_.run(api_, context, {hidden, pixels, more_bias, more, {}, y.writable()});
}

}  // namespace sparsify
