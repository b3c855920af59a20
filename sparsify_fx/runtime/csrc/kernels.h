// The inner loops, compiled once for every instruction set, and the choice among them.
//
// A tile is `vectors` vectors of `lanes` output pixels. A panel holds the activations of a tile: panel[k][pixel],
// one padded row of vectors * lanes floats for every column k of the matrix.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.h"

namespace sparsify {

enum class Activation : int { kNone, kRelu, kRelu6, kSilu, kGelu };

// Lanes of one vector of a panel row: lane i is plane[source + i * stride] where bit i of `mask` is set. Every vector
// of a tile has equally many pieces, which complete each other; what none of them sets is zero.
struct Piece {
  int64_t source;
  uint32_t mask;
};

// Where the panel rows of one kernel tap come from: the pieces of vector 0, then of vector 1, ...
struct Tap {
  const Piece* pieces;
  bool line;  // the whole row is one run of neighbours that exist
};

// A panel row: a plane (a channel of the image) and a tap.
struct Column {
  int32_t plane, tap;
};

struct PackCall {
  float* panel;
  int vectors;
  const float* planes;  // plane 0
  int64_t plane_size;
  const Column* columns;
  int count;
  const Tap* taps;
  int pieces;  // of each vector
  int64_t stride;
};

struct RowsCall {
  const RowRef* rows;
  int row_count;
  const Nonzero* nonzeros;
  const float* panel;   // of this block
  bool first, last;     // start the sums from the bias, write them to `target`; otherwise `sums` keeps them
  const float* bias;    // of every row, or null
  float* sums;          // [rows][tile]
  float* target;        // of the tile's first pixel, row 0
  int64_t target_step;  // floats from one row to the next
  const float* residual;  // laid out like target, or null
  int pixels;           // that exist in this tile; the rest is not written
  Activation activation;
};

struct Kernels {
  const char* name;
  int lanes;
  int max_vectors;
  void (*rows)(int vectors, const RowsCall&);
  void (*pack)(const PackCall&);
  // panel[k][t] = source[t * step + k] for t < pixels, zeros for the pixels up to `tile`.
  void (*pack_transposed)(float* panel, int tile, const float* source, int64_t step, int pixels, int columns);
  // target[t * step + row] = sums[row][t], for rows < row_count
  void (*unpack_transposed)(float* target, int64_t step, const float* sums, int tile, int pixels, int row_count);
  // Sums of a few pixels become outputs: target[i] = activation(sums[i] + residual[i]).
  void (*finish)(float* target, const float* sums, const float* residual, int64_t count, Activation activation);
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// The fastest that this processor runs, or the one that the environment variable SPARSIFY_FX_ISA names;
// InvalidArgument when it names none that runs here.
const Kernels& kernels();

}  // namespace sparsify
