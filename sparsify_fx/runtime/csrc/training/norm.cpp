#include "norm.h"

#include <cmath>

#include "kernels.h"
#include "threads.h"

namespace sparsify {
namespace training {

namespace {

// A channel is one thread's, so that sums do not depend on how many there are.
template <typename Work>
void each_channel(int64_t channels, int64_t count, int64_t threads, const Work& work) {
  share_runs(threads, channels * count, channels, [&](int64_t first, int64_t last) {
    for (int64_t channel = first; channel < last; ++channel) work(channel);
  });
}

}  // namespace

void norm_moments(Type type, const void* values, int64_t channels, int64_t count, double epsilon, float* means,
                  float* deviations, float* variances, int64_t threads) {
  with_type(type, [=](auto entry) {
    using T = decltype(entry);
    const ImageKernels<T>& of = kernels().of<T>();
    each_channel(channels, count, threads, [=, &of](int64_t channel) {
      double mean, variance;
      of.moments(static_cast<const T*>(values) + channel * count, count, &mean, &variance);
      means[channel] = static_cast<float>(mean);
      deviations[channel] = static_cast<float>(1 / std::sqrt(variance + epsilon));
      variances[channel] = static_cast<float>(variance);
    });
  });
}

void norm_forward(Type type, const void* values, int64_t channels, int64_t count, const float* means,
                  const float* deviations, const Scales& scales, void* out, int64_t threads) {
  with_type(type, [=](auto entry) {
    using T = decltype(entry);
    const ImageKernels<T>& of = kernels().of<T>();
    each_channel(channels, count, threads, [=, &of](int64_t channel) {
      const float scale = deviations[channel] * (scales.weight ? scales.weight[channel] : 1);
      const float offset = scales.bias ? scales.bias[channel] : 0;
      const int64_t at = channel * count;
      of.scaled(static_cast<const T*>(values) + at, means[channel], scale, offset, count, static_cast<T*>(out) + at);
    });
  });
}

void norm_backward(Type type, const void* gradients, const void* values, int64_t channels, int64_t count,
                   const float* means, const float* deviations, const float* weight, bool by_batch, void* to_values,
                   float* to_weight, float* to_bias, int64_t threads) {
  with_type(type, [=](auto entry) {
    using T = decltype(entry);
    const ImageKernels<T>& of = kernels().of<T>();
    each_channel(channels, count, threads, [=, &of](int64_t channel) {
      const T* given = static_cast<const T*>(gradients) + channel * count;
      const T* x = static_cast<const T*>(values) + channel * count;
      const double deviation = deviations[channel];
      double sum = 0, product = 0;
      if (by_batch || to_weight || to_bias) of.correlations(given, x, count, means[channel], &sum, &product);
      if (to_weight) to_weight[channel] = static_cast<float>(product * deviation);
      if (to_bias) to_bias[channel] = static_cast<float>(sum);
      if (!to_values) return;
      T* back = static_cast<T*>(to_values) + channel * count;
      const double scale = deviation * (weight ? weight[channel] : 1);
      if (!by_batch) return of.scaled(given, 0, static_cast<float>(scale), 0, count, back);
      // (gradient - mean of gradients - (x - mean) deviation^2 mean of products) deviation weight
      const double slope = -scale * deviation * deviation * product / count, offset = -scale * sum / count;
      of.combined(given, static_cast<float>(scale), x, means[channel], static_cast<float>(slope),
                  static_cast<float>(offset), count, back);
    });
  });
}

}  // namespace training
}  // namespace sparsify
