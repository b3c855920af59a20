// A sparse matrix times the activations of many pixels: what convolution and matrix product have in common.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "kernels/kernels.h"
#include "ort.h"
#include "scratch.h"

namespace sparsify {

// How wide tiles and blocks of planes are.
struct Shape {
  int max_vectors;
  int block_planes;
};

// For a matrix of which a fraction `density` is non-zero, with `taps` columns in every plane.
Shape choose_shape(double density, double taps);

// Numbers 0, 1, ... count - 1, each given to one of the workers that ask. Each worker goes on from a place of its own:
// neighbouring tasks then fall to the same thread, which has packed what they read, and in each layer to the same one.
class Tasks {
 public:
  explicit Tasks(int64_t count)
      : taken_(static_cast<size_t>(checked_most("the number of tasks", count, kMaxTasks))), left_(count) {}
  int64_t count() const { return static_cast<int64_t>(taken_.size()); }

  // The next free task behind *place, which moves on to it; false when there is none any more.
  bool take(int64_t* place);

 private:
  static constexpr int64_t kMaxTasks = int64_t{1} << 31;
  std::vector<std::atomic<bool>> taken_;
  std::atomic<int64_t> left_;
};

// The tasks of one worker.
class Share {
 public:
  Share(Tasks& tasks, int64_t first) : tasks_(tasks), place_(first) {}
  bool next(int64_t* task) {
    const bool found = tasks_.take(&place_);
    *task = place_;
    return found;
  }

 private:
  Tasks& tasks_;
  int64_t place_;
};

// Runs `worker` on the threads of the session's own pool, each taking tasks until none is left; rethrows what it threw.
// How many threads there are onnxruntime does not tell: up to 64 workers start, and all but as many find nothing to do.
// It gives each thread a run of neighbouring numbers, so that the first worker of each tells where its tasks begin.
void run_workers(const OrtApi* api, const OrtKernelContext* context, int64_t tasks,
                 const std::function<void(Share&)>& worker);

constexpr int64_t kFewTiles = 16;

// A few of something are made an even number: two threads, or four, then have equally much to do.
inline int64_t even(int64_t count) { return count > 1 && count < kFewTiles ? count + count % 2 : count; }

constexpr int64_t kMostPositions = int64_t{1} << 33;

// Cuts `pixels` into tiles of whole vectors, nearly equal and at most max_vectors wide.
struct Tiling {
  int64_t pixels, vectors, tiles;
  int lanes;

  // `shared`: among threads, tile by tile.
  Tiling(int64_t pixels_, int lanes_, int max_vectors, bool shared = true)
      : pixels(pixels_), vectors((pixels_ + lanes_ - 1) / lanes_), tiles((vectors + max_vectors - 1) / max_vectors),
        lanes(lanes_) {
    checked_most("the number of positions of one run", pixels, kMostPositions);  // so that first_vector does not wrap
    if (shared) tiles = even(tiles);
  }
  int64_t first_vector(int64_t tile) const { return vectors * tile / tiles; }
  int64_t first(int64_t tile) const { return first_vector(tile) * lanes; }
  int width(int64_t tile) const { return static_cast<int>(first_vector(tile + 1) - first_vector(tile)); }
  int count(int64_t tile) const {
    const int64_t end = first(tile) + static_cast<int64_t>(width(tile)) * lanes;
    return static_cast<int>((end < pixels ? end : pixels) - first(tile));
  }
};

// Into how many parts the rows are cut, so that a few tiles still keep many threads busy.
int row_parts(const Matrix& matrix, int64_t tiles);

// The call for the rows of one group in one block.
inline RowsCall stretch_of(const Matrix& matrix, const Block& block, int group, RowsCall call) {
  const Stretch& stretch = block.stretches[group];
  call.rows = matrix.refs.data() + stretch.first_row;
  call.row_count = stretch.rows;
  call.nonzeros = matrix.nonzeros.data() + stretch.first_nonzero;
  if (call.places != nullptr) call.places += stretch.first_nonzero;
  return call;
}

// The rows of part `part`, as a range of groups.
inline int first_group(const Matrix& matrix, int part, int parts) {
  return static_cast<int>(static_cast<int64_t>(matrix.groups()) * part / parts);
}

}  // namespace sparsify
