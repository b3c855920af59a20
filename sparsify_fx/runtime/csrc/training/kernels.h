// The inner loops of sparse training, compiled once for every instruction set, and what each is given. README.md
// defines the words.
#pragma once

#include <cstdint>
#include <type_traits>

#include "bfloat16.h"

namespace sparsify {
namespace training {

constexpr int kMostVectors = 12;  // of a tile, for any instruction set
constexpr int kMostLines = 4;

// The non-zeros of some rows, one row after another.
struct Rows {
  const int32_t* offsets;  // where each non-zero reads, in floats after the tile
  const float* values;     // null where none are wanted
  const int32_t* starts;   // row r has the non-zeros from starts[r] to starts[r + 1]
  int count;               // of rows
};

// One tile of the panel times sparse rows: out[row][places[v]] (+)= sum of values * panel.
struct ProductCall {
  Rows rows;
  const float* panel;     // where the tile begins
  int64_t line_step;      // floats from one line of the tile to the next
  float* out;             // of the first row
  int64_t row_step;       // floats from one row of the output to the next
  const int32_t* places;  // of each vector in a row of the output
  const float* bias;      // of the first row, or null
  bool first;             // sums start here, else they go on from what is in `out`
};

// One tile of the panel sampled by rows of gradients: sums[k] += gradients[row] . panel[offsets[k]].
struct SampledCall {
  Rows rows;
  const float* panel;
  int64_t line_step;
  const float* gradients;  // of the first row, where the tile begins
  int64_t row_step;
  int64_t gradient_step;  // floats from one line of the gradients to the next
  float* sums;            // one for each non-zero
};

// Between images, of floats or bfloat16, and panels of floats; and batch norm of them, with floats within.
template <typename T>
struct ImageKernels {
  // target[places[j]][i] = source[i][j] for all lanes i; zeros for rows that do not exist.
  void (*scatter_transposed)(const T* source, int64_t step, int64_t rows, int64_t columns, float* target,
                             const int64_t* places);
  // target[places[i]] = source[i * step], whole vectors of `floats`, for `count` of them.
  void (*scatter_blocks)(const T* source, int64_t step, int64_t count, int64_t floats, float* target,
                         const int64_t* places);
  // target[i][j] = source[j][i]
  void (*transposed)(const float* source, int64_t source_step, int64_t rows, int64_t columns, T* target,
                     int64_t target_step);
  // target[k] = source[k]
  void (*widened)(const T* source, int64_t count, float* target);
  void (*narrowed)(const float* source, int64_t count, T* target);
  // The mean of some values, and the mean square of their differences to it.
  void (*moments)(const T* values, int64_t count, double* mean, double* variance);
  // Sums of gradients, and of their products with values - mean.
  void (*correlations)(const T* gradients, const T* values, int64_t count, float mean, double* of_gradients,
                       double* of_products);
  // out[k] = scale (values[k] - middle) + offset
  void (*scaled)(const T* values, float middle, float scale, float offset, int64_t count, T* out);
  // out[k] = scale gradients[k] + slope (values[k] - middle) + offset
  void (*combined)(const T* gradients, float scale, const T* values, float middle, float slope, float offset,
                   int64_t count, T* out);
};

struct Kernels {
  const char* name;
  int lanes;
  int product_vectors;  // the most of a tile
  int sampled_vectors;
  void (*product)(int lines, int vectors, const ProductCall&);
  void (*sampled)(int lines, int vectors, const SampledCall&);
  ImageKernels<float> floats;
  ImageKernels<Bfloat16> halves;

  template <typename T>
  const ImageKernels<T>& of() const {
    if constexpr (std::is_same_v<T, float>)
      return floats;
    else
      return halves;
  }
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#elif defined(__aarch64__)
extern const Kernels kNeon;
#endif

// Of the instruction set that `sparsify::kernels()` chose.
const Kernels& kernels();

}  // namespace training
}  // namespace sparsify
