// What the operators ask of onnxruntime, with C++ errors instead of status pointers.
#pragma once

#include <string>
#include <vector>

#include "checked.h"
#include "ort_api.h"

namespace sparsify {

inline void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = GetErrorMessage::call(api, status);
  ReleaseStatus::call(api, status);
  throw InvalidArgument(message);
}

// A tensor that onnxruntime owns; `data` is null for an optional input that is not there.
struct Tensor {
  std::vector<int64_t> shape;
  int type = kUndefined;
  void* data = nullptr;

  int64_t size() const { return checked_product("a tensor", shape); }
  const float* floats() const { return static_cast<const float*>(data); }
  float* writable() const { return static_cast<float*>(data); }  // of an output
  explicit operator bool() const { return data != nullptr; }
};

inline Tensor view(const OrtApi* api, const OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, GetTensorTypeAndShape::call(api, value, &info));
  size_t rank = 0;
  OrtStatus* status = GetDimensionsCount::call(api, info, &rank);
  if (status == nullptr) {
    tensor.shape.resize(rank);
    status = GetDimensions::call(api, info, tensor.shape.data(), rank);
  }
  if (status == nullptr) status = GetTensorElementType::call(api, info, &tensor.type);
  ReleaseTensorTypeAndShapeInfo::call(api, info);
  check(api, status);
  check(api, GetTensorMutableData::call(api, const_cast<OrtValue*>(value), &tensor.data));
  static float nothing;  // an empty tensor may have no address, and is still an input that is there
  if (tensor.data == nullptr) tensor.data = &nothing;
  return tensor;
}

inline Tensor input(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check(api, GetInput::call(api, context, index, &value));
  return view(api, value);
}

// Without data where the node has fewer inputs, or leaves this one out.
inline Tensor optional_input(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api, GetInputCount::call(api, context, &count));
  return index < count ? input(api, context, index) : Tensor{};
}

inline Tensor output(const OrtApi* api, OrtKernelContext* context, const std::vector<int64_t>& shape) {
  checked_product("the result", shape);
  OrtValue* value = nullptr;
  try {
    check(api, GetOutput::call(api, context, 0, shape.data(), shape.size(), &value));
  } catch (const InvalidArgument& error) {
    throw InvalidArgument("onnxruntime has no memory for a result of the sizes " + in_brackets(shape) + " (" +
                          error.what() + ")");
  }
  if (value == nullptr) throw InvalidArgument("the result has no name; expected one, for a value that something reads");
  return view(api, value);
}

// Attributes: a missing one gives the default.
int64_t attribute_int(const OrtApi*, const OrtKernelInfo*, const char* name, int64_t otherwise);
std::string attribute_string(const OrtApi*, const OrtKernelInfo*, const char* name);
std::vector<int64_t> attribute_ints(const OrtApi*, const OrtKernelInfo*, const char* name);
std::vector<float> attribute_floats(const OrtApi*, const OrtKernelInfo*, const char* name);

// A constant input at session creation; without data when it is missing or not constant.
Tensor constant_input(const OrtApi*, const OrtKernelInfo*, size_t index);

}  // namespace sparsify
