#include "ort.h"

namespace sparsify {

namespace {

// True when the attribute could be read; onnxruntime reports a missing attribute as an error.
bool found(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return true;
  ReleaseStatus::call(api, status);
  return false;
}

}  // namespace

int64_t attribute_int(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t otherwise) {
  int64_t value = 0;
  return found(api, GetAttributeInt::call(api, info, name, &value)) ? value : otherwise;
}

std::string attribute_string(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  size_t length = 0;  // with the zero at its end
  if (!found(api, GetAttributeString::call(api, info, name, nullptr, &length)) || length == 0) return "";
  std::string text(length, '\0');
  check(api, GetAttributeString::call(api, info, name, text.data(), &length));
  text.resize(length > 0 ? length - 1 : 0);
  return text;
}

namespace {

// All values of an attribute, read by `Get`.
template <typename Get, typename Value>
std::vector<Value> attribute_values(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  size_t count = 0;
  if (!found(api, Get::call(api, info, name, static_cast<Value*>(nullptr), &count))) return {};
  std::vector<Value> values(count);
  if (count > 0) check(api, Get::call(api, info, name, values.data(), &count));
  return values;
}

}  // namespace

std::vector<int64_t> attribute_ints(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  return attribute_values<GetAttributeInts, int64_t>(api, info, name);
}

std::vector<float> attribute_floats(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  return attribute_values<GetAttributeFloats, float>(api, info, name);
}

Tensor constant_input(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  size_t count = 0;
  check(api, GetKernelInputCount::call(api, info, &count));
  if (index >= count) return {};
  int constant = 0;
  const OrtValue* value = nullptr;
  check(api, GetConstantInput::call(api, info, index, &constant, &value));
  if (constant == 0 || value == nullptr) return {};
  return view(api, value);
}

}  // namespace sparsify
