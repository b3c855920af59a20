// How the taps of a convolution become offsets into one padded copy of the image, the window.
//
// Its positions are the output pixels, line after line, with a few columns and lines more: `pitch` positions to a line,
// `lines` lines to an image. A plane holds, for every position, the input pixel that one phase of the kernel reads
// there, with zeros for the padding. A tap that lies further right or down reads the same plane some positions later,
// so that the input is copied once and not once per tap. With a stride there is a phase for each place that a tap can
// have within a step.
#pragma once

#include <vector>

#include "geometry.h"
#include "kernels/kernels.h"

namespace sparsify {

// The shift of a phase from the place of the output pixel, in input pixels before padding.
struct Shift {
  int64_t y, x;
};

// Which phase every tap belongs to and how many positions down and right it lies there; fixed by the kernel alone.
struct Taps {
  std::vector<Shift> phases;
  std::vector<int32_t> phase, down, right;  // of every tap
  int64_t most_down = 0, most_right = 0;
  bool shared = false;  // otherwise every tap has a phase of its own, at offset 0
};

Taps choose_taps(const ConvAttributes& attributes);

// Sizes of the window for the images of one run.
struct Window {
  int64_t pitch, lines;
  int64_t positions;             // of all images, up to the last output pixel
  int64_t reach;                 // positions that the furthest tap reads beyond a tile
  std::vector<int32_t> offsets;  // of the taps
};

Window make_window(const Taps& taps, const Geometry& g);

// Where the lines of each phase lie, line 0 of the window the first one.
std::vector<LinePhase> line_phases(const Taps& taps, const Window& window, const Geometry& g);

// Where the vectors of some neighboring positions come from or go to, in tables that keep their memory.
class Pieces {
 public:
  // The input pixels of all phases for `vectors` vectors of positions from `first` on.
  void set_inputs(const Taps& taps, const Window& window, const Geometry& g, int64_t first, int vectors, int lanes,
                  bool merge);
  // The output pixels of `count` positions.
  void set_outputs(const Window& window, const Geometry& g, int64_t first, int64_t count, int lanes);

  const std::vector<Phase>& phases() const { return phases_; }
  const Piece* vector(int q) const { return pieces_.data() + static_cast<size_t>(q) * per_vector_; }
  int per_vector() const { return per_vector_; }
  // Whether vectors [q, q + vectors) are one run without gaps.
  bool line(int q, int vectors, int lanes) const;

 private:
  struct Grid;
  void cut(const Window& window, const Grid& grid, int64_t first, int64_t count, int lanes, bool merge);
  void arrange(size_t vectors);

  struct Loose {
    size_t vector;
    Piece piece;
  };
  std::vector<Loose> loose_;
  std::vector<int32_t> filled_;
  std::vector<Piece> pieces_;
  std::vector<Phase> phases_;
  size_t vectors_cut_ = 0;
  int per_vector_ = 1;
};

}  // namespace sparsify
