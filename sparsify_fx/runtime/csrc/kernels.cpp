#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace sparsify {

namespace {

const Kernels& choose() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("SPARSIFY_FX_ISA");
  const bool lesser = wanted != nullptr && std::strcmp(wanted, "avx512") != 0;
  const bool least = lesser && std::strcmp(wanted, "avx2") != 0;
  __builtin_cpu_init();
  if (!lesser && __builtin_cpu_supports("avx512f")) return kAvx512Kernels;
  if (!least && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2Kernels;
#endif
  return kPortableKernels;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace sparsify
