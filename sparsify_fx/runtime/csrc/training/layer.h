// A sparse layer in training: its forward and its gradients.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "geometry.h"
#include "kernels.h"
#include "matrix.h"
#include "panels.h"

namespace sparsify {
namespace training {

// Values of the living entries: one[k], or one[k] other[k].
struct Values {
  const float *one, *other;
};

// The gradients of one[k] and of other[k], null where it is.
struct Gradients {
  float *one, *other;  // null: not wanted
};

class Layer {
 public:
  // `places` are those of the living entries in the flattened weight, rising. Throws InvalidArgument.
  Layer(const Geometry& geometry, const int32_t* places, int64_t count);

  // Images may lie side by side where this is their number.
  int64_t images() const { return input_.images(); }

  // All of these take up to so many threads, and give the same bits for any number of them. Throw std::bad_alloc.
  void forward(const Values& values, const Images& input, const float* bias, const Result& out, int64_t threads) const;
  void backward(const Values& values, const Images& input, const Images& gradient, const Result& to_input,
                const Gradients& to_values, int64_t threads) const;

 private:
  struct Decoded {
    int32_t row, channel, y, x;
  };

  Decoded decoded(int32_t place) const;
  const std::vector<Matrix>& transposed() const;
  int64_t operations() const;  // of the forward
  std::vector<const float*> ordered_transposed(const Values& values) const;
  void write_gradients(const Values& values, const float* sums, const Gradients& to_values) const;

  Geometry geometry_;
  std::vector<int32_t> places_;
  const Kernels& kernels_;
  int64_t block_;
  Panel input_, gradient_;
  Packing pack_input_, pack_gradient_;
  std::unique_ptr<Matrix> forward_;
  // Made when it is first needed: the first layer of a net has no gradient of its input.
  mutable std::once_flag once_;
  mutable std::vector<Matrix> transposed_;
};

}  // namespace training
}  // namespace sparsify
