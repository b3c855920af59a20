// For x86-64 with AVX-512: sixteen lanes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#define LANES 16
#define MAX_VECTORS 8
#define DENSE_VECTORS 4
#define SPARSIFY_AVX512

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

namespace sparsify {
namespace avx512 {
#include "kernels.inl"
}  // namespace avx512
}  // namespace sparsify

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsify {

const Kernels kAvx512Kernels = {"avx512",
                                LANES,
                                MAX_VECTORS,
                                DENSE_VECTORS,
                                true,
                                avx512::rows,
                                avx512::thin,
                                avx512::dots,
                                avx512::few,
                                avx512::pack,
                                avx512::pack_transposed,
                                avx512::unpack_transposed,
                                avx512::epilogue,
                                avx512::copy_lines,
                                avx512::depthwise,
                                avx512::pool,
                                avx512::pack_lines,
                                avx512::pack_even,
                                avx512::dense,
                                avx512::softmax,
                                avx512::normalize};

}  // namespace sparsify
#endif
