// For every processor that GCC or Clang compile for: four lanes, as NEON and SSE have.
#include "kernels.h"

#define LANES 4
#define PRODUCT_VECTORS 12
#define SAMPLED_VECTORS 8

namespace sparsify {
namespace training {
namespace portable {
#include "kernels.inl"
}  // namespace portable

const Kernels kPortable = {"portable",
                           LANES,
                           PRODUCT_VECTORS,
                           SAMPLED_VECTORS,
                           portable::product,
                           portable::sampled,
                           portable::kImageKernels<float>,
                           portable::kImageKernels<Bfloat16>};

}  // namespace training
}  // namespace sparsify
