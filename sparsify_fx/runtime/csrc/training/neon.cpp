// For 64-bit ARM: four lanes and, unlike portable.cpp, tiles for its 32 registers.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels.h"

#define LANES 4
#define PRODUCT_VECTORS 12
#define SAMPLED_VECTORS 12
#define SPARSIFY_NEON

namespace sparsify {
namespace training {
namespace neon {
#include "kernels.inl"
}  // namespace neon

const Kernels kNeon = {"neon",
                       LANES,
                       PRODUCT_VECTORS,
                       SAMPLED_VECTORS,
                       neon::product,
                       neon::sampled,
                       neon::kImageKernels<float>,
                       neon::kImageKernels<Bfloat16>};

}  // namespace training
}  // namespace sparsify
#endif
