// Batch norm of channels whose values, of some type, lie one after another: [channels, count].
#pragma once

#include <cstdint>

#include "bfloat16.h"

namespace sparsify {
namespace training {

// What the norm of a batch needs, by channel; `weight` and `bias` may be null, for ones and zeros.
struct Scales {
  const float* weight;
  const float* bias;
};

// means[c] and deviations[c] become those of channel c: its mean, and 1 / sqrt(variance + epsilon); variances[c] too.
void norm_moments(Type type, const void* values, int64_t channels, int64_t count, double epsilon, float* means,
                  float* deviations, float* variances, int64_t threads);

// out = (values - means) deviations weight + bias
void norm_forward(Type type, const void* values, int64_t channels, int64_t count, const float* means,
                  const float* deviations, const Scales& scales, void* out, int64_t threads);

// The gradients of values, weight and bias; null where they are not wanted. With `by_batch` the moments are those of
// the values, and depend on them.
void norm_backward(Type type, const void* gradients, const void* values, int64_t channels, int64_t count,
                   const float* means, const float* deviations, const float* weight, bool by_batch, void* to_values,
                   float* to_weight, float* to_bias, int64_t threads);

}  // namespace training
}  // namespace sparsify
