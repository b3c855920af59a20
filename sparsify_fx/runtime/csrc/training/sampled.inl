// sums[i] += the lanes of a, b, c and d, for i = 0, 1, 2, 3.
#if defined(SPARSIFY_AVX2) || defined(SPARSIFY_AVX512)
#if defined(SPARSIFY_AVX512)
static inline __m256 half(Vec v) {
  __m256 halves[2];
  __builtin_memcpy(halves, &v, sizeof v);
  return _mm256_add_ps(halves[0], halves[1]);
}
#else
static inline __m256 half(Vec v) { return (__m256)v; }
#endif
static inline __m128 four_sums(Vec a, Vec b, Vec c, Vec d) {
  const __m256 x = half(a), y = half(b), z = half(c), w = half(d);
  const __m256 xy = _mm256_add_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
  const __m256 zw = _mm256_add_ps(_mm256_unpacklo_ps(z, w), _mm256_unpackhi_ps(z, w));
  const __m256 sums = _mm256_add_ps(_mm256_shuffle_ps(xy, zw, 0x44), _mm256_shuffle_ps(xy, zw, 0xee));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}
static inline void add_sums(float* sums, Vec a, Vec b, Vec c, Vec d) {
  _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), four_sums(a, b, c, d)));
}
#elif defined(SPARSIFY_NEON)
static inline void add_sums(float* sums, Vec a, Vec b, Vec c, Vec d) {
  const float32x4_t ab = vpaddq_f32((float32x4_t)a, (float32x4_t)b), cd = vpaddq_f32((float32x4_t)c, (float32x4_t)d);
  store(sums, load(sums) + (Vec)vpaddq_f32(ab, cd));
}
#else
static inline float sum_of(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
static inline void add_sums(float* sums, Vec a, Vec b, Vec c, Vec d) {
  sums[0] += sum_of(a);
  sums[1] += sum_of(b);
  sums[2] += sum_of(c);
  sums[3] += sum_of(d);
}
#endif

// The gradients of a row stay in registers; four non-zeros of it are summed side by side.
template <int L, int R>
static void sampled_of(const SampledCall& call) {
  constexpr int V = L * R;
  const Rows& rows = call.rows;
  const float* gradients = call.gradients;
  for (int row = 0; row < rows.count; ++row, gradients += call.row_step) {
    int32_t k = rows.starts[row];
    const int32_t end = rows.starts[row + 1];
    if (k == end) continue;
    Vec tile[V];
#pragma GCC unroll 4
    for (int line = 0; line < L; ++line) {
#pragma GCC unroll 12
      for (int v = 0; v < R; ++v) tile[line * R + v] = load(gradients + line * call.gradient_step + v * LANES);
    }
    const auto dot = [&](int32_t at) __attribute__((always_inline)) {
      const float* from = call.panel + rows.offsets[at];
      Vec sum = all(0.0f);
#pragma GCC unroll 4
      for (int line = 0; line < L; ++line) {
#pragma GCC unroll 12
        for (int v = 0; v < R; ++v) sum += tile[line * R + v] * load(from + line * call.line_step + v * LANES);
      }
      return sum;
    };
    for (; k + 4 <= end; k += 4) {
      const Vec a = dot(k), b = dot(k + 1), c = dot(k + 2), d = dot(k + 3);
      add_sums(call.sums + k, a, b, c, d);
    }
    if (k < end) {
      const Vec none = all(0.0f), a = dot(k), b = k + 1 < end ? dot(k + 1) : none, c = k + 2 < end ? dot(k + 2) : none;
      float last[4] = {};
      add_sums(last, a, b, c, none);
      for (int i = 0; k < end; ++k, ++i) call.sums[k] += last[i];
    }
  }
}
