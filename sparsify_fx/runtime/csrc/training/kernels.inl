// The kernels themselves; included by one file per instruction set, which defines LANES, PRODUCT_VECTORS and
// SAMPLED_VECTORS and opens a namespace of its own. All functions are static, so that no instruction of one set can
// slip into another.

#include "../kernels/lanes.inl"
#include "bfloat16.inl"
#include "product.inl"
#include "sampled.inl"
#include "layouts.inl"
#include "norms.inl"

// Calls the template that was compiled for a tile of so many lines and vectors.
#define SPARSIFY_LINE(L, Most, Of, Call)                    \
  switch (vectors) {                                        \
    case 1:                                                 \
      return Of<L, 1>(Call);                                \
    case 2:                                                 \
      if constexpr (L * 2 <= Most) return Of<L, 2>(Call);   \
      break;                                                \
    case 3:                                                 \
      if constexpr (L * 3 <= Most) return Of<L, 3>(Call);   \
      break;                                                \
    case 4:                                                 \
      if constexpr (L * 4 <= Most) return Of<L, 4>(Call);   \
      break;                                                \
    case 5:                                                 \
      if constexpr (L * 5 <= Most) return Of<L, 5>(Call);   \
      break;                                                \
    case 6:                                                 \
      if constexpr (L * 6 <= Most) return Of<L, 6>(Call);   \
      break;                                                \
    case 7:                                                 \
      if constexpr (L * 7 <= Most) return Of<L, 7>(Call);   \
      break;                                                \
    case 8:                                                 \
      if constexpr (L * 8 <= Most) return Of<L, 8>(Call);   \
      break;                                                \
    case 9:                                                 \
      if constexpr (L * 9 <= Most) return Of<L, 9>(Call);   \
      break;                                                \
    case 10:                                                \
      if constexpr (L * 10 <= Most) return Of<L, 10>(Call); \
      break;                                                \
    case 11:                                                \
      if constexpr (L * 11 <= Most) return Of<L, 11>(Call); \
      break;                                                \
    case 12:                                                \
      if constexpr (L * 12 <= Most) return Of<L, 12>(Call); \
      break;                                                \
  }

static void product(int lines, int vectors, const ProductCall& call) {
  if (lines == 1) SPARSIFY_LINE(1, PRODUCT_VECTORS, product_of, call)
  if (lines == 2) SPARSIFY_LINE(2, PRODUCT_VECTORS, product_of, call)
  if (lines == 3) SPARSIFY_LINE(3, PRODUCT_VECTORS, product_of, call)
  if (lines == 4) SPARSIFY_LINE(4, PRODUCT_VECTORS, product_of, call)
}

static void sampled(int lines, int vectors, const SampledCall& call) {
  if (lines == 1) SPARSIFY_LINE(1, SAMPLED_VECTORS, sampled_of, call)
  if (lines == 2) SPARSIFY_LINE(2, SAMPLED_VECTORS, sampled_of, call)
  if (lines == 3) SPARSIFY_LINE(3, SAMPLED_VECTORS, sampled_of, call)
  if (lines == 4) SPARSIFY_LINE(4, SAMPLED_VECTORS, sampled_of, call)
}

template <typename T>
static constexpr ImageKernels<T> kImageKernels = {
    scatter_transposed<T>, scatter_blocks<T>, transposed<T>, widened<T>, narrowed<T>, moments<T>,
    correlations<T>,       scaled<T>,         combined<T>};
