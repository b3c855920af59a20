// The kernels themselves, in the vector extensions of GCC and Clang; included by one file per instruction set, which
// defines LANES and MAX_VECTORS and opens a namespace of its own. All functions are static, so that no instruction
// of one set can slip into another.

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

template <int V>
static inline void write(const RowsCall& call, int row, Vec* sum) {
  float* target = call.target + row * call.target_step;
  const float* residual = call.residual == nullptr ? nullptr : call.residual + row * call.target_step;
  const bool whole = call.pixels == V * LANES;
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q) {
    const int left = whole ? LANES : call.pixels - q * LANES;
    if (left <= 0) break;
    if (left >= LANES) {
      if (residual != nullptr) sum[q] += load(residual + q * LANES);
      store(target + q * LANES, activate(sum[q], call.activation));
    } else {
      if (residual != nullptr) sum[q] += load_some(residual + q * LANES, left);
      store_some(target + q * LANES, activate(sum[q], call.activation), left);
    }
  }
}

template <int V>
static void rows_of(const RowsCall& call) {
  constexpr int kTile = V * LANES;
  const Nonzero* entry = call.nonzeros;
  for (int i = 0; i < call.row_count; ++i) {
    const int row = call.rows[i].row;
    const int count = call.rows[i].count;
    float* sums = call.sums + static_cast<int64_t>(row) * kTile;
    Vec even[V], odd[V];  // two chains of sums hide the latency of a multiply-add
    if (call.last && call.target != nullptr && i + 1 < call.row_count) {  // the next row is written soon
      const int64_t next = call.rows[i + 1].row * call.target_step;
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) {
        __builtin_prefetch(call.target + next + q * LANES, 1);
        if (call.residual != nullptr) __builtin_prefetch(call.residual + next + q * LANES);
      }
    }
    const float start = call.bias == nullptr ? 0.0f : call.bias[row];
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) {
      even[q] = call.first ? all(start) : load(sums + q * LANES);
      odd[q] = all(0.0f);
    }
    int p = 0;
    for (; p + 2 <= count; p += 2) {
      const float* a = call.panel + static_cast<int64_t>(entry[p].column) * kTile;
      const float* b = call.panel + static_cast<int64_t>(entry[p + 1].column) * kTile;
      const Vec v = all(entry[p].value), w = all(entry[p + 1].value);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) even[q] += v * load(a + q * LANES);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) odd[q] += w * load(b + q * LANES);
    }
    if (p < count) {
      const float* a = call.panel + static_cast<int64_t>(entry[p].column) * kTile;
      const Vec v = all(entry[p].value);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) even[q] += v * load(a + q * LANES);
    }
    entry += count;
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) even[q] += odd[q];
    if (call.last && call.target != nullptr) {
      write<V>(call, row, even);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) store(sums + q * LANES, even[q]);
    }
  }
}

static void rows(int vectors, const RowsCall& call) {
  switch (vectors) {
    case 1:
      return rows_of<1>(call);
    case 2:
      return rows_of<2>(call);
    case 3:
      return rows_of<3>(call);
    case 4:
      return rows_of<4>(call);
#if MAX_VECTORS > 4
    case 5:
      return rows_of<5>(call);
    case 6:
      return rows_of<6>(call);
#endif
#if MAX_VECTORS > 6
    case 7:
      return rows_of<7>(call);
    case 8:
      return rows_of<8>(call);
#endif
  }
}

static inline Vec either(Vec a, Vec b) {  // of two vectors that have no lane in common
  IntVec x, y;
  __builtin_memcpy(&x, &a, sizeof x);
  __builtin_memcpy(&y, &b, sizeof y);
  x |= y;
  __builtin_memcpy(&a, &x, sizeof x);
  return a;
}

#if defined(SPARSIFY_AVX512)
// Lanes 0, 2, 4, ... of 32 floats, of which only those in `mask` are read.
static inline Vec load_even(const float* from, uint32_t mask) {
  // Bit i of the mask moves to bit 2i.
  uint32_t spread = mask;
  spread = (spread | spread << 8) & 0x00ff00ffu;
  spread = (spread | spread << 4) & 0x0f0f0f0fu;
  spread = (spread | spread << 2) & 0x33333333u;
  spread = (spread | spread << 1) & 0x55555555u;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(spread), from);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(spread >> 16), from + 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return (Vec)_mm512_permutex2var_ps(low, even, high);
}
#endif

// One piece; nothing outside its mask is read, masked loads of the processor included.
static inline Vec load_piece(const float* plane, const Piece& piece, int64_t stride) {
  const float* from = plane + piece.source;
#if defined(SPARSIFY_AVX512)
  if (stride == 1) return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>(piece.mask), from);
  if (stride == 2) return load_even(from, piece.mask);
#elif defined(SPARSIFY_AVX2)
  if (stride == 1) {
    const __m256i bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(piece.mask)), bit);
    return (Vec)_mm256_maskload_ps(from, _mm256_cmpeq_epi32(set, bit));
  }
#else
  if (stride == 1 && piece.mask == (1u << LANES) - 1) return load(from);
#endif
  float lanes[LANES] = {};
  for (int i = 0; i < LANES; ++i)
    if (piece.mask >> i & 1) lanes[i] = plane[piece.source + i * stride];
  return load(lanes);
}

// Pieces, Stride: 0 stands for any number. Without branches that depend on the image, which would be mispredicted.
template <int Pieces, int Stride>
static void pack_rows(const PackCall& call) {
  constexpr int kAhead = 12;
  const int64_t width = static_cast<int64_t>(call.vectors) * LANES;
  const int64_t stride = Stride == 0 ? call.stride : Stride;
  const int pieces = Pieces == 0 ? call.pieces : Pieces;
  for (int k = 0; k < call.count; ++k) {
    const Column column = call.columns[k];
    const Tap& tap = call.taps[column.tap];
    const float* plane = call.planes + column.plane * call.plane_size;
    float* row = call.panel + k * width;
    if (k + kAhead < call.count && call.columns[k + kAhead].plane != call.columns[k + kAhead - 1].plane) {
      const Tap& later = call.taps[call.columns[k + kAhead].tap];
      const float* there = call.planes + call.columns[k + kAhead].plane * call.plane_size;
      for (int q = 0; q < call.vectors; ++q) __builtin_prefetch(there + later.pieces[q * pieces].source);
    }
    const Piece* piece = tap.pieces;
    if (Stride == 1 && tap.line) {
      for (int q = 0; q < call.vectors; ++q) store(row + q * LANES, load(plane + piece->source + q * LANES));
      continue;
    }
    for (int q = 0; q < call.vectors; ++q, piece += pieces) {
      Vec v = load_piece(plane, piece[0], stride);
#pragma GCC unroll 4
      for (int i = 1; i < pieces; ++i) v = either(v, load_piece(plane, piece[i], stride));
      store(row + q * LANES, v);
    }
  }
}

template <int Stride>
static void pack_stride(const PackCall& call) {
  switch (call.pieces) {
    case 1:
      return pack_rows<1, Stride>(call);
    case 2:
      return pack_rows<2, Stride>(call);
    case 3:
      return pack_rows<3, Stride>(call);
    case 4:
      return pack_rows<4, Stride>(call);
    default:
      return pack_rows<0, Stride>(call);
  }
}

static void pack(const PackCall& call) {
  if (call.stride == 1)
    pack_stride<1>(call);
  else if (call.stride == 2)
    pack_stride<2>(call);
  else
    pack_stride<0>(call);
}

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

static void pack_transposed(float* panel, int tile, const float* source, int64_t step, int pixels, int columns) {
  for (int t = 0; t < tile; t += LANES) {
    int k = 0;
    if (t + LANES <= pixels) {
      for (; k + LANES <= columns; k += LANES) {
        Vec square[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) square[i] = load(source + (t + i) * step + k);
        exchange<LANES / 2>(square);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) store(panel + static_cast<int64_t>(k + i) * tile + t, square[i]);
      }
    }
    for (; k < columns; ++k)
      for (int i = 0; i < LANES; ++i)
        panel[static_cast<int64_t>(k) * tile + t + i] = t + i < pixels ? source[(t + i) * step + k] : 0.0f;
  }
}

static void unpack_transposed(float* target, int64_t step, const float* sums, int tile, int pixels, int row_count) {
  for (int t = 0; t < pixels; t += LANES) {
    int row = 0;
    if (t + LANES <= pixels) {
      for (; row + LANES <= row_count; row += LANES) {
        Vec square[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) square[i] = load(sums + static_cast<int64_t>(row + i) * tile + t);
        exchange<LANES / 2>(square);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) store(target + (t + i) * step + row, square[i]);
      }
    }
    for (; row < row_count; ++row)
      for (int i = t; i < pixels && i < t + LANES; ++i)
        target[i * step + row] = sums[static_cast<int64_t>(row) * tile + i];
  }
}

static void finish(float* target, const float* sums, const float* residual, int64_t count, Activation activation) {
  for (int64_t i = 0; i < count; i += LANES) {
    const int left = static_cast<int>(count - i < LANES ? count - i : LANES);
    Vec v = load_some(sums + i, left);
    if (residual != nullptr) v += load_some(residual + i, left);
    store_some(target + i, activate(v, activation), left);
  }
}
