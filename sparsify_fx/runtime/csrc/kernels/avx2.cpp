// For x86-64 with AVX2 and FMA: eight lanes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#define LANES 8
#define MAX_VECTORS 6
#define DENSE_VECTORS 2
#define SPARSIFY_AVX2

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace sparsify {
namespace avx2 {
#include "kernels.inl"
}  // namespace avx2
}  // namespace sparsify

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsify {

const Kernels kAvx2Kernels = {"avx2",
                              LANES,
                              MAX_VECTORS,
                              DENSE_VECTORS,
                              false,
                              avx2::rows,
                              avx2::thin,
                              avx2::dots,
                              avx2::few,
                              avx2::pack,
                              avx2::pack_transposed,
                              avx2::unpack_transposed,
                              avx2::epilogue,
                              avx2::copy_lines,
                              avx2::depthwise,
                              avx2::pool,
                              avx2::pack_lines,
                              avx2::pack_even,
                              avx2::dense,
                              avx2::softmax,
                              avx2::normalize};

}  // namespace sparsify
#endif
