// A sparse matrix times activations that lie pixel after pixel: [pixels, K] times [K, N]. Two operators have it.
#pragma once

#include <mutex>

#include "lean.h"
#include "product.h"
#include "weights.h"

namespace sparsify {

// Layer normalization of each pixel before the product, (a - mean) / sqrt(variance + epsilon) * scale + shift, with a
// scale and a shift of length K.
struct Norm {
  const float *scale = nullptr, *shift = nullptr;  // null: no normalization; no shift
  float epsilon = 0;

  explicit operator bool() const { return scale != nullptr; }
};

// y = activation(norm(a) W + bias + residual); `bias` and `residual` may be null.
struct Operands {
  const float* a;
  int64_t pixels;
  const float *bias, *residual;
  Norm norm;
  float* y;
};

// The first tile pixels of `a`, transposed and normalized: a panel of all planes.
void pack_pixels(float* panel, int vectors, const float* a, int64_t inner, int pixels, const Norm& norm);

// Sums of `rows` rows and a tile of pixels, which change, become outputs pixel after pixel; `y` and `residual` begin
// with the first of each, `step` floats from one pixel to the next.
struct PixelsCall {
  float* y;
  const float* residual;  // or null
  int64_t step;
  float* sums;
  int64_t rows;
  int width, pixels;  // floats of a row of sums, and pixels among them
  Activation activation;
};

void write_pixels(const PixelsCall& call);

class MatrixProduct {
 public:
  // Blocks of `block_planes`, or of as many as are best where that is 0. `transposed`: the weight is [N, K], as in
  // Gemm.
  MatrixProduct(const Weights& weights, bool transposed, Activation activation, int block_planes = 0);

  int64_t inner() const { return inner_; }
  int64_t outer() const { return outer_; }
  Activation activation() const { return activation_; }
  const Matrix& matrix() const { return matrix_; }

  void run(const OrtApi* api, const OrtKernelContext* context, const Operands& operands) const;

 private:
  struct Call;
  class TileWorker;
  class PixelWorker;

  const LeanMatrix& lean_matrix() const;

  int64_t inner_, outer_;  // K, N
  Activation activation_;
  Matrix matrix_;  // N rows, K columns
  int max_vectors_;
  // Made when it is first needed: most models never see a few pixels.
  mutable std::once_flag once_;
  mutable LeanMatrix lean_;
};

}  // namespace sparsify
