// The entry point that onnxruntime looks for, and the operators of the domain sparsify_fx.
#include <exception>
#include <mutex>
#include <new>

#include "attention.h"
#include "coded.h"
#include "conv.h"
#include "conv_depthwise.h"
#include "conv_pool.h"
#include "conv_sum.h"
#include "halve_planes.h"
#include "matmul.h"
#include "mlp.h"
#include "planes.h"
#include "pool.h"

namespace sparsify {

namespace {

// An error of ours as one of onnxruntime's, which names the operator.
OrtStatus* status_of(const OrtApi* api, const char* name, std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const InvalidArgument& e) {
    return CreateStatus::call(api, kInvalidArgument, (std::string("sparsify_fx.") + name + ": " + e.what()).c_str());
  } catch (const std::bad_alloc&) {
    return CreateStatus::call(
        api, kFail, (std::string("sparsify_fx.") + name + ": there is not enough memory for these sizes").c_str());
  } catch (const std::exception& e) {
    return CreateStatus::call(api, kFail, (std::string("sparsify_fx.") + name + ": " + e.what()).c_str());
  }
}

template <typename Operator>
struct Kernel {
  const OrtApi* api;
  Operator op;
};

// The table that describes `Operator` to onnxruntime.
template <typename Operator>
OrtCustomOp describe(uint32_t version) {
  OrtCustomOp op{};
  op.version = version;
  op.GetName = [](const OrtCustomOp*) { return Operator::kName; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return Operator::kInputs; };
  // A weight, which gaps follow, is float32 or bytes: onnxruntime takes any type there, and weights.cpp says what it
  // does not know.
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return Operator::is_gaps(index) ? kUint8 : Operator::is_gaps(index + 1) ? kUndefined : kFloat;
  };
  // The activations and the weight. What else an operator cannot do without, as the sum its input P, it asks for
  // itself.
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) { return index < 2 ? kRequired : kOptional; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kFloat; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kRequired; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatus* {
    try {
      *kernel = new Kernel<Operator>{api, Operator(api, info)};
      return nullptr;
    } catch (...) {
      return status_of(api, Operator::kName, std::current_exception());
    }
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
    const auto* self = static_cast<const Kernel<Operator>*>(kernel);
    try {
      self->op.compute(context);
      return nullptr;
    } catch (...) {
      return status_of(self->api, Operator::kName, std::current_exception());
    }
  };
  if constexpr (Operator::kSumInPlace) {
    // The sum may overwrite the residual, where nobody else needs it: half of the memory that an addition touches.
    if (version >= kInPlaceVersion) {
      op.GetMayInplace = [](int** inputs, int** outputs) -> size_t {
        *inputs = new int(Operator::kResidual);
        *outputs = new int(0);
        return 1;
      };
      op.ReleaseMayInplace = [](int* inputs, int* outputs) { delete inputs, delete outputs; };
    }
  }
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel<Operator>*>(kernel); };
  return op;
}

OrtStatus* create_domain(const OrtApi* api, uint32_t version, OrtCustomOpDomain** domain) {
  static const OrtCustomOp operators[] = {
      describe<SparseConv>(version), describe<SparseMatMul>(version),   describe<SparseConvDepthwise>(version),
      describe<MaxPool>(version),    describe<SparseConvPool>(version), describe<SparseConvSum>(version),
      describe<PadPlanes>(version),  describe<UnpadPlanes>(version),    describe<HalvePlanes>(version),
      describe<Attention>(version),  describe<SparseMlp>(version),
  };
  OrtCustomOpDomain* created = nullptr;
  if (OrtStatus* status = CreateCustomOpDomain::call(api, "sparsify_fx", &created)) return status;
  for (const OrtCustomOp& op : operators)
    if (OrtStatus* status = CustomOpDomainAdd::call(api, created, &op)) {
      ReleaseCustomOpDomain::call(api, created);
      return status;
    }
  *domain = created;
  return nullptr;
}

}  // namespace

}  // namespace sparsify

// The instruction set in use: "avx512", "avx2" or "portable"; empty when SPARSIFY_FX_ISA names none that runs here.
extern "C" __attribute__((visibility("default"))) const char* sparsify_fx_instruction_set() {
  try {
    return sparsify::kernels().name;
  } catch (...) {
    return "";
  }
}

// The newest layout of weights that this library reads. Libraries without this function read the first one.
extern "C" __attribute__((visibility("default"))) int sparsify_fx_newest_format() { return sparsify::kNewestFormat; }

extern "C" __attribute__((visibility("default"))) sparsify::OrtStatus* RegisterCustomOps(
    sparsify::OrtSessionOptions* options, const sparsify::OrtApiBase* base) {
  using namespace sparsify;
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {  // onnxruntime is older than 1.17; only the entries of version 1 are needed to say so
    api = base->GetApi(1);
    return api == nullptr ? nullptr
                          : CreateStatus::call(api, kFail, "sparsify_fx.runtime needs onnxruntime 1.17 or later");
  }
  try {
    kernels();
  } catch (...) {
    return status_of(api, "runtime", std::current_exception());
  }
  // The domain must live as long as any session options that point to it, so it lives for good.
  static std::mutex mutex;
  static OrtCustomOpDomain* domain = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  const uint32_t version = base->GetApi(kInPlaceVersion) == nullptr ? kApiVersion : kInPlaceVersion;
  if (domain == nullptr)
    if (OrtStatus* status = create_domain(api, version, &domain)) return status;
  return AddCustomOpDomain::call(api, options, domain);
}
