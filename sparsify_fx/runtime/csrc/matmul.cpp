#include "matmul.h"

#include "geometry.h"

namespace sparsify {

Tensor checked_pixels(const OrtApi* api, const OrtKernelContext* context, size_t number, int64_t inner) {
  const Tensor a = input(api, context, number);
  if (a.type != kFloat || a.shape.empty() || a.shape.back() != inner)
    throw InvalidArgument("input A must be float32 with a last dimension of " + std::to_string(inner));
  checked_product("input A", a.shape);
  return a;
}

const float* checked_vector(const OrtApi* api, const OrtKernelContext* context, size_t number, int64_t length,
                            const char* name) {
  const Tensor given = optional_input(api, context, number);
  if (!given) return nullptr;
  if (given.type != kFloat || given.shape != std::vector<int64_t>{length})
    throw InvalidArgument(std::string("input ") + name + " must be a float32 vector of " + std::to_string(length) +
                          " values");
  return given.floats();
}

float norm_epsilon(const OrtApi* api, const OrtKernelInfo* info) {
  const std::vector<float> given = attribute_floats(api, info, "norm_epsilon");
  if (given.empty()) return 1e-5f;
  if (given.size() != 1 || !(given[0] >= 0)) throw InvalidArgument("norm_epsilon must be one number, 0 or more");
  return given[0];
}

Norm checked_norm(const OrtApi* api, const OrtKernelContext* context, size_t scale, size_t shift, int64_t inner,
                  float epsilon) {
  const Norm norm{checked_vector(api, context, scale, inner, "S"), checked_vector(api, context, shift, inner, "T"),
                  epsilon};
  if (norm.shift != nullptr && !norm) throw InvalidArgument("input T needs input S, the scale of a normalization");
  return norm;
}

SparseMatMul::SparseMatMul(const OrtApi* api, const OrtKernelInfo* info)
    : api_(api), epsilon_(norm_epsilon(api, info)),
      product_(constant_weights(api, info, kWeight, "weight_shape", "W"), attribute_int(api, info, "transB", 0) != 0,
               parse_activation(attribute_string(api, info, "activation"))) {}

void SparseMatMul::compute(OrtKernelContext* context) const {
  const Tensor a = checked_pixels(api_, context, kA, product_.inner());
  const Tensor residual = optional_input(api_, context, kResidual);
  std::vector<int64_t> shape = a.shape;
  shape.back() = product_.outer();
  const float* bias = checked_vector(api_, context, kBias, product_.outer(), "B");
  const float* more = checked_residual(residual, shape);
  const Norm norm = checked_norm(api_, context, kScale, kShift, product_.inner(), epsilon_);
  const Tensor y = output(api_, context, shape);
  if (y.size() == 0) return;
  product_.run(api_, context, {a.floats(), y.size() / product_.outer(), bias, more, norm, y.writable()});
}

}  // namespace sparsify
