// What Python calls through ctypes (sparsify_fx/living/products/native.py). Every call gives null, or what was wrong.
#include <exception>
#include <string>

#include "geometry.h"
#include "layer.h"
#include "norm.h"

namespace {

using namespace sparsify::training;

thread_local std::string problem;

// No exception may pass through ctypes.
template <typename Work>
const char* told(const Work& work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    problem = error.what();
    return problem.c_str();
  }
}

Geometry geometry_of(const int64_t* sizes) {
  return {sizes[0], sizes[1], sizes[2],  sizes[3],  sizes[4],  sizes[5],  sizes[6],  sizes[7],
          sizes[8], sizes[9], sizes[10], sizes[11], sizes[12], sizes[13], sizes[14], sizes[15]};
}

Images images(const void* entries, int64_t type, int64_t layout) {
  return {entries, static_cast<Type>(type), static_cast<Layout>(layout)};
}

Result result(void* entries, int64_t type, int64_t layout) {
  return {entries, static_cast<Type>(type), static_cast<Layout>(layout)};
}

}  // namespace

#define SPARSIFY_FX_API extern "C" __attribute__((visibility("default")))

// *count becomes how many images may lie side by side in a layer of these sizes, which are in the order of Geometry.
SPARSIFY_FX_API const char* sparsify_fx_layer_images(const int64_t* sizes, int64_t* count) {
  return told([=] {
    const Geometry geometry = geometry_of(sizes);
    check(geometry);
    *count = input_panel(geometry, images_in_block(geometry, kernels().lanes)).images();
  });
}

// *layer becomes a layer of these sizes with the places of its living weights.
SPARSIFY_FX_API const char* sparsify_fx_layer(const int64_t* sizes, const int32_t* places, int64_t living,
                                              void** layer) {
  return told([=] { *layer = new Layer(geometry_of(sizes), places, living); });
}

SPARSIFY_FX_API void sparsify_fx_layer_free(void* layer) { delete static_cast<Layer*>(layer); }

// `type` is that of all images.
SPARSIFY_FX_API const char* sparsify_fx_layer_forward(const void* layer, const float* one, const float* other,
                                                      int64_t type, const void* input, int64_t input_layout,
                                                      const float* bias, void* out, int64_t out_layout,
                                                      int64_t threads) {
  return told([=] {
    static_cast<const Layer*>(layer)->forward({one, other}, images(input, type, input_layout), bias,
                                              result(out, type, out_layout), threads);
  });
}

// Gradients that are null are not wanted.
SPARSIFY_FX_API const char* sparsify_fx_layer_backward(const void* layer, const float* one, const float* other,
                                                       int64_t type, const void* input, int64_t input_layout,
                                                       const void* gradient, int64_t gradient_layout, void* to_input,
                                                       int64_t to_input_layout, float* of_one, float* of_other,
                                                       int64_t threads) {
  return told([=] {
    static_cast<const Layer*>(layer)->backward({one, other}, images(input, type, input_layout),
                                               images(gradient, type, gradient_layout),
                                               result(to_input, type, to_input_layout), {of_one, of_other}, threads);
  });
}

// `type` is that of values and of their gradients.
SPARSIFY_FX_API const char* sparsify_fx_norm_moments(int64_t type, const void* values, int64_t channels, int64_t count,
                                                     const double* epsilon, float* means, float* deviations,
                                                     float* variances, int64_t threads) {
  return told([=] {
    norm_moments(static_cast<Type>(type), values, channels, count, *epsilon, means, deviations, variances, threads);
  });
}

SPARSIFY_FX_API const char* sparsify_fx_norm_forward(int64_t type, const void* values, int64_t channels, int64_t count,
                                                     const float* means, const float* deviations, const float* weight,
                                                     const float* bias, void* out, int64_t threads) {
  return told([=] {
    norm_forward(static_cast<Type>(type), values, channels, count, means, deviations, {weight, bias}, out, threads);
  });
}

// Gradients that are null are not wanted.
SPARSIFY_FX_API const char* sparsify_fx_norm_backward(int64_t type, const void* gradients, const void* values,
                                                      int64_t channels, int64_t count, const float* means,
                                                      const float* deviations, const float* weight, int64_t by_batch,
                                                      void* to_values, float* to_weight, float* to_bias,
                                                      int64_t threads) {
  return told([=] {
    norm_backward(static_cast<Type>(type), gradients, values, channels, count, means, deviations, weight, by_batch != 0,
                  to_values, to_weight, to_bias, threads);
  });
}
