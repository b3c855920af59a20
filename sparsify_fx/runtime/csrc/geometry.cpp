#include "geometry.h"

#include <algorithm>

namespace sparsify {

Activation parse_activation(const std::string& name) {
  if (name.empty()) return Activation::kNone;
  if (name == "Relu") return Activation::kRelu;
  if (name == "Relu6") return Activation::kRelu6;
  if (name == "Silu") return Activation::kSilu;
  if (name == "Gelu") return Activation::kGelu;
  throw InvalidArgument("unknown activation '" + name + "'; known: Relu, Relu6, Silu, Gelu");
}

namespace {

constexpr int64_t kMostTaps = int64_t{1} << 18;  // of a kernel: each may have tables of its own

std::vector<int64_t> ints_or(const OrtApi* api, const OrtKernelInfo* info, const std::string& name, size_t count,
                             int64_t otherwise, int64_t least) {
  std::vector<int64_t> values = attribute_ints(api, info, name.c_str());
  if (values.empty()) values.assign(count, otherwise);
  if (values.size() != count) throw InvalidArgument(name + " needs " + std::to_string(count) + " values");
  for (int64_t value : values)
    if (value < least || value > kMaxLength)
      throw InvalidArgument(name + " holds " + std::to_string(value) + "; expected at least " + std::to_string(least) +
                            " and at most " + std::to_string(kMaxLength));
  return values;
}

}  // namespace

ConvAttributes read_attributes(const OrtApi* api, const OrtKernelInfo* info, const std::vector<int64_t>& weight_shape,
                               const std::string& prefix) {
  ConvAttributes a;
  a.rank = weight_shape.size();
  if (a.rank != 3 && a.rank != 4) throw InvalidArgument("the weight must have 3 or 4 dimensions");
  const size_t spatial = a.rank - 2;
  a.group = attribute_int(api, info, (prefix + "group").c_str(), 1);
  a.strides = ints_or(api, info, prefix + "strides", spatial, 1, 1);
  a.dilations = ints_or(api, info, prefix + "dilations", spatial, 1, 1);
  a.pads = ints_or(api, info, prefix + "pads", 2 * spatial, 0, 0);
  a.activation = parse_activation(attribute_string(api, info, (prefix + "activation").c_str()));
  if (spatial == 1) {
    a.strides.insert(a.strides.begin(), 1);
    a.dilations.insert(a.dilations.begin(), 1);
    a.pads = {0, a.pads[0], 0, a.pads[1]};
  }
  a.out_channels = weight_shape[0];
  a.in_channels = weight_shape[1];
  a.kernel_height = a.rank == 4 ? weight_shape[2] : 1;
  a.kernel_width = weight_shape[a.rank - 1];
  for (int64_t length : weight_shape) checked_most("the weight is too large: a side", length, kMaxLength);
  checked_most("the weight is too large: its number of taps", a.kernel_height * a.kernel_width, kMostTaps);
  if (a.group < 1 || a.out_channels % a.group != 0)
    throw InvalidArgument("group must be positive and divide the number of output channels");
  checked_most("the weight is too large: its number of input channels", a.in_channels * a.group, kMaxLength);
  return a;
}

Geometry geometry_of(const ConvAttributes& a, const Tensor& x) {
  if (x.type != kFloat) throw InvalidArgument("input X must be float32");
  if (x.shape.size() != a.rank)
    throw InvalidArgument("input X has " + std::to_string(x.shape.size()) + " dimensions; the weight has " +
                          std::to_string(a.rank));
  Geometry g{};
  g.images = x.shape[0];
  g.channels = x.shape[1];
  g.height = a.rank == 4 ? x.shape[2] : 1;
  g.width = x.shape[a.rank - 1];
  if (g.channels != a.in_channels * a.group)
    throw InvalidArgument("input X has " + std::to_string(g.channels) + " channels; the weight needs " +
                          std::to_string(a.in_channels * a.group));
  checked_most("input X is too large: its number of lines", g.height, kMaxLength);
  checked_most("input X is too large: its number of columns", g.width, kMaxLength);
  checked_product("input X", x.shape);
  const int64_t room_y = g.height + a.pads[0] + a.pads[2] - (a.dilations[0] * (a.kernel_height - 1) + 1);
  const int64_t room_x = g.width + a.pads[1] + a.pads[3] - (a.dilations[1] * (a.kernel_width - 1) + 1);
  if (room_y < 0 || room_x < 0) throw InvalidArgument("input X with its padding is smaller than the kernel");
  g.stride_y = a.strides[0], g.stride_x = a.strides[1];
  g.pad_y = a.pads[0], g.pad_x = a.pads[1];
  g.out_height = room_y / g.stride_y + 1;
  g.out_width = room_x / g.stride_x + 1;
  g.output_shape = {g.images, a.out_channels, g.out_width};
  if (a.rank == 4) g.output_shape.insert(g.output_shape.begin() + 2, g.out_height);
  checked_product("the result", g.output_shape);
  // A single line has no ends within the image where vectors would stop short.
  const bool point = a.kernel_height == 1 && a.kernel_width == 1;
  if (point && g.out_height == g.height && g.out_width == g.width && g.pad_y == 0 && g.pad_x == 0 && g.stride_y == 1 &&
      g.stride_x == 1) {
    g.width = g.out_width = g.plane();
    g.height = g.out_height = 1;
  }
  return g;
}

const float* checked_bias(const ConvAttributes& a, const Tensor& bias, const char* name) {
  if (!bias) return nullptr;
  if (bias.type != kFloat || bias.shape != std::vector<int64_t>{a.out_channels})
    throw InvalidArgument(std::string("input ") + name + " must be a float32 vector with a value per output channel");
  return bias.floats();
}

const float* checked_residual(const Tensor& residual, const std::vector<int64_t>& output_shape) {
  if (!residual) return nullptr;
  if (residual.type != kFloat || residual.shape != output_shape)
    throw InvalidArgument("input Z must be float32 and have the shape of the output");
  return residual.floats();
}

}  // namespace sparsify
