// One pixel alone: each row of the matrix is a dot product with gathered activations.

#if defined(SPARSIFY_AVX512)
static inline Vec gathered(const Nonzero* entry, int count, const float* x) {
  const int low = count < 8 ? count : 8, high = count - low;
  const auto first = [](int n) { return static_cast<__mmask8>((1u << n) - 1); };
  const __m512 a = _mm512_castsi512_ps(_mm512_maskz_loadu_epi64(first(low), entry));
  const __m512 b = _mm512_castsi512_ps(_mm512_maskz_loadu_epi64(first(high), entry + 8));
  // Even floats are planes (and taps above them), odd ones values; entries that are not there are plane 0 times 0.
  const __m512i places =
      _mm512_and_si512(_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88)), _mm512_set1_epi32(0xffff));
  return (Vec)_mm512_mul_ps(_mm512_shuffle_ps(a, b, 0xdd),
                            _mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, places, x, 4));
}
#else
static inline Vec gathered(const Nonzero* entry, int count, const float* x) {
  float values[LANES] = {};
  for (int i = 0; i < count && i < LANES; ++i) values[i] = entry[i].value * x[entry[i].plane];
  return load(values);
}
#endif

static inline Vec plus(Vec a, Vec b) { return a + b; }
static inline float added(Vec v) { return folded(v, plus)[0]; }

// sums[row] = bias + the row times the panel, which is one vector of activations; or more of it, when not the first.
static void dots(const RowsCall& call) {
  const Nonzero* entry = call.nonzeros;
  for (int i = 0; i < call.row_count; ++i) {
    const int row = call.rows[i].row, count = call.rows[i].count;
    Vec sum = all(0.0f);
    for (int p = 0; p < count; p += LANES)
      sum += gathered(entry + p, count - p < LANES ? count - p : LANES, call.panel);
    entry += count;
    float total = call.first ? (call.bias == nullptr ? 0.0f : call.bias[row]) : call.sums[row];
    call.sums[row] = total + added(sum);
  }
}
