// Vectors of LANES floats, and the activations on them.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));

static inline Vec load(const float* from) {
  Vec v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

static inline void store(float* to, Vec v) { __builtin_memcpy(to, &v, sizeof v); }

static inline Vec all(float value) { return value - Vec{}; }

static inline Vec load_some(const float* from, int count) {
  float lanes[LANES] = {};
  for (int i = 0; i < count; ++i) lanes[i] = from[i];
  return load(lanes);
}

static inline void store_some(float* to, Vec v, int count) {
  float lanes[LANES];
  store(lanes, v);
  for (int i = 0; i < count; ++i) to[i] = lanes[i];
}

// e^x for |x| <= 87 (clamped), relative error below 2e-7: 2^n times a polynomial on [-ln2/2, ln2/2].
static inline Vec exponential(Vec x) {
  x = x > all(87.0f) ? all(87.0f) : x;
  x = x < all(-87.0f) ? all(-87.0f) : x;
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
  IntVec bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;  // the high bits of `shift` fall out at the top
  Vec power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return p * power;
}

static inline Vec silu(Vec x) { return x / (1.0f + exponential(-x)); }

// x/2 (1 + erf(x / sqrt 2)) with erf to 1.5e-7 (Abramowitz and Stegun 7.1.26).
static inline Vec gelu(Vec x) {
  const Vec u = x * 0.70710678118654752f;
  const Vec a = u < all(0.0f) ? -u : u;
  const Vec t = 1.0f / (1.0f + 0.3275911f * a);
  Vec p = all(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec tail = p * t * exponential(-(a * a));  // erfc(|u|)
  return u < all(0.0f) ? 0.5f * x * tail : 0.5f * x * (2.0f - tail);
}

// Comparisons are written so that NaN stays NaN.
static inline Vec activate(Vec x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return x < all(0.0f) ? all(0.0f) : x;
    case Activation::kRelu6:
      x = x < all(0.0f) ? all(0.0f) : x;
      return x > all(6.0f) ? all(6.0f) : x;
    case Activation::kSilu:
      return silu(x);
    case Activation::kGelu:
      return gelu(x);
    default:
      return x;
  }
}
