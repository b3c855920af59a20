// The few parts of onnxruntime's C interface that a custom operator needs.
//
// onnxruntime ships no headers in its Python wheel. Its interface is one table of function pointers, `OrtApi`, that
// only ever grows at its end, so an entry keeps its place for good; the struct `OrtCustomOp` grows at its end too, and
// its field `version` says how much of it we filled in. The first is declared here up to API version 17 (onnxruntime
// 1.17), the first with KernelContext_ParallelFor; the second up to version 18, which is used where it exists. The
// places were counted in the public header onnxruntime_c_api.h; tests/runtime/other_versions.py loads the library into
// several onnxruntime releases.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsify {

constexpr uint32_t kApiVersion = 17, kInPlaceVersion = 18;

// Opaque types of onnxruntime.
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;

struct OrtApi {
  const void* entries[275];
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };

// struct OrtCustomOp of API version 18, field by field.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  ElementType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ElementType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);  // since 16
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);                                        // since 16
  OrtStatus* (*InferOutputShape)(const OrtCustomOp*, OrtShapeInferContext*);                             // since 17
  int (*GetStartVersion)(const OrtCustomOp*);                                                            // since 17
  int (*GetEndVersion)(const OrtCustomOp*);                                                              // since 17
  // Arrays of inputs and of the outputs that may take over their memory; returns how many.
  size_t (*GetMayInplace)(int** inputs, int** outputs);  // since 18
  void (*ReleaseMayInplace)(int* inputs, int* outputs);  // since 18
  size_t (*GetAliasMap)(int** inputs, int** outputs);    // since 18
  void (*ReleaseAliasMap)(int* inputs, int* outputs);    // since 18
};

// Calls the entry at a place of the table with the types that onnxruntime documents for it.
template <int Index, typename Result, typename... Arguments>
struct Entry {
  static Result call(const OrtApi* api, Arguments... arguments) {
    using Function = Result (*)(Arguments...);
    return reinterpret_cast<Function>(const_cast<void*>(api->entries[Index]))(arguments...);
  }
};

using CreateStatus = Entry<0, OrtStatus*, int, const char*>;
using GetErrorMessage = Entry<2, const char*, const OrtStatus*>;
using CreateCustomOpDomain = Entry<26, OrtStatus*, const char*, OrtCustomOpDomain**>;
using CustomOpDomainAdd = Entry<27, OrtStatus*, OrtCustomOpDomain*, const OrtCustomOp*>;
using AddCustomOpDomain = Entry<28, OrtStatus*, OrtSessionOptions*, OrtCustomOpDomain*>;
using GetTensorMutableData = Entry<51, OrtStatus*, OrtValue*, void**>;
using GetTensorElementType = Entry<60, OrtStatus*, const OrtTensorTypeAndShapeInfo*, int*>;
using GetDimensionsCount = Entry<61, OrtStatus*, const OrtTensorTypeAndShapeInfo*, size_t*>;
using GetDimensions = Entry<62, OrtStatus*, const OrtTensorTypeAndShapeInfo*, int64_t*, size_t>;
using GetTensorTypeAndShape = Entry<65, OrtStatus*, const OrtValue*, OrtTensorTypeAndShapeInfo**>;
using GetAttributeInt = Entry<86, OrtStatus*, const OrtKernelInfo*, const char*, int64_t*>;
using GetAttributeString = Entry<87, OrtStatus*, const OrtKernelInfo*, const char*, char*, size_t*>;
using GetInputCount = Entry<88, OrtStatus*, const OrtKernelContext*, size_t*>;
using GetInput = Entry<90, OrtStatus*, const OrtKernelContext*, size_t, const OrtValue**>;
using GetOutput = Entry<91, OrtStatus*, OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**>;
using ReleaseStatus = Entry<93, void, OrtStatus*>;
using ReleaseTensorTypeAndShapeInfo = Entry<99, void, OrtTensorTypeAndShapeInfo*>;
using ReleaseCustomOpDomain = Entry<101, void, OrtCustomOpDomain*>;
using GetAttributeFloats = Entry<162, OrtStatus*, const OrtKernelInfo*, const char*, float*, size_t*>;
using GetAttributeInts = Entry<163, OrtStatus*, const OrtKernelInfo*, const char*, int64_t*, size_t*>;
using GetKernelInputCount = Entry<230, OrtStatus*, const OrtKernelInfo*, size_t*>;
using GetConstantInput = Entry<249, OrtStatus*, const OrtKernelInfo*, size_t, int*, const OrtValue**>;
using ParallelFor = Entry<274, OrtStatus*, const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*>;

}  // namespace sparsify
