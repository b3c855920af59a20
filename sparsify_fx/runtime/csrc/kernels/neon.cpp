// For 64-bit ARM: four lanes and, unlike portable.cpp, tiles for its 32 registers.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels.h"

#define LANES 4
#define MAX_VECTORS 8
#define DENSE_VECTORS 4
#define SPARSIFY_NEON

namespace sparsify {
namespace neon {
#include "kernels.inl"
}  // namespace neon

const Kernels kNeonKernels = {"neon",
                              LANES,
                              MAX_VECTORS,
                              DENSE_VECTORS,
                              false,
                              neon::rows,
                              neon::thin,
                              neon::dots,
                              neon::few,
                              neon::pack,
                              neon::pack_transposed,
                              neon::unpack_transposed,
                              neon::epilogue,
                              neon::copy_lines,
                              neon::depthwise,
                              neon::pool,
                              neon::pack_lines,
                              neon::pack_even,
                              neon::dense,
                              neon::softmax,
                              neon::normalize};

}  // namespace sparsify
#endif
