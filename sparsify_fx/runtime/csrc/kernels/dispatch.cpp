#include "kernels.h"

#include <cstdlib>
#include <string>

#include "../checked.h"

namespace sparsify {

namespace {

// Fastest first.
const Kernels* const kAll[] = {
#if defined(__x86_64__)
    &kAvx512Kernels,
    &kAvx2Kernels,
#elif defined(__aarch64__)
    &kNeonKernels,
#endif
    &kPortableKernels,
};

bool runs_here(const Kernels& kernel) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (&kernel == &kAvx512Kernels) return __builtin_cpu_supports("avx512f");
  if (&kernel == &kAvx2Kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__aarch64__)
  if (&kernel == &kNeonKernels) return true;  // every such processor has it
#endif
  return &kernel == &kPortableKernels;
}

const Kernels& choose() {
  const char* wanted = std::getenv("SPARSIFY_FX_ISA");
  std::string known;
  for (const Kernels* kernel : kAll) {
    if (!runs_here(*kernel)) continue;
    if (wanted == nullptr || *wanted == '\0' || std::string(wanted) == kernel->name) return *kernel;
    known += std::string(known.empty() ? "" : ", ") + kernel->name;
  }
  throw InvalidArgument("SPARSIFY_FX_ISA is '" + std::string(wanted) + "'; this processor runs: " + known);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace sparsify
