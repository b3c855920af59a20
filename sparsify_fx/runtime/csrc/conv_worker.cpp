#include "conv_worker.h"

#include <algorithm>

namespace sparsify {

namespace {

constexpr int64_t kPanelFloats = int64_t{1} << 18;  // half of a second level cache

// Copying the pixels of a tile pays where vectors are not aligned to cache lines and this many rows read each of them.
constexpr double kFewUses = 9;

// So many tiles are one band where threads would else write to the same cache lines, where planes meet.
constexpr int64_t kSmallPlane = 4;

// Tiles to a band: enough that what the window reads beyond the band is a small part of it.
int64_t tiles_in_band(const Window& window, const Matrix& matrix, int tile) {
  const int64_t wanted = (4 * window.reach + tile - 1) / tile;
  const int64_t room = kPanelFloats / std::max(1, matrix.widest_block()) - window.reach;
  return std::max<int64_t>(1, std::min(wanted, room / tile));
}

}  // namespace

void SparseConv::Call::share(const SparseConv& conv, int64_t count) {
  bands = count;
  parts = row_parts(conv.matrices_[0], bands * matrices);
}

int64_t SparseConv::Call::count_bands(const SparseConv& conv) const {
  const Matrix& matrix = conv.matrices_[0];
  const bool torn = tiling.tiles <= kSmallPlane && g.out_plane() % kernels().lanes != 0;
  // Threads then share the rows. That each packs all planes costs less as long as there are more rows than planes.
  if (torn && conv.direct_ && matrix.rows >= static_cast<int64_t>(matrix.planes.size())) return 1;
  const int64_t band = tiles_in_band(window, matrix, conv.max_vectors_ * kernels().lanes);
  return std::min(even((tiling.tiles + band - 1) / band), tiling.tiles);
}

SparseConv::Call::Call(const SparseConv& conv, const Geometry& geometry, const float* input, const float* bias_,
                       const float* residual_, float* output)
    : g(geometry), x(input), bias(bias_), residual(residual_), y(output), window(make_window(conv.taps_, g)),
      tiling(window.positions, kernels().lanes, conv.max_vectors_),
      matrices(static_cast<int64_t>(conv.matrices_.size())) {
  share(conv, count_bands(conv));
  in_place = conv.direct_ && g.stride_y == 1 && g.stride_x == 1 && g.pad_y == 0 && g.pad_x == 0 &&
             g.out_height == g.height && g.out_width == g.width &&
             (g.plane() % kernels().lanes == 0 || conv.uses_per_plane_ < kFewUses);
}

void SparseConv::Worker::set_band(int64_t band) {
  const Kernels& kernel = kernels();
  const Tiling& tiling = call_.tiling;
  band_ = band;
  first_tile_ = call_.first_tile(band), end_tile_ = call_.first_tile(band + 1);
  const int64_t first = tiling.first(first_tile_);
  const int64_t vectors = tiling.first_vector(end_tile_) - tiling.first_vector(first_tile_);
  const int64_t count = std::min(vectors * kernel.lanes, tiling.pixels - first);
  outputs_.set_outputs(call_.window, call_.g, first, count, kernel.lanes);
  in_place_ = call_.in_place && first / call_.g.plane() == (first + count - 1) / call_.g.plane() &&
              end_tile_ == first_tile_ + 1 && (kernel.masks || count == vectors * kernel.lanes);
  if (in_place_) return;
  window_vectors_ = static_cast<int>(vectors + (call_.window.reach + kernel.lanes - 1) / kernel.lanes);
  // An odd number of cache lines, or the rows of all planes would compete for the same few places of the cache.
  if (end_tile_ > first_tile_ + 1) window_vectors_ |= 1;
  inputs_.set_inputs(conv_.taps_, call_.window, call_.g, first, window_vectors_, kernel.lanes, kernel.masks);
}

const float* SparseConv::Worker::panel_of(const Block& block, bool pack) {
  const Kernels& kernel = kernels();
  const Geometry& g = call_.g;
  const float* planes = call_.x + matrix_ * conv_.matrix_channels_ * g.plane();
  if (in_place_) {
    const int64_t first = call_.tiling.first(first_tile_);
    return planes + (first / g.plane() * g.channels + block.first_plane) * g.plane() + first % g.plane();
  }
  const Matrix& matrix = conv_.matrices_[matrix_];
  const int64_t width = static_cast<int64_t>(window_vectors_) * kernel.lanes;
  // All blocks stay in the panel when other parts of the rows will need them again.
  const bool keep = call_.parts > 1;
  const int64_t rows = keep ? static_cast<int64_t>(matrix.planes.size()) : matrix.widest_block();
  float* panel = scratch_->panel.need(rows * width) + (keep ? block.first_plane * width : 0);
  if (pack || !keep)
    kernel.pack({panel, window_vectors_, planes, g.plane(), conv_.columns_[matrix_].data() + block.first_plane,
                 block.planes, inputs_.phases().data(), inputs_.per_vector(), g.stride_x});
  return panel;
}

void SparseConv::Worker::multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows) {
  const Kernels& kernel = kernels();
  const Geometry& g = call_.g;
  const Tiling& tiling = call_.tiling;
  const Matrix& matrix = conv_.matrices_[matrix_];
  const int vectors = tiling.width(tile);
  const int64_t in_band = tiling.first_vector(tile) - tiling.first_vector(first_tile_);
  const int64_t rows = matrix.rows, first_row = matrix_ * conv_.matrix_rows_, output = first_row * g.out_plane();
  RowsCall call{};
  call.panel = panel + in_band * kernel.lanes;
  call.plane_step = in_place_ ? g.plane() : static_cast<int64_t>(window_vectors_) * kernel.lanes;
  call.offsets = call_.window.offsets.data();
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

void SparseConv::Worker::run(int64_t task) {
  const int part = static_cast<int>(task % call_.parts);
  const int64_t band = task / call_.parts / call_.matrices, number = task / call_.parts % call_.matrices;
  const bool fresh = band != band_ || number != matrix_;
  if (band != band_) set_band(band);
  matrix_ = number;
  const Matrix& matrix = conv_.matrices_[number];
  const int from = first_group(matrix, part, call_.parts), to = first_group(matrix, part + 1, call_.parts);
  for (const Block& block : matrix.blocks) {
    const float* panel = panel_of(block, fresh);
    for (int64_t tile = first_tile_; tile < end_tile_; ++tile) multiply(block, panel, tile, from, to);
  }
}

}  // namespace sparsify
