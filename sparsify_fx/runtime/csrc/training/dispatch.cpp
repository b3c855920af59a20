#include "../kernels/kernels.h"
#include "kernels.h"

#include <cstring>

namespace sparsify {
namespace training {

const Kernels& kernels() {
  const char* name = sparsify::kernels().name;
#if defined(__x86_64__)
  if (std::strcmp(name, kAvx512.name) == 0) return kAvx512;
  if (std::strcmp(name, kAvx2.name) == 0) return kAvx2;
#endif
  return kPortable;
}

}  // namespace training
}  // namespace sparsify
