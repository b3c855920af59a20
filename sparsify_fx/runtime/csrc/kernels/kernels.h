// The inner loops, compiled once for every instruction set, and the choice among them: what each is given. README.md
// defines the words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../matrix.h"

namespace sparsify {

enum class Activation : int { kNone, kRelu, kRelu6, kSilu, kGelu };

// Some lanes of a vector and where their floats are: the lanes in `mask`, `count` of them, belong to the floats at
// `at`, at + stride, at + 2 * stride, ... of an image.
struct Piece {
  int64_t at;
  uint32_t mask;
  int32_t count;
};

// What the planes of one phase are made of: equally many pieces for vector 0, for vector 1, ... Lanes in no piece are
// zero.
struct Phase {
  const Piece* pieces;
  bool line;  // the whole plane is one run of neighbors that exist
};

// What a plane of the panel is packed from.
struct PlaneSource {
  int32_t channel, phase;
};

struct PackCall {
  float* panel;
  int vectors;  // of a plane
  const float* image;
  int64_t channel_step;
  const PlaneSource* sources;
  int count;  // of planes
  const Phase* phases;
  int pieces_per_vector;
  int64_t stride;
};

// Where the lines of a plane of the panel lie in an image: position p of line i is the pixel p * stride_x + x of image
// line y + i * stride_y, for the positions [low, high), and zero for others and in lines that do not exist.
struct LinePhase {
  int64_t y, x, low, high;
};

struct LinesCall {
  float* panel;
  int64_t plane_step;  // floats from one plane to the next; those after the lines become zeros
  const float* image;
  int64_t channel_step;
  int64_t height, step;  // lines of the image; floats from one to the next
  const PlaneSource* sources;
  int count;  // of planes
  const LinePhase* phases;
  int64_t lines, pitch;  // of a plane of the panel
  int64_t stride_y, stride_x;
};

// Even pixels of lines of padded planes, which have room around them: whole vectors are read.
struct EvenCall {
  float* panel;
  int64_t plane_step;  // floats from one plane to the next
  const float* image;
  int64_t channel_step;
  const PlaneSource* sources;
  int count;             // of planes
  const int64_t* lines;  // where line i of phase p begins in channel 0: at lines[p * line_count + i]
  int64_t line_count, pitch;
};

struct RowsCall {
  const RowRef* rows;
  int row_count;
  const Nonzero* nonzeros;
  const Place* places;     // the same as places in the panel; null where they are not known
  const float* panel;      // of this block, at the first position of the tile
  int64_t plane_step;      // floats from one plane of the panel to the next
  const int32_t* offsets;  // of the taps, in floats; null where all are 0, as they are with a `tail`
  int tail;                // lanes of the last vector that may be read; 0 when all may
  bool cached;             // the outputs need no prefetching: they lie in the first caches
  bool first, last;        // start the sums from the bias, write them to `target`; otherwise `sums` keeps them
  const float* bias;       // of every row, or null
  float* sums;             // [rows][tile]
  float* target;           // row 0 of the output; null keeps all in `sums`
  int64_t target_step;     // floats from one row to the next
  const float* residual;   // laid out like target, or null
  const Piece* outputs;    // where the vectors of the tile go in a row
  int outputs_per_vector;
  bool whole;           // all lanes, to neighboring places from outputs->at on
  const int32_t* kept;  // then for each of them -1, or 0 where a zero is to be written; null keeps all
  int written;          // and lanes of the last vector that are written; 0 when all are
  Activation activation;
};

constexpr int kThinRow = 8;

// Some rows of a lean matrix (lean.h) times a few pixels.
struct FewCall {
  const int64_t* starts;   // row r has the non-zeros from starts[r] to starts[r + 1]
  const uint16_t* planes;  // of each non-zero
  const float* values;
  int64_t first_row, end_row;
  const float* panel;
  bool first;         // start the sums from the bias; otherwise they go on
  const float* bias;  // of every row, or null
  float* sums;
};

// A depthwise convolution or pooling of one run: sizes of a channel, and where the columns of the kernel read in a
// copied line.
struct DepthwisePlan {
  int64_t width, height, out_width;
  int64_t stride_y, stride_x;  // 1 or 2
  int kernel;                  // 3, 5 or 7, in both directions; of pooling 2 or 3
  int64_t pitch;               // floats of a copied line, or with a stride of two of each half of it
  int64_t line;                // floats from one copied line to the next
  const int64_t* offsets;      // of the columns of the kernel
  Activation activation;
  float padding;
};

// A band of output lines of one plane, and the copied lines that it reads.
struct DepthwiseCall {
  const float* lines;
  const float* weights;  // column by column
  float bias;
  float* target;          // the first output line
  const float* residual;  // laid out like target, or null
  int64_t out_lines;
};

constexpr int kPoolLines = 4;

// A band of output lines of one plane that holds the largest pixel of every window, and the lines that it reads.
struct PoolCall {
  const float* image;    // line 0
  int64_t height, step;  // lines that exist; floats from one to the next
  int64_t first;         // line of the first window, which need not exist
  float* lines;          // room for kPoolLines copied lines, with padding in and around it
  float* target;         // the first output line
  int64_t out_lines;
};

constexpr int kDenseRows = 6;

// Dense rows times a dense panel, one tile of columns: target[i] = factors[i] * (start[i] + a[i] * panel).
struct DenseCall {
  const float* a;  // [rows][depth]
  int64_t a_step;  // floats from one row to the next, here and below
  int rows, depth;
  const float* panel;  // [depth][whole vectors]
  int64_t panel_step;
  const float* start;  // null: zeros
  int64_t start_step;
  float* target;
  int64_t target_step;
  int columns;           // that are written, in the last vector perhaps not all of it
  const float* factors;  // null: ones
};

// Rows of scores become e^(score - the row's largest), and `factors` one over the sum of each.
struct SoftmaxCall {
  float* scores;
  int64_t step;
  int rows, columns;  // whole vectors are written
  float* factors;
};

// Layer normalization of a panel whose planes are as long as the tile, in place: every lane over all planes.
struct NormCall {
  float* panel;
  int planes;
  const float *scale, *shift;  // of every plane; no shift: null
  float epsilon;
};

struct Kernels {
  const char* name;
  int lanes;
  int max_vectors;
  int dense_vectors;  // the most of a tile of `dense`
  bool masks;         // takes pieces of several runs of lanes, and a tail
  // Rows of a sparse matrix times a tile of the panel, and their epilogue.
  void (*rows)(int vectors, const RowsCall&);
  // The same, without residual, for rows of at most kThinRow non-zeros, and for any number of vectors: rows that go by
  // their number of non-zeros, single taps, all lanes written to neighboring places.
  void (*thin)(int vectors, const RowsCall&);
  // Of one pixel, which is the panel: sums[row] = bias + row times panel[plane].
  void (*dots)(const FewCall&);
  // The same of up to `lanes` pixels side by side: sums[row][lane], with panel[plane][lane].
  void (*few)(const FewCall&);
  void (*pack)(const PackCall&);
  // panel[k][t] = source[t * step + k] for t < pixels, zeros for the pixels up to `tile`.
  void (*pack_transposed)(float* panel, int tile, const float* source, int64_t step, int pixels, int columns);
  // target[t * step + row] = sums[row][t], plus the residual in the same place, for rows < row_count
  void (*unpack_transposed)(float* target, int64_t step, const float* sums, int tile, int pixels, int row_count,
                            const float* residual);
  // Sums that lie side by side become outputs: target[i] = activation(sums[i] + residual[i]).
  void (*epilogue)(float* target, const float* sums, const float* residual, int64_t count, Activation activation);
  // Lines [first, first + count) of an image, as `plan` wants them; zeros for those that do not exist.
  void (*copy_lines)(const DepthwisePlan& plan, const float* image, int64_t first, int64_t count, float* target);
  void (*depthwise)(const DepthwisePlan& plan, const DepthwiseCall& call);
  void (*pool)(const DepthwisePlan& plan, const PoolCall& call);
  void (*pack_lines)(const LinesCall&);
  // After the last plane of the panel there must be room for a vector.
  void (*pack_even)(const EvenCall&);
  void (*dense)(int vectors, const DenseCall&);
  void (*softmax)(const SoftmaxCall&);
  void (*normalize)(int vectors, const NormCall&);
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

// The fastest that this processor runs, or the one that the environment variable SPARSIFY_FX_ISA names;
// InvalidArgument when it names none that runs here.
const Kernels& kernels();

}  // namespace sparsify
