// For every processor that GCC or Clang compile for: four lanes, as NEON and SSE have.
#include "kernels.h"

#define LANES 4
#define MAX_VECTORS 4
#define DENSE_VECTORS 2

namespace sparsify {
namespace portable {
#include "kernels.inl"
}  // namespace portable

const Kernels kPortableKernels = {"portable",
                                  LANES,
                                  MAX_VECTORS,
                                  DENSE_VECTORS,
                                  false,
                                  portable::rows,
                                  portable::thin,
                                  portable::dots,
                                  portable::few,
                                  portable::pack,
                                  portable::pack_transposed,
                                  portable::unpack_transposed,
                                  portable::epilogue,
                                  portable::copy_lines,
                                  portable::depthwise,
                                  portable::pool,
                                  portable::pack_lines,
                                  portable::pack_even,
                                  portable::dense,
                                  portable::softmax,
                                  portable::normalize};

}  // namespace sparsify
