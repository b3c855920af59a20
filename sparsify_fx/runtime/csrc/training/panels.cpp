#include "panels.h"

#include <algorithm>
#include <cstring>

#include "threads.h"

namespace sparsify {
namespace training {

namespace {

// Pixels of a plane, below which planes are transposed together: alone they would leave most lanes of a square empty.
constexpr int64_t kFew = 16;

}  // namespace

Packing::Packing(const Panel& panel, int64_t images, int64_t height, int64_t width)
    : panel_(panel), images_(images), height_(height), width_(width) {
  std::vector<bool> used(panel.plane() / panel.block);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      places_.push_back(panel.place(y, x));
      used[places_.back() / panel.block] = true;
    }
  }
  for (size_t i = 0; i < used.size();) {
    const size_t first = i;
    while (i < used.size() && !used[i]) ++i;
    if (i > first) padding_.push_back({first * panel.block, (i - first) * panel.block});
    while (i < used.size() && used[i]) ++i;
  }
  if (height * width < kFew) {
    for (int64_t channel = 0; channel < panel.channels; ++channel)
      for (int64_t i = 0; i < height * width; ++i) all_places_.push_back(channel * panel.step + places_[i]);
  }
  lines_ = panel.stride == 1 && panel.blocks == 1;
  same_ = lines_ && padding_.empty() && panel.step == panel.plane();
}

void Packing::pack_planes(const Kernels& kernels, const Images& images, int64_t block, int64_t channel, int64_t last,
                          float* floats) const {
  if (all_places_.empty() || images.layout != Layout::kImages) {
    for (; channel < last; ++channel) pack_plane(kernels, images, block, channel, floats + channel * panel_.step);
    return;
  }
  for (int64_t plane = channel; plane < last; ++plane) {
    for (const auto& [at, count] : padding_) std::memset(floats + plane * panel_.step + at, 0, count * sizeof(float));
  }
  const int64_t pixels = height_ * width_, image_step = panel_.channels * pixels, first = block * panel_.block;
  for (int64_t lane = 0; lane < panel_.block; lane += kernels.lanes) {
    const int64_t left = std::max<int64_t>(0, images_ - first - lane), image = left > 0 ? first + lane : 0;
    kernels.scatter_transposed(images.floats + image * image_step + channel * pixels, image_step, left,
                               (last - channel) * pixels, floats + lane, all_places_.data() + channel * pixels);
  }
}

void Packing::pack_plane(const Kernels& kernels, const Images& images, int64_t block, int64_t channel,
                         float* plane) const {
  const int64_t pixels = height_ * width_, first = block * panel_.block;
  for (const auto& [at, count] : padding_) std::memset(plane + at, 0, count * sizeof(float));
  if (images.layout == Layout::kImages) {
    for (int64_t lane = 0; lane < panel_.block; lane += kernels.lanes) {
      const int64_t left = std::max<int64_t>(0, images_ - first - lane), image = left > 0 ? first + lane : 0;
      kernels.scatter_transposed(images.floats + (image * panel_.channels + channel) * pixels, panel_.channels * pixels,
                                 left, pixels, plane + lane, places_.data());
    }
    return;
  }
  const int64_t step = panel_.images();
  const float* from = images.floats + channel * pixels * step + first;
  if (lines_) {
    const int64_t line = width_ * panel_.block;
    for (int64_t y = 0; y < height_; ++y)
      std::memcpy(plane + places_[y * width_], from + y * line, line * sizeof(float));
    return;
  }
  kernels.scatter_blocks(from, step, pixels, panel_.block, plane, places_.data());
}

void Packing::pack(const Kernels& kernels, const Images& images, const Blocks& blocks, float* panel,
                   int64_t threads) const {
  const int64_t planes = blocks.count() * panel_.channels;
  // Whole runs of channels: neighbors share pages.
  share_runs(threads, blocks.count() * panel_.block_step(), planes, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t block = first / panel_.channels, begin = block * panel_.channels;
      const int64_t end = std::min(last, begin + panel_.channels);
      pack_planes(kernels, images, blocks.first + block, first - begin, end - begin, panel + begin * panel_.step);
      first = end;
    }
  });
}

void unpack(const Kernels& kernels, const float* source, int64_t rows, int64_t images, int64_t count, float* target,
            int64_t threads) {
  // Pieces of whole vectors, which a transposition wants, and of a size that stays in the cache.
  constexpr int64_t kPiece = 64;
  const int64_t pieces = (rows + kPiece - 1) / kPiece;
  share_runs(threads, rows * images, pieces, [&](int64_t first, int64_t last) {
    for (int64_t row = first * kPiece; row < std::min(rows, last * kPiece); row += kPiece)
      kernels.transposed(source + row * images, images, count, std::min(kPiece, rows - row), target + row, rows);
  });
}

}  // namespace training
}  // namespace sparsify
