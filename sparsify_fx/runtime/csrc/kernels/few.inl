// A few pixels: the matrix is read once, and what it multiplies stays in the caches.

// What LANES neighboring non-zeros read of one pixel.
static inline Vec gathered(const uint16_t* planes, const float* x) {
#if defined(SPARSIFY_AVX512)
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(planes));
  return (Vec)_mm512_i32gather_ps(_mm512_cvtepu16_epi32(narrow), x, 4);
#else
  // One by one, from words of four: gathers of AVX2 take longer on most processors that have no AVX-512.
  uint64_t words[LANES / 4];
  __builtin_memcpy(words, planes, sizeof words);
  const auto at = [&](int i) { return x[static_cast<uint16_t>(words[i / 4] >> (i % 4 * 16))]; };
#if LANES == 8
  return Vec{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
#else
  return Vec{at(0), at(1), at(2), at(3)};
#endif
#endif
}

static inline Vec plus(Vec a, Vec b) { return a + b; }
static inline float added(Vec v) { return folded(v, plus)[0]; }

// Of one pixel: sums[row] = bias + the row times the panel, which is the pixel itself.
static void dots(const FewCall& call) {
  for (int64_t row = call.first_row; row < call.end_row; ++row) {
    Vec sum = all(0.0f);
    for (int64_t k = call.starts[row]; k < call.starts[row + 1]; k += LANES)
      sum += load(call.values + k) * gathered(call.planes + k, call.panel);
    const float start = call.first ? (call.bias == nullptr ? 0.0f : call.bias[row]) : call.sums[row];
    call.sums[row] = start + added(sum);
  }
}

// Of up to LANES pixels, which lie side by side in the panel: sums[row][lane].
static void few(const FewCall& call) {
  // As many sums at a time as hide the latency of a multiply-add.
  constexpr int kChains = 4;
  for (int64_t row = call.first_row; row < call.end_row; ++row) {
    float* sums = call.sums + row * LANES;
    const Vec start = call.first ? all(call.bias == nullptr ? 0.0f : call.bias[row]) : load(sums);
    Vec sum[kChains] = {start, all(0.0f), all(0.0f), all(0.0f)};
    for (int64_t k = call.starts[row]; k < call.starts[row + 1]; k += kChains) {
      uint64_t word;
      __builtin_memcpy(&word, call.planes + k, sizeof word);
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) {
        const int64_t plane = static_cast<uint16_t>(word >> (i * 16));
        sum[i] += all(call.values[k + i]) * load(call.panel + plane * LANES);
      }
    }
    store(sums, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}
