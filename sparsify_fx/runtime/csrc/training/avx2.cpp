// For x86-64 with AVX2 and FMA: eight lanes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#define LANES 8
#define PRODUCT_VECTORS 12
#define SAMPLED_VECTORS 8
#define SPARSIFY_AVX2

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace sparsify {
namespace training {
namespace avx2 {
#include "kernels.inl"
}  // namespace avx2
}  // namespace training
}  // namespace sparsify

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsify {
namespace training {

const Kernels kAvx2 = {"avx2",
                       LANES,
                       PRODUCT_VECTORS,
                       SAMPLED_VECTORS,
                       avx2::product,
                       avx2::sampled,
                       avx2::kImageKernels<float>,
                       avx2::kImageKernels<Bfloat16>};

}  // namespace training
}  // namespace sparsify
#endif
