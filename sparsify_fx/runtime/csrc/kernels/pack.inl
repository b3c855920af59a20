// Packing: the pixels that the tiles of a band read, out of the image into the planes of a panel.

static inline Vec either(Vec a, Vec b) {  // of two vectors that have no lane in common
  IntVec x, y;
  __builtin_memcpy(&x, &a, sizeof x);
  __builtin_memcpy(&y, &b, sizeof y);
  x |= y;
  __builtin_memcpy(&a, &x, sizeof x);
  return a;
}

#if defined(SPARSIFY_AVX512)
// Floats 0, 2, 4, ... 2 (count - 1); nothing else is read.
static inline __m512 load_even(const float* from, int count) {
  const uint32_t read = count == 0 ? 0 : 0x55555555u >> (2 * (LANES - count));
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(read), from);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(read >> 16), from + 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return _mm512_permutex2var_ps(low, even, high);
}
#endif

// The lanes of one piece; nothing outside its mask is read, masked loads of the processor included.
static inline Vec load_piece(const float* channel, const Piece& piece, int64_t stride) {
  const float* from = channel + piece.at;
#if defined(SPARSIFY_AVX512)
  const __mmask16 mask = static_cast<__mmask16>(piece.mask);
  if (stride == 1)
    return (Vec)_mm512_maskz_expand_ps(mask,
                                       _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << piece.count) - 1), from));
  if (stride == 2) return (Vec)_mm512_maskz_expand_ps(mask, load_even(from, piece.count));
#elif defined(SPARSIFY_AVX2)
  if (stride == 1 && piece.mask != 0) {  // without Kernels::masks a mask is one run of lanes
    const __m256i bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(piece.mask)), bit);
    return (Vec)_mm256_maskload_ps(from - __builtin_ctz(piece.mask), _mm256_cmpeq_epi32(set, bit));
  }
#else
  if (stride == 1 && piece.mask == (1u << LANES) - 1) return load(from);
#endif
  float lanes[LANES] = {};
  for (int lane = 0; lane < LANES; ++lane)
    if (piece.mask >> lane & 1) {
      lanes[lane] = *from;
      from += stride;
    }
  return load(lanes);
}

// Pieces, Stride: 0 stands for any number. Without branches that depend on where the image's lines end: lanes that no
// piece fills are masked, not skipped, since where they are differs from vector to vector and would be mispredicted.
template <int Pieces, int Stride>
static void pack_rows(const PackCall& call) {
  constexpr int kAhead = 12;  // planes between prefetching and packing one
  const int64_t width = static_cast<int64_t>(call.vectors) * LANES;
  const int64_t stride = Stride == 0 ? call.stride : Stride;
  const int pieces = Pieces == 0 ? call.pieces_per_vector : Pieces;
  for (int k = 0; k < call.count; ++k) {
    const PlaneSource source = call.sources[k];
    const float* channel = call.image + source.channel * call.channel_step;
    float* plane = call.panel + k * width;
    // Once per channel, for its first phase: the others read neighbors of these pixels, in part in the same cache
    // lines.
    if (k + kAhead < call.count && call.sources[k + kAhead].channel != call.sources[k + kAhead - 1].channel) {
      const PlaneSource later = call.sources[k + kAhead];
      const float* there = call.image + later.channel * call.channel_step;
      const Piece* piece = call.phases[later.phase].pieces;
      for (int q = 0; q < call.vectors; ++q) __builtin_prefetch(there + piece[q * pieces].at);
    }
    const Piece* piece = call.phases[source.phase].pieces;
    if (Stride == 1 && call.phases[source.phase].line) {
      for (int q = 0; q < call.vectors; ++q) store(plane + q * LANES, load(channel + piece->at + q * LANES));
      continue;
    }
    for (int q = 0; q < call.vectors; ++q, piece += pieces) {
      Vec v = load_piece(channel, piece[0], stride);
#pragma GCC unroll 4
      for (int i = 1; i < pieces; ++i) v = either(v, load_piece(channel, piece[i], stride));
      store(plane + q * LANES, v);
    }
  }
}

template <int Stride>
static void pack_stride(const PackCall& call) {
  switch (call.pieces_per_vector) {
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
