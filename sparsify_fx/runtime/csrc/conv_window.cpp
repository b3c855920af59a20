#include "conv_window.h"

#include <algorithm>

namespace sparsify {

namespace {

// Copying the pixels of a tile pays where vectors are not aligned to cache lines and this many rows read each of them.
constexpr double kFewUses = 9;

// So many tiles are one band where threads would else write to the same cache lines, where planes meet.
constexpr int64_t kSmallPlane = 4;

// Tiles to a band: enough that what the window reads beyond the band is a small part of it.
int64_t tiles_in_band(const Window& window, const Matrix& matrix, int tile) {
  // With four times the reach, a fifth of the panel is packed again for the next band.
  const int64_t wanted = (4 * window.reach + tile - 1) / tile;
  const int64_t room = kPanelFloats / std::max(1, matrix.widest_block()) - window.reach;
  return std::max<int64_t>(1, std::min(wanted, room / tile));
}

}  // namespace

WindowConv::WindowConv(const ConvModel& model)
    : attributes_(model.attributes), point_(attributes_.kernel_height * attributes_.kernel_width == 1),
      weight_(model.weights, attributes_, point_) {}

void WindowConv::compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const {
  const Geometry g = geometry_of(attributes_, inputs.x);
  const float* bias = checked_bias(attributes_, inputs.bias, "B");
  const float* residual = checked_residual(inputs.residual, g.output_shape);
  const Tensor y = output(api, context, g.output_shape);
  if (y.size() == 0) return;
  const Call call(*this, g, inputs.x.floats(), bias, residual, y.writable());
  run_workers<Worker>(api, context, call.tasks(), *this, call);
}

void WindowConv::Call::share(const WindowConv& conv, int64_t count) {
  bands = count;
  parts = row_parts(conv.weight_.matrices[0], bands * matrices);
}

int64_t WindowConv::Call::count_bands(const WindowConv& conv) const {
  const Matrix& matrix = conv.weight_.matrices[0];
  const bool torn = tiling.tiles <= kSmallPlane && g.out_plane() % kernels().lanes != 0;
  // Threads then share the rows. That each packs all planes costs less as long as there are more rows than planes.
  if (torn && conv.point_ && matrix.rows >= static_cast<int64_t>(matrix.planes.size())) return 1;
  const int64_t band = tiles_in_band(window, matrix, conv.weight_.max_vectors * kernels().lanes);
  return std::min(even((tiling.tiles + band - 1) / band), tiling.tiles);
}

WindowConv::Call::Call(const WindowConv& conv, const Geometry& geometry, const float* x_, const float* bias_,
                       const float* residual_, float* y_)
    : g(geometry), x(x_), bias(bias_), residual(residual_), y(y_), window(make_window(conv.weight_.taps, g)),
      tiling(window.positions, kernels().lanes, conv.weight_.max_vectors),
      matrices(static_cast<int64_t>(conv.weight_.matrices.size())) {
  share(conv, count_bands(conv));
  // What a 1x1 kernel reads for an output pixel is the pixel in the same place. Vectors that begin anywhere cross cache
  // lines, which costs every row that reads them; packing costs once.
  in_place = conv.point_ && g.stride_y == 1 && g.stride_x == 1 && g.pad_y == 0 && g.pad_x == 0 &&
             g.out_height == g.height && g.out_width == g.width &&
             (g.plane() % kernels().lanes == 0 || conv.weight_.uses_per_plane < kFewUses);
}

void WindowConv::Worker::set_band(int64_t band) {
  const Kernels& kernel = kernels();
  const Tiling& tiling = call_.tiling;
  band_ = band;
  first_tile_ = call_.first_tile(band), end_tile_ = call_.first_tile(band + 1);
  const int64_t first = tiling.first(first_tile_);
  const int64_t vectors = tiling.first_vector(end_tile_) - tiling.first_vector(first_tile_);
  const int64_t count = std::min(vectors * kernel.lanes, tiling.pixels - first);
  // Tables of pieces are the same for all channels: made once for a band, they serve every matrix and block.
  outputs_.set_outputs(call_.window, call_.g, first, count, kernel.lanes);
  // A tile that runs on into the next image has no single address; nor may lanes after the last pixel be read.
  in_place_ = call_.in_place && first / call_.g.plane() == (first + count - 1) / call_.g.plane() &&
              end_tile_ == first_tile_ + 1 && (kernel.masks || count == vectors * kernel.lanes);
  if (in_place_) return;
  window_vectors_ = static_cast<int>(vectors + (call_.window.reach + kernel.lanes - 1) / kernel.lanes);
  // An odd number of vectors, as odd_lines in cache.h; a single tile keeps within the cache without.
  if (end_tile_ > first_tile_ + 1) window_vectors_ |= 1;
  inputs_.set_inputs(conv_.weight_.taps, call_.window, call_.g, first, window_vectors_, kernel.lanes, kernel.masks);
}

const float* WindowConv::Worker::panel_of(const Block& block, bool pack) {
  const Kernels& kernel = kernels();
  const Geometry& g = call_.g;
  const float* planes = call_.x + matrix_ * conv_.weight_.channels * g.plane();
  if (in_place_) {
    const int64_t first = call_.tiling.first(first_tile_);
    return planes + (first / g.plane() * g.channels + block.first_plane) * g.plane() + first % g.plane();
  }
  const Matrix& matrix = conv_.weight_.matrices[matrix_];
  const int64_t width = static_cast<int64_t>(window_vectors_) * kernel.lanes;
  // All blocks stay in the panel when other parts of the rows will need them again.
  const bool keep = call_.parts > 1;
  const int64_t rows = keep ? static_cast<int64_t>(matrix.planes.size()) : matrix.widest_block();
  float* panel = scratch_->panel.need(rows * width) + (keep ? block.first_plane * width : 0);
  if (pack || !keep)
    kernel.pack({panel, window_vectors_, planes, g.plane(), conv_.weight_.sources[matrix_].data() + block.first_plane,
                 block.planes, inputs_.phases().data(), inputs_.per_vector(), g.stride_x});
  return panel;
}

void WindowConv::Worker::multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows) {
  const Kernels& kernel = kernels();
  const Geometry& g = call_.g;
  const Tiling& tiling = call_.tiling;
  const Matrix& matrix = conv_.weight_.matrices[matrix_];
  const int vectors = tiling.width(tile);
  const int64_t in_band = tiling.first_vector(tile) - tiling.first_vector(first_tile_);
  const int64_t rows = matrix.rows, first_row = matrix_ * conv_.weight_.rows, output = first_row * g.out_plane();
  RowsCall call{};
  call.panel = panel + in_band * kernel.lanes;
  call.plane_step = in_place_ ? g.plane() : static_cast<int64_t>(window_vectors_) * kernel.lanes;
  call.offsets = call_.window.offsets.size() == 1 ? nullptr : call_.window.offsets.data();
  call.tail = in_place_ ? tiling.count(tile) % kernel.lanes : 0;
  call.first = &block == &matrix.blocks.front();
  call.last = &block == &matrix.blocks.back();
  call.bias = call_.bias == nullptr ? nullptr : call_.bias + first_row;
  if (matrix.blocks.size() > 1) {
    const int64_t band = tiling.first_vector(end_tile_) - tiling.first_vector(first_tile_);
    call.sums = scratch_->sums.need(rows * band * kernel.lanes) + rows * in_band * kernel.lanes;
  }
  call.target = call_.y + output;
  call.target_step = g.out_plane();
  call.residual = call_.residual == nullptr ? nullptr : call_.residual + output;
  call.outputs = outputs_.vector(static_cast<int>(in_band));
  call.outputs_per_vector = outputs_.per_vector();
  call.whole = outputs_.line(static_cast<int>(in_band), vectors, kernel.lanes);
  call.activation = conv_.attributes_.activation;
  for (int i = first_rows; i < end_rows; ++i) kernel.rows(vectors, stretch_of(matrix, block, i, call));
}

void WindowConv::Worker::run(int64_t task) {
  const int part = static_cast<int>(task % call_.parts);
  const int64_t band = task / call_.parts / call_.matrices, number = task / call_.parts % call_.matrices;
  const bool fresh = band != band_ || number != matrix_;
  if (band != band_) set_band(band);
  matrix_ = number;
  const Matrix& matrix = conv_.weight_.matrices[number];
  const int from = first_group(matrix, part, call_.parts), to = first_group(matrix, part + 1, call_.parts);
  for (const Block& block : matrix.blocks) {
    const float* panel = panel_of(block, fresh);
    for (int64_t tile = first_tile_; tile < end_tile_; ++tile) multiply(block, panel, tile, from, to);
  }
}

}  // namespace sparsify
