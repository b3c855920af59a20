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

template <typename T>
void Packing::pack_planes(const ImageKernels<T>& kernels, int64_t lanes, const Images& images, int64_t block,
                          int64_t channel, int64_t last, float* floats) const {
  if (all_places_.empty() || images.layout != Layout::kImages) {
    for (; channel < last; ++channel)
      pack_plane(kernels, lanes, images, block, channel, floats + channel * panel_.step);
    return;
  }
  for (int64_t plane = channel; plane < last; ++plane) {
    for (const auto& [at, count] : padding_) std::memset(floats + plane * panel_.step + at, 0, count * sizeof(float));
  }
  const T* entries = static_cast<const T*>(images.entries);
  const int64_t pixels = height_ * width_, image_step = panel_.channels * pixels, first = block * panel_.block;
  for (int64_t lane = 0; lane < panel_.block; lane += lanes) {
    const int64_t left = std::max<int64_t>(0, images_ - first - lane), image = left > 0 ? first + lane : 0;
    kernels.scatter_transposed(entries + image * image_step + channel * pixels, image_step, left,
                               (last - channel) * pixels, floats + lane, all_places_.data() + channel * pixels);
  }
}

template <typename T>
void Packing::pack_plane(const ImageKernels<T>& kernels, int64_t lanes, const Images& images, int64_t block,
                         int64_t channel, float* plane) const {
  const T* entries = static_cast<const T*>(images.entries);
  const int64_t pixels = height_ * width_, first = block * panel_.block;
  for (const auto& [at, count] : padding_) std::memset(plane + at, 0, count * sizeof(float));
  if (images.layout == Layout::kImages) {
    for (int64_t lane = 0; lane < panel_.block; lane += lanes) {
      const int64_t left = std::max<int64_t>(0, images_ - first - lane), image = left > 0 ? first + lane : 0;
      kernels.scatter_transposed(entries + (image * panel_.channels + channel) * pixels, panel_.channels * pixels, left,
                                 pixels, plane + lane, places_.data());
    }
    return;
  }
  const int64_t step = panel_.images();
  const T* from = entries + channel * pixels * step + first;
  if (lines_) {
    const int64_t line = width_ * panel_.block;
    for (int64_t y = 0; y < height_; ++y) kernels.widened(from + y * line, line, plane + places_[y * width_]);
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
      with_type(images.type, [&](auto entry) {
        pack_planes(kernels.of<decltype(entry)>(), kernels.lanes, images, blocks.first + block, first - begin,
                    end - begin, panel + begin * panel_.step);
      });
      first = end;
    }
  });
}

void unpack(const Kernels& kernels, const float* sums, int64_t rows, int64_t images, int64_t count,
            const Result& result, int64_t threads) {
  // Pieces of whole vectors, which a transposition wants, and of a size that stays in the cache.
  constexpr int64_t kPiece = 64;
  const int64_t pieces = (rows + kPiece - 1) / kPiece;
  with_type(result.type, [&](auto entry) {
    using T = decltype(entry);
    T* target = static_cast<T*>(result.entries);
    share_runs(threads, rows * images, pieces, [&](int64_t first, int64_t last) {
      const int64_t end = std::min(rows, last * kPiece);
      if (result.layout == Layout::kSideBySide) {
        const int64_t at = first * kPiece * images;
        return kernels.of<T>().narrowed(sums + at, end * images - at, target + at);
      }
      for (int64_t row = first * kPiece; row < end; row += kPiece)
        kernels.of<T>().transposed(sums + row * images, images, count, std::min(kPiece, rows - row), target + row,
                                   rows);
    });
  });
}

}  // namespace training
}  // namespace sparsify
