#include "../kernels/kernels.h"
#include "kernels.h"

#include <cstring>

namespace sparsify {
namespace training {

const Kernels& kernels() {
  const Kernels* const all[] = {
#if defined(__x86_64__)
      &kAvx512,
      &kAvx2,
#elif defined(__aarch64__)
      &kNeon,
#endif
  };
  for (const Kernels* kernel : all) {
    if (std::strcmp(sparsify::kernels().name, kernel->name) == 0) return *kernel;
  }
  return kPortable;
}

}  // namespace training
}  // namespace sparsify
