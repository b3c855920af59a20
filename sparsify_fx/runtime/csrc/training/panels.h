// Images into panels and back.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "geometry.h"
#include "kernels.h"

namespace sparsify {
namespace training {

// How the images of a tensor lie: one after another ([image][channel][line][column], as PyTorch's own), or side by side
// ([channel][line][column][image]), which needs as many as the panel has.
enum class Layout : int64_t { kImages = 0, kSideBySide = 1 };

struct Images {
  const void* entries;
  Type type;
  Layout layout;
};

// Some blocks of a panel, one after another.
struct Blocks {
  int64_t first, end;
  int64_t count() const { return end - first; }
};

// How images of some size become a panel.
class Packing {
 public:
  Packing(const Panel& panel, int64_t images, int64_t height, int64_t width);

  // The images are such a panel already.
  bool is_panel(const Images& images) const {
    return same_ && images.layout == Layout::kSideBySide && images.type == Type::kFloat;
  }

  // Writes these blocks to `panel`, whatever it holds.
  void pack(const Kernels& kernels, const Images& images, const Blocks& blocks, float* panel, int64_t threads) const;

 private:
  // The planes of some channels of a block, which begins at `floats`.
  template <typename T>
  void pack_planes(const ImageKernels<T>& kernels, int64_t lanes, const Images& images, int64_t block, int64_t channel,
                   int64_t last, float* floats) const;
  template <typename T>
  void pack_plane(const ImageKernels<T>& kernels, int64_t lanes, const Images& images, int64_t block, int64_t channel,
                  float* plane) const;

  Panel panel_;
  int64_t images_, height_, width_;
  bool same_, lines_;                                 // a panel lies as images side by side do, or each line does
  std::vector<int64_t> places_;                       // of the pixels in a plane
  std::vector<int64_t> all_places_;                   // and in all planes of a block, where they are few
  std::vector<std::pair<int64_t, int64_t>> padding_;  // first, number of floats
};

// Where results go, and how images shall lie there.
struct Result {
  void* entries;  // null: not wanted
  Type type;
  Layout layout;

  // Whether it lies as sums do, which may be made there.
  bool is_sums() const { return layout == Layout::kSideBySide && type == Type::kFloat; }
};

// Writes sums[row][image] to a result of `count` images; there are `images` in a row of the sums.
void unpack(const Kernels& kernels, const float* sums, int64_t rows, int64_t images, int64_t count,
            const Result& result, int64_t threads);

}  // namespace training
}  // namespace sparsify
