// Vectors of LANES floats, and squares of them.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint32_t UintVec __attribute__((vector_size(4 * LANES)));

static inline Vec load(const float* from) {
  Vec v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

static inline void store(float* to, Vec v) { __builtin_memcpy(to, &v, sizeof v); }

static inline Vec all(float value) { return value - Vec{}; }

// Rows of a square become its columns, in log2(LANES) rounds of exchanging blocks.
template <int Half>
static inline void exchange(Vec* square) {
  if constexpr (Half > 0) {
    IntVec low{}, high{};
    for (int lane = 0; lane < LANES; ++lane) {
      low[lane] = lane & Half ? LANES + lane - Half : lane;
      high[lane] = lane & Half ? LANES + lane : lane + Half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
      if (i & Half) continue;
      const Vec a = square[i], b = square[i + Half];
#if defined(__clang__)
      for (int lane = 0; lane < LANES; ++lane) {
        square[i][lane] = low[lane] < LANES ? a[low[lane]] : b[low[lane] - LANES];
        square[i + Half][lane] = high[lane] < LANES ? a[high[lane]] : b[high[lane] - LANES];
      }
#else
      square[i] = __builtin_shuffle(a, b, low);
      square[i + Half] = __builtin_shuffle(a, b, high);
#endif
    }
    exchange<Half / 2>(square);
  }
}
