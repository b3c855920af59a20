#include "window.h"

#include <algorithm>
#include <map>
#include <utility>

namespace sparsify {

namespace {

// Beyond that a window holds more padding and unread pixels than taps save.
constexpr int64_t kMostDown = 8, kMostRight = 64;

constexpr int64_t kMostVectors = int64_t{1} << 26;  // in the tables of one worker

int64_t ceil_divide(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

// The pitch of a window along one axis: `out` outputs, taps up to `most` positions away, an image that covers the
// positions [low, high) at most in any phase. What a tap reads after the end of a line is the beginning of the next
// one, which serves as long as both are padding: the `low` positions there serve for as many here.
int64_t pitch_of(int64_t out, int64_t most, int64_t low, int64_t high) {
  const int64_t read = out + most;
  return std::max(out, std::min(read, std::max(high, read - low)));
}

}  // namespace

Taps choose_taps(const ConvAttributes& a) {
  Taps taps;
  const int64_t down = (a.kernel_height - 1) * a.dilations[0] / a.strides[0];
  const int64_t right = (a.kernel_width - 1) * a.dilations[1] / a.strides[1];
  std::map<std::pair<int64_t, int64_t>, size_t> known;
  // Far taps, as of large dilations, get a phase each: a copy of the image per tap, of no more than the output pixels.
  const bool share = taps.shared =
      down <= kMostDown && right <= kMostRight && a.kernel_height * a.kernel_width <= kMaxTaps;
  for (int64_t ky = 0; ky < a.kernel_height; ++ky)
    for (int64_t kx = 0; kx < a.kernel_width; ++kx) {
      const int64_t y = ky * a.dilations[0], x = kx * a.dilations[1];
      const Shift shift = share ? Shift{y % a.strides[0], x % a.strides[1]} : Shift{y, x};
      const size_t next = taps.phases.size();
      // A phase is known by where its taps lie within a step of the stride; they are whole steps apart, that is
      // positions.
      const size_t phase = share ? known.try_emplace({shift.y, shift.x}, next).first->second : next;
      if (phase == taps.phases.size()) taps.phases.push_back(shift);
      taps.phase.push_back(static_cast<int32_t>(phase));
      taps.down.push_back(static_cast<int32_t>(share ? y / a.strides[0] : 0));
      taps.right.push_back(static_cast<int32_t>(share ? x / a.strides[1] : 0));
      taps.most_down = std::max<int64_t>(taps.most_down, taps.down.back());
      taps.most_right = std::max<int64_t>(taps.most_right, taps.right.back());
    }
  return taps;
}

Window make_window(const Taps& taps, const Geometry& g) {
  int64_t low_y = INT64_MAX, low_x = INT64_MAX, high_y = 0, high_x = 0;
  // Where the image begins and ends at the furthest, in any phase.
  for (const Shift& shift : taps.phases) {
    low_y = std::min(low_y, std::max<int64_t>(0, ceil_divide(g.pad_y - shift.y, g.stride_y)));
    low_x = std::min(low_x, std::max<int64_t>(0, ceil_divide(g.pad_x - shift.x, g.stride_x)));
    high_y = std::max(high_y, ceil_divide(g.height + g.pad_y - shift.y, g.stride_y));
    high_x = std::max(high_x, ceil_divide(g.width + g.pad_x - shift.x, g.stride_x));
  }
  Window window;
  window.pitch = pitch_of(g.out_width, taps.most_right, low_x, high_x);
  window.lines = pitch_of(g.out_height, taps.most_down, low_y, high_y);
  // Images follow each other as lines do, and tiles run across all of them: a small image fills no tile alone.
  window.positions = ((g.images - 1) * window.lines + g.out_height - 1) * window.pitch + g.out_width;
  window.reach = taps.most_down * window.pitch + taps.most_right;
  for (size_t tap = 0; tap < taps.phase.size(); ++tap)
    window.offsets.push_back(static_cast<int32_t>(taps.down[tap] * window.pitch + taps.right[tap]));
  return window;
}

std::vector<LinePhase> line_phases(const Taps& taps, const Window& window, const Geometry& g) {
  std::vector<LinePhase> phases;
  for (const Shift& shift : taps.phases) {
    const int64_t x = shift.x - g.pad_x;
    phases.push_back({shift.y - g.pad_y, x, std::clamp<int64_t>(ceil_divide(-x, g.stride_x), 0, window.pitch),
                      std::clamp<int64_t>(ceil_divide(g.width - x, g.stride_x), 0, window.pitch)});
  }
  return phases;
}

// Pixels [low, high) of the rows and columns of a window exist; pixel (0, 0) of image 0 is at `base`.
struct Pieces::Grid {
  int64_t images, low_y, high_y, low_x, high_x;
  int64_t base, image_step, line_step, step;
};

// Appends the pieces of `count` positions, from a new vector on; positions that do not exist are in none.
void Pieces::cut(const Window& window, const Grid& grid, int64_t first, int64_t count, int lanes, bool merge) {
  int64_t image = first / (window.pitch * window.lines);
  int64_t y = first / window.pitch % window.lines, x = first % window.pitch;
  int lane = 0;
  size_t vector = vectors_cut_;
  // In runs that end with the line of the window or with the vector, whichever is first.
  for (int64_t done = 0; done < count;) {
    const int64_t run = std::min<int64_t>({window.pitch - x, count - done, lanes - lane});
    const int64_t from = std::max(x, grid.low_x), to = std::min(x + run, grid.high_x);
    if (image < grid.images && y >= grid.low_y && y < grid.high_y && from < to) {
      const int64_t at = grid.base + image * grid.image_step + y * grid.line_step + from * grid.step;
      const uint32_t mask = static_cast<uint32_t>(((uint64_t{1} << (to - from)) - 1) << (lane + from - x));
      // Runs of one vector that lie side by side in memory are one piece, though lanes between them belong to none: the
      // end of one line and the start of the next one.
      Loose* last = loose_.empty() ? nullptr : &loose_.back();
      if (merge && last != nullptr && last->vector == vector && last->piece.at + last->piece.count * grid.step == at) {
        last->piece.mask |= mask;
        last->piece.count += static_cast<int32_t>(to - from);
      } else {
        loose_.push_back({vector, {at, mask, static_cast<int32_t>(to - from)}});
      }
    }
    done += run;
    x += run;
    lane += static_cast<int>(run);
    if (lane == lanes) lane = 0, ++vector;
    if (x == window.pitch) x = 0, ++y;
    if (y == window.lines) y = 0, ++image;
  }
  vectors_cut_ += static_cast<size_t>((count + lanes - 1) / lanes);
}

// Equally many pieces for every vector, so that packing needs no counts; those to spare have no lanes.
void Pieces::arrange(size_t vectors) {
  filled_.assign(vectors, 0);
  for (const Loose& each : loose_) ++filled_[each.vector];
  per_vector_ = std::max(1, *std::max_element(filled_.begin(), filled_.end()));
  pieces_.assign(vectors * per_vector_, Piece{0, 0, 0});
  filled_.assign(vectors, 0);
  for (const Loose& each : loose_) pieces_[each.vector * per_vector_ + filled_[each.vector]++] = each.piece;
  loose_.clear();
  vectors_cut_ = 0;
}

void Pieces::set_inputs(const Taps& taps, const Window& window, const Geometry& g, int64_t first, int vectors,
                        int lanes, bool merge) {
  const int64_t wanted = static_cast<int64_t>(taps.phases.size()) * vectors;
  checked_most("the number of vectors that a tile of the convolution reads", wanted, kMostVectors);
  for (size_t phase = 0; phase < taps.phases.size(); ++phase) {
    const Shift shift = taps.phases[phase];
    const int64_t y = shift.y - g.pad_y, x = shift.x - g.pad_x;
    const Grid grid{g.images,
                    std::max<int64_t>(0, ceil_divide(-y, g.stride_y)),
                    ceil_divide(g.height - y, g.stride_y),
                    std::max<int64_t>(0, ceil_divide(-x, g.stride_x)),
                    ceil_divide(g.width - x, g.stride_x),
                    y * g.width + x,
                    g.channels * g.plane(),
                    g.stride_y * g.width,
                    g.stride_x};
    cut(window, grid, first, static_cast<int64_t>(vectors) * lanes, lanes, merge);
  }
  arrange(taps.phases.size() * vectors);
  phases_.clear();
  for (size_t phase = 0; phase < taps.phases.size(); ++phase)
    phases_.push_back(
        {vector(static_cast<int>(phase * vectors)), line(static_cast<int>(phase * vectors), vectors, lanes)});
}

void Pieces::set_outputs(const Window& window, const Geometry& g, int64_t first, int64_t count, int lanes) {
  const int64_t channels = g.output_shape[1];
  cut(window, {g.images, 0, g.out_height, 0, g.out_width, 0, channels * g.out_plane(), g.out_width, 1}, first, count,
      lanes, true);
  arrange(static_cast<size_t>((count + lanes - 1) / lanes));
}

bool Pieces::line(int q, int vectors, int lanes) const {
  if (per_vector_ != 1) return false;
  const Piece* pieces = vector(q);
  for (int i = 0; i < vectors; ++i)
    if (pieces[i].count != lanes || pieces[i].at != pieces[0].at + static_cast<int64_t>(i) * lanes) return false;
  return true;
}

}  // namespace sparsify
