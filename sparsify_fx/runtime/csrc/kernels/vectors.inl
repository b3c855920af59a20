// On vectors: parts of them, sums over lanes, and the activations.

// The first `count` lanes, fewer than all; nothing after them is read, and the other lanes are those of `others`.
static inline Vec load_first(const float* from, int count, Vec others = Vec{}) {
#if defined(SPARSIFY_AVX512)
  return (Vec)_mm512_mask_loadu_ps((__m512)others, static_cast<__mmask16>((1u << count) - 1), from);
#elif defined(SPARSIFY_AVX2)
  const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  return (Vec)_mm256_blendv_ps((__m256)others, _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
#else
  float lanes[LANES];
  store(lanes, others);
  for (int i = 0; i < count; ++i) lanes[i] = from[i];
  return load(lanes);
#endif
}

static inline void store_first(float* to, Vec v, int count) {
#if defined(SPARSIFY_AVX512)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#elif defined(SPARSIFY_AVX2)
  const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane), (__m256)v);
#else
  float lanes[LANES];
  store(lanes, v);
  for (int i = 0; i < count; ++i) to[i] = lanes[i];
#endif
}

// Both give `y` where one of them is NaN, as the instructions do, so that all sets agree.
static inline Vec larger(Vec x, Vec y) {
#if defined(SPARSIFY_AVX512)
  return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)x, (__m512)y);
#elif defined(SPARSIFY_AVX2)
  return (Vec)_mm256_max_ps((__m256)x, (__m256)y);
#else
  return x > y ? x : y;
#endif
}

static inline Vec smaller(Vec x, Vec y) {
#if defined(SPARSIFY_AVX512)
  return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)x, (__m512)y);
#elif defined(SPARSIFY_AVX2)
  return (Vec)_mm256_min_ps((__m256)x, (__m256)y);
#else
  return x < y ? x : y;
#endif
}

// In every lane `of` of all lanes, taken in pairs.
template <int Half = LANES / 2, typename Of>
static inline Vec folded(Vec v, Of of) {
  if constexpr (Half == 0) {
    return v;
  } else {
    IntVec place{};
    for (int lane = 0; lane < LANES; ++lane) place[lane] = lane ^ Half;
#if defined(__clang__)
    Vec other{};
    for (int lane = 0; lane < LANES; ++lane) other[lane] = v[place[lane]];
#else
    const Vec other = __builtin_shuffle(v, place);
#endif
    return folded<Half / 2>(of(v, other), of);
  }
}

// e^x for |x| <= 87 (clamped), relative error below 2e-7: 2^n times a polynomial on [-ln2/2, ln2/2].
static inline Vec exponential(Vec x) {
  x = smaller(all(87.0f), larger(all(-87.0f), x));
  const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vec shifted = x * 1.44269504088896341f + shift;
  const Vec n = shifted - shift;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  UintVec bits;  // which may be those of NaN, and overflow
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;  // the high bits of `shift` fall out at the top
  Vec power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return p * power;
}

// One over a number of 1 to 1e6; relative error below 2e-7.
static inline Vec reciprocal(Vec x) {
#if defined(SPARSIFY_AVX512)  // whose division takes as long as ten products
  const Vec about = (Vec)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return about * (2.0f - x * about);
#else
  return 1.0f / x;
#endif
}

static inline Vec silu_of(Vec x) { return x / (1.0f + exponential(-x)); }

// x Phi(x) with the normal distribution Phi to 2e-7: 1/2 plus a rational function of least error on [-5.6, 5.6]; below
// that, 0.
static inline Vec gelu_of(Vec x) {
  const Vec u = smaller(all(5.6f), larger(all(-5.6f), x)), t = u * u;
  Vec p = all(2.214560350e-8f), q = all(1.180210517e-6f);
  p = p * t + 6.356398918e-6f, q = q * t + 7.509845850e-5f;
  p = p * t + 1.738410670e-4f, q = q * t + 1.912924360e-3f;
  p = p * t + 4.707200908e-3f, q = q * t + 2.893957234e-2f;
  p = p * t + 3.437522842e-2f, q = q * t + 2.528316338e-1f;
  p = p * t + 3.989422216e-1f, q = q * t + 1.0f;
  const Vec half = p * u * reciprocal(q);
  return x < all(-5.6f) ? x * 0.0f : x * (0.5f + half);
}

// Calls, or each loop that ends with an activation would hold a copy of them and run out of registers.
static __attribute__((noinline)) Vec silu(Vec x) { return silu_of(x); }
static __attribute__((noinline)) Vec gelu(Vec x) { return gelu_of(x); }

static inline __attribute__((always_inline)) Vec activate(Vec x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return larger(all(0.0f), x);
    case Activation::kRelu6:
      return smaller(all(6.0f), larger(all(0.0f), x));
    case Activation::kSilu:
      return silu(x);
    case Activation::kGelu:
      return gelu(x);
    default:
      return x;
  }
}

template <int V>
__attribute__((noinline)) static void activate_slowly(Vec* x, Activation activation) {
  for (int q = 0; q < V; ++q) x[q] = activate(x[q], activation);
}

template <int V>
__attribute__((always_inline)) static inline void activate_all(Vec* x, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) x[q] = larger(all(0.0f), x[q]);
      return;
    case Activation::kRelu6:
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) x[q] = smaller(all(6.0f), larger(all(0.0f), x[q]));
      return;
    default: {
      // A copy, so that vectors that are not given to a function stay in registers.
      Vec copy[V];
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) copy[q] = x[q];
      activate_slowly<V>(copy, activation);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) x[q] = copy[q];
    }
  }
}

// What an activation that only cuts off leaves of a number: [low, high]. One that does not is none of `all`, and leaves
// every number as it is.
struct Cut {
  Vec low, high;
  bool all;
};

static inline Cut cut_of(Activation activation) {
  const bool cuts = activation == Activation::kRelu || activation == Activation::kRelu6;
  return {all(cuts ? 0.0f : -__builtin_inff()), all(activation == Activation::kRelu6 ? 6.0f : __builtin_inff()),
          activation == Activation::kNone || cuts};
}

static inline Vec cut_off(Vec x, const Cut& cut) { return smaller(cut.high, larger(cut.low, x)); }
