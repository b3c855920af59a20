#include "conv_depthwise.h"

#include <algorithm>

#include "product.h"

namespace sparsify {

namespace {

// Channels of the intermediate result that lie in the cache together.
constexpr int64_t kRows = 64;

bool is_pointwise(const ConvAttributes& a) {
  const auto all_are = [](const std::vector<int64_t>& values, int64_t expected) {
    return std::all_of(values.begin(), values.end(), [&](int64_t value) { return value == expected; });
  };
  return a.rank == 4 && a.kernel_height == 1 && a.kernel_width == 1 && a.group == 1 && all_are(a.strides, 1) &&
         all_are(a.pads, 0);
}

}  // namespace

SparseConvDepthwise::Thin SparseConvDepthwise::thin_of(const Matrix& matrix) {
  Thin thin{};
  const Stretch& stretch = matrix.blocks[0].stretches[0];
  for (; thin.rows < stretch.rows && matrix.refs[stretch.first_row + thin.rows].count <= kThinRow; ++thin.rows)
    thin.nonzeros += matrix.refs[stretch.first_row + thin.rows].count;
  return thin;
}

SparseConvDepthwise::SparseConvDepthwise(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const ConvModel first = read_conv(api, info, kWeight, "W");
  const ConvModel second = read_conv(api, info, kDepthwiseWeight, "D", "depthwise_");
  first_ = first.attributes;
  if (!is_pointwise(first_) || !is_depthwise(second.attributes))
    throw InvalidArgument("needs a 1x1 convolution without stride or padding and a depthwise one of size 3, 5 or 7");
  if (second.attributes.group != first_.out_channels)
    throw InvalidArgument("the depthwise convolution has " + std::to_string(second.attributes.group) +
                          " channels; the first gives " + std::to_string(first_.out_channels));
  if (first_.in_channels > kMaxBlockPlanes) throw InvalidArgument("the weight has too many input channels");
  second_ = Depthwise(second.weights, second.attributes);
  // One block of all planes: rows that are written to the cache at once need no sums in between.
  for (int64_t row = 0; row < first_.out_channels; row += kRows) {
    const int64_t rows = std::min(kRows, first_.out_channels - row);
    matrices_.push_back(build_matrix(take_rows(first.weights, row, rows, first_.in_channels), kMaxBlockPlanes, true));
    thin_.push_back(thin_of(matrices_.back()));
  }
  const Kernels& kernel = kernels();
  max_vectors_ = static_cast<int>(std::clamp<int64_t>(kTileFloats / (kernel.lanes * first_.in_channels),
                                                      std::min(4, kernel.max_vectors), kernel.max_vectors));
  // So many that what they read of all planes stays in the first-level cache.
  run_vectors_ = max_vectors_ * static_cast<int>(std::max<int64_t>(
                                    1, kTileFloats / (max_vectors_ * kernel.lanes * first_.in_channels)));
}

struct SparseConvDepthwise::Call {
  const float *x, *bias, *depthwise_bias;
  float* y;
  Geometry g;  // of the depthwise convolution
  Bands bands;
  int64_t channels;                // of x
  int64_t panel_step, lines_step;  // floats from plane to plane: of the panel, and of the intermediate result

  Call(const SparseConvDepthwise& conv, const Geometry& geometry)
      : g(geometry), bands(conv.second_.attributes(), g, kLinesFloats / std::min(kRows, conv.first_.out_channels)),
        channels(conv.first_.in_channels), panel_step(odd_lines(bands.most_lines() * bands.plan.line)),
        lines_step(odd_lines(bands.before + panel_step + bands.after)) {}
  int64_t tasks(int64_t matrices) const { return g.images * bands.count * matrices; }
};

// Computes the rows of one matrix in one band of an image.
class SparseConvDepthwise::Worker {
 public:
  Worker(const SparseConvDepthwise& conv, const Call& call) : conv_(conv), call_(call) {
    panel_ = scratch_->panel.need(call.channels * call.panel_step);
    lines_ = scratch_->sums.need(kRows * call.lines_step);
  }

  void run(int64_t task) {
    const int64_t matrices = static_cast<int64_t>(conv_.matrices_.size()), place = task / matrices;
    const int64_t image = place / call_.bands.count, band = place % call_.bands.count;
    const int64_t top = call_.bands.first_line(band), end = top + call_.bands.lines(band);
    const int64_t from = std::clamp<int64_t>(top, 0, call_.g.height), to = std::clamp<int64_t>(end, 0, call_.g.height);
    const bool exists = from < to;  // otherwise all lines of the band lie in the padding
    if (band != band_) set_edges(exists ? from - top : 0, exists ? to - top : 0);
    // Neighboring tasks are the matrices of one band, which read the same panel.
    if (place != place_ && exists) copy(image, from, to);
    place_ = place, band_ = band;
    const int64_t number = task % matrices;
    if (exists) multiply(number, (to - from) * call_.bands.plan.line, (from - top) * call_.bands.plan.line);
    convolve(number, image, band);
  }

 private:
  // Zeros into the lines that lie in the padding, all but [from, to), and around them; marks the pixels of the others.
  // They stay for all matrices and images, since `multiply` writes zeros wherever there is no pixel.
  void set_edges(int64_t from, int64_t to) {
    const DepthwisePlan& plan = call_.bands.plan;
    kept_.assign(call_.panel_step, 0);
    for (int64_t line = 0; line < to - from; ++line)
      for (int64_t half = 0; half < plan.stride_x; ++half)
        std::fill_n(kept_.begin() + line * plan.line + half * plan.pitch,
                    (plan.width + plan.stride_x - 1 - half) / plan.stride_x, -1);
    const int64_t begin = call_.bands.before + from * call_.bands.plan.line;
    const int64_t end = call_.bands.before + to * call_.bands.plan.line;
    for (int64_t row = 0; row < kRows; ++row) {
      float* lines = lines_ + row * call_.lines_step;
      std::fill(lines, lines + begin, 0.0f);
      std::fill(lines + end, lines + call_.lines_step, 0.0f);
    }
  }

  void copy(int64_t image, int64_t from, int64_t to) {
    const float* x = call_.x + image * call_.channels * call_.g.plane();
    for (int64_t plane = 0; plane < call_.channels; ++plane)
      kernels().copy_lines(call_.bands.plan, x + plane * call_.g.plane(), from, to - from,
                           panel_ + plane * call_.panel_step);
  }

  // The rows of a matrix for `count` positions of the panel, to where `at` leads in the lines.
  void multiply(int64_t number, int64_t count, int64_t at) {
    const Matrix& matrix = conv_.matrices_[number];
    const Kernels& kernel = kernels();
    const Tiling runs(count, kernel.lanes, conv_.run_vectors_, false);
    RowsCall call{};
    call.plane_step = call_.panel_step;
    call.first = call.last = call.whole = call.cached = true;
    call.bias = call_.bias == nullptr ? nullptr : call_.bias + number * kRows;
    call.target = lines_ + call_.bands.before + at;
    call.target_step = call_.lines_step;
    call.outputs_per_vector = 1;
    call.activation = conv_.first_.activation;
    const RowsCall all = stretch_of(matrix, matrix.blocks[0], 0, call);
    for (int64_t run = 0; run < runs.tiles; ++run)
      multiply_run(conv_.thin_[number], runs.first(run), runs.width(run), all);
  }

  // The same for `vectors` from position `first` on: at once for rows with few non-zeros, otherwise tile by tile.
  void multiply_run(const Thin& thin, int64_t first, int vectors, RowsCall call) {
    const Kernels& kernel = kernels();
    const auto from = [&](int64_t position) {
      call.kept = kept_.data() + position;
      call.panel = panel_ + position;
      return Piece{position, 0, 0};
    };
    const int rows = call.row_count;
    Piece piece = from(first);
    call.outputs = &piece;
    call.row_count = thin.rows;
    kernel.thin(vectors, call);
    call.rows += thin.rows, call.nonzeros += thin.nonzeros, call.row_count = rows - thin.rows;
    const Tiling tiling(static_cast<int64_t>(vectors) * kernel.lanes, kernel.lanes, conv_.max_vectors_, false);
    for (int64_t tile = 0; tile < tiling.tiles && call.row_count > 0; ++tile) {
      piece = from(first + tiling.first(tile));
      kernel.rows(tiling.width(tile), call);
    }
  }

  void convolve(int64_t number, int64_t image, int64_t band) {
    const Bands& bands = call_.bands;
    const Geometry& g = call_.g;
    for (int64_t row = 0; row < conv_.matrices_[number].rows; ++row) {
      const int64_t channel = number * kRows + row;
      const float* lines = lines_ + row * call_.lines_step + bands.before;
      const int64_t at = (image * g.channels + channel) * g.out_plane() + bands.first_output(band) * g.out_width;
      kernels().depthwise(bands.plan, {lines, conv_.second_.weights(channel),
                                       call_.depthwise_bias == nullptr ? 0.0f : call_.depthwise_bias[channel],
                                       call_.y + at, nullptr, bands.outputs(band)});
    }
  }

  const SparseConvDepthwise& conv_;
  const Call& call_;
  ScratchLease scratch_;
  float *panel_, *lines_;
  std::vector<int32_t> kept_;       // -1 for the pixels of the lines, 0 between and after them
  int64_t place_ = -1, band_ = -1;  // whose panel and whose edges are at hand
};

void SparseConvDepthwise::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  geometry_of(first_, x);
  Tensor between = x;  // a shape alone
  between.shape[1] = first_.out_channels;
  Call call(*this, geometry_of(second_.attributes(), between));
  call.x = x.floats();
  call.bias = checked_bias(first_, optional_input(api_, context, kBias), "B");
  call.depthwise_bias = checked_bias(first_, optional_input(api_, context, kDepthwiseBias), "C");
  const Tensor y = output(api_, context, call.g.output_shape);
  if (y.size() == 0) return;
  call.y = y.writable();
  run_workers<Worker>(api_, context, call.tasks(static_cast<int64_t>(matrices_.size())), *this, call);
}

}  // namespace sparsify
