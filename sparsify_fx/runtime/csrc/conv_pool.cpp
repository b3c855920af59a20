#include "conv_pool.h"

#include <algorithm>

#include "conv.h"
#include "conv_matrices.h"
#include "pool.h"
#include "product.h"

namespace sparsify {

namespace {

constexpr int64_t kRows = 32;         // channels of the intermediate result that lie in the cache together
constexpr int64_t kLeastOutputs = 4;  // lines of a band: fewer would compute too many lines twice

// Sizes of an image, a 1x1 convolution's too line by line: the pooling needs its lines.
Geometry lines_of(const ConvAttributes& attributes, const Tensor& x) {
  Geometry g = geometry_of(attributes, x);
  g.height = x.shape[2], g.width = x.shape[3];
  g.out_height = g.output_shape[2], g.out_width = g.output_shape[3];
  return g;
}

Geometry alone(Geometry g) {  // one image
  g.images = g.output_shape[0] = 1;
  return g;
}

}  // namespace

SparseConvPool::SparseConvPool(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const ConvModel model = read_conv(api, info, kWeight, "W");
  conv_ = model.attributes;
  if (conv_.rank != 4 || conv_.group != 1)
    throw InvalidArgument("needs a convolution in two dimensions with one group");
  pool_ = read_pool(api, info, "pool_");
  pool_.group = pool_.out_channels = conv_.out_channels;
  taps_ = choose_taps(conv_);
  const int32_t phases = static_cast<int32_t>(taps_.phases.size());
  if (conv_.in_channels > kMaxBlockPlanes / phases) throw InvalidArgument("the weight has too many input channels");
  for (int64_t row = 0; row < conv_.out_channels; row += kRows) {
    const Rows rows = rows_of(model.weights, conv_, taps_, row, std::min(kRows, conv_.out_channels - row));
    matrices_.push_back(build_matrix(rows, kMaxBlockPlanes, true));
  }
  for (int32_t plane : matrices_.front().planes) sources_.push_back({plane / phases, plane % phases});
}

struct SparseConvPool::Call {
  const float *x, *bias;
  float* y;
  int64_t images;
  Geometry conv, pool;  // of one image
  Window window;
  std::vector<LinePhase> phases;  // of line 0
  Bands bands;                    // of the pooling
  int64_t panel_step, rows_step;  // floats from plane to plane: of what is packed, and of the convolution's result

  Call(const SparseConvPool& op, const Geometry& conv_, const Geometry& pool_)
      : images(conv_.images), conv(alone(conv_)), pool(alone(pool_)), window(make_window(op.taps_, conv)),
        phases(line_phases(op.taps_, window, conv)), bands(op.pool_, pool, 0, true) {
    const int64_t rows = std::min(kRows, op.conv_.out_channels), planes = static_cast<int64_t>(op.sources_.size());
    const int64_t lines =
        std::min(kLinesFloats / (rows * window.pitch), kPanelFloats / (planes * window.pitch) - op.taps_.most_down);
    // As many as fit: each band computes anew the lines that its first windows share with the band before.
    const int64_t outputs = std::max(kLeastOutputs, (lines - bands.kernel) / pool.stride_y + 1);
    bands.count = std::min(even((pool.out_height + outputs - 1) / outputs), pool.out_height);
    const int64_t most = std::min(bands.most_lines(), conv.out_height) * window.pitch;
    panel_step = odd_lines(round_up(most, kernels().lanes) + window.reach);
    rows_step = odd_lines(round_up(most, kernels().lanes));
  }
  int64_t tasks(int64_t matrices) const { return images * bands.count * matrices; }
};

// Computes the rows of one matrix in one band of an image.
class SparseConvPool::Worker {
 public:
  Worker(const SparseConvPool& op, const Call& call) : op_(op), call_(call), phases_(call.phases) {
    panel_ = scratch_->panel.need(static_cast<int64_t>(op.sources_.size()) * call.panel_step + kernels().lanes);
    float* room = scratch_->sums.need(pool_floats(call.bands) + kRows * call.rows_step);
    lines_ = pool_lines(call.bands, room);
    rows_ = room + pool_floats(call.bands);
  }

  void run(int64_t task) {
    const int64_t matrices = static_cast<int64_t>(op_.matrices_.size()), place = task / matrices;
    const int64_t image = place % call_.images, band = place / call_.images, number = task % matrices;
    if (band != band_) set_band(band);
    // Neighboring tasks are the matrices of one band, which read the same panel.
    if (place != place_) pack(image);
    place_ = place;
    multiply(number);
    pool(number, image);
  }

 private:
  void set_band(int64_t band) {
    band_ = band;
    first_ = call_.bands.first_line(band);
    from_ = std::clamp<int64_t>(first_, 0, call_.conv.out_height);
    const int64_t to = std::clamp<int64_t>(first_ + call_.bands.lines(band), 0, call_.conv.out_height);
    height_ = to - from_;
    count_ = (height_ - 1) * call_.window.pitch + call_.conv.out_width;
    for (size_t i = 0; i < phases_.size(); ++i) phases_[i].y = call_.phases[i].y + from_ * call_.conv.stride_y;
  }

  void pack(int64_t image) {
    const Geometry& g = call_.conv;
    kernels().pack_lines({panel_, call_.panel_step, call_.x + image * g.channels * g.plane(), g.plane(), g.height,
                          g.width, op_.sources_.data(), static_cast<int>(op_.sources_.size()), phases_.data(),
                          height_ + op_.taps_.most_down, call_.window.pitch, g.stride_y, g.stride_x});
  }

  // Whole vectors of positions, those between the lines too, which nothing reads.
  void multiply(int64_t number) {
    const Matrix& matrix = op_.matrices_[number];
    const Kernels& kernel = kernels();
    const Tiling tiling(count_, kernel.lanes, kernel.max_vectors);
    RowsCall call{};
    call.plane_step = call_.panel_step;
    call.offsets = call_.window.offsets.data();
    call.first = call.last = call.whole = true;
    call.bias = call_.bias == nullptr ? nullptr : call_.bias + number * kRows;
    call.target = rows_;
    call.target_step = call_.rows_step;
    call.outputs_per_vector = 1;
    call.activation = op_.conv_.activation;
    for (int64_t tile = 0; tile < tiling.tiles; ++tile) {
      const Piece piece{tiling.first(tile), 0, 0};
      call.outputs = &piece;
      call.panel = panel_ + tiling.first(tile);
      for (int group = 0; group < matrix.groups(); ++group)
        kernel.rows(tiling.width(tile), stretch_of(matrix, matrix.blocks[0], group, call));
    }
  }

  void pool(int64_t number, int64_t image) {
    const Bands& bands = call_.bands;
    for (int64_t row = 0; row < op_.matrices_[number].rows; ++row) {
      const int64_t plane = image * op_.conv_.out_channels + number * kRows + row;
      const int64_t at = plane * call_.pool.out_plane() + bands.first_output(band_) * call_.pool.out_width;
      kernels().pool(bands.plan, {rows_ + row * call_.rows_step, height_, call_.window.pitch, first_ - from_, lines_,
                                  call_.y + at, bands.outputs(band_)});
    }
  }

  const SparseConvPool& op_;
  const Call& call_;
  ScratchLease scratch_;
  float *panel_, *lines_, *rows_;
  std::vector<LinePhase> phases_;   // of the band
  int64_t place_ = -1, band_ = -1;  // whose panel and whose phases are at hand
  int64_t first_ = 0, from_ = 0;    // line of the first window, and the first one that exists
  int64_t height_ = 0, count_ = 0;  // lines and positions of the convolution's result
};

void SparseConvPool::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  const Geometry conv = lines_of(conv_, x);
  const float* bias = checked_bias(conv_, optional_input(api_, context, kBias), "B");
  Tensor between = x;  // a shape alone
  between.shape = conv.output_shape;
  const Geometry pool = lines_of(pool_, between);
  const Tensor y = output(api_, context, pool.output_shape);
  if (y.size() == 0) return;
  Call call(*this, conv, pool);
  call.x = x.floats();
  call.bias = bias;
  call.y = y.writable();
  run_workers<Worker>(api_, context, call.tasks(static_cast<int64_t>(matrices_.size())), *this, call);
}

}  // namespace sparsify
