// For x86-64 with AVX-512: sixteen lanes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#define LANES 16
#define PRODUCT_VECTORS 12
#define SAMPLED_VECTORS 12
#define SPARSIFY_AVX512

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif

namespace sparsify {
namespace training {
namespace avx512 {
#include "kernels.inl"
}  // namespace avx512
}  // namespace training
}  // namespace sparsify

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsify {
namespace training {

const Kernels kAvx512 = {"avx512",
                         LANES,
                         PRODUCT_VECTORS,
                         SAMPLED_VECTORS,
                         avx512::product,
                         avx512::sampled,
                         avx512::kImageKernels<float>,
                         avx512::kImageKernels<Bfloat16>};

}  // namespace training
}  // namespace sparsify
#endif
