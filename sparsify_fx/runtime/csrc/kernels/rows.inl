// The multiplication: rows of the matrix times the panel, at one tile, and the epilogue of their sums.

#if defined(SPARSIFY_AVX512)
static inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
#endif

// The lanes in the piece's mask, one after another, to target[piece.at ...]. Which case it is repeats from row to row.
static inline void write_piece(float* target, const float* residual, Vec sum, const Piece& piece,
                               Activation activation) {
  if (piece.count == 0) return;
  if (piece.count == LANES) {
    if (residual != nullptr) sum += load(residual + piece.at);
    store(target + piece.at, activate(sum, activation));
    return;
  }
#if defined(SPARSIFY_AVX512)
  const __mmask16 kept = first_lanes(piece.count);
  Vec v = (Vec)_mm512_maskz_compress_ps(static_cast<__mmask16>(piece.mask), (__m512)sum);
  if (residual != nullptr) v += (Vec)_mm512_maskz_loadu_ps(kept, residual + piece.at);
  _mm512_mask_storeu_ps(target + piece.at, kept, (__m512)activate(v, activation));
#else
  float lanes[LANES] = {};
  if (residual != nullptr) {
    const float* from = residual + piece.at;
    for (int lane = 0; lane < LANES; ++lane)
      if (piece.mask >> lane & 1) lanes[lane] = *from++;
    sum += load(lanes);
  }
  store(lanes, activate(sum, activation));
  float* to = target + piece.at;
  for (int lane = 0; lane < LANES; ++lane)
    if (piece.mask >> lane & 1) *to++ = lanes[lane];
#endif
}

// Zeros where `kept` is 0, whatever was there: a product with 0 would make NaN of infinity.
static inline Vec masked(Vec v, const int32_t* kept) {
  IntVec bits, lanes;
  __builtin_memcpy(&bits, &v, sizeof bits);
  __builtin_memcpy(&lanes, kept, sizeof lanes);
  bits &= lanes;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

// Sums whose lanes go to several places of the output.
template <int V>
__attribute__((noinline)) static void write_pieces(const RowsCall& call, float* target, const float* residual,
                                                   const Vec* sum) {
  const Piece* piece = call.outputs;
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q)
    for (int i = 0; i < call.outputs_per_vector; ++i, ++piece)
      write_piece(target, residual, sum[q], *piece, call.activation);
}

// The epilogue: residual, activation, and the way to the output. Inlined, or the sums would go through memory, which
// takes as long as the products of a row with few non-zeros.
template <int V>
__attribute__((always_inline)) static inline void write(const RowsCall& call, int row, Vec* sum) {
  float* target = call.target + row * call.target_step;
  const float* residual = call.residual == nullptr ? nullptr : call.residual + row * call.target_step;
  if (call.whole) {
    target += call.outputs->at;
    if (residual != nullptr) {
      residual += call.outputs->at;
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) sum[q] += load(residual + q * LANES);
    }
    activate_all<V>(sum, call.activation);
    if (call.kept != nullptr) {
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) sum[q] = masked(sum[q], call.kept + q * LANES);
    }
#pragma GCC unroll 8
    for (int q = 0; q < V - 1; ++q) store(target + q * LANES, sum[q]);
    if (call.written == 0)
      store(target + (V - 1) * LANES, sum[V - 1]);
    else
      store_first(target + (V - 1) * LANES, sum[V - 1], call.written);
    return;
  }
  // A copy, so that the sums themselves have no address.
  Vec copy[V];
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q) copy[q] = sum[q];
  write_pieces<V>(call, target, residual, copy);
}

// Vector q of a plane of the panel. With Tail the panel is the image itself: the last vector ends where the image does,
// and nothing after it may be read.
template <int V, bool Tail>
static inline Vec load_pixels(const RowsCall& call, const float* from, int q) {
#if defined(SPARSIFY_AVX512)
  if (Tail && q == V - 1) return (Vec)_mm512_maskz_loadu_ps(first_lanes(call.tail), from + q * LANES);
#endif
  (void)call;
  return load(from + q * LANES);
}

// How the place of what a non-zero reads is known: as one number, or from its plane alone, or from plane and tap.
enum class Known { kPlace, kPlane, kTap };

static inline int64_t place_of(const RowsCall&, const Place& place, Known) { return place.at; }
static inline int64_t place_of(const RowsCall& call, const Nonzero& nonzero, Known known) {
  const int64_t plane = nonzero.plane * call.plane_step;
  return known == Known::kPlane ? plane : plane + call.offsets[nonzero.tap];
}

// Of V vectors that are soon read, or written (Write: 1).
template <int V, int Write>
static inline void prefetch(const float* from) {
  // One address and not V of them, which compilers would compute in advance and run out of registers.
  asm("" : "+r"(from));
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q) __builtin_prefetch(from + q * LANES, Write);
}

// V vectors of sums stay in registers while the non-zeros of a row go by: each is loaded once, and multiplies V vectors
// of its plane.
template <int V, bool Tail, Known Where>
static void rows_of(const RowsCall& call) {
  constexpr int kTile = V * LANES;
  constexpr bool kTwoChains = V < 6;  // of sums: a few vectors alone do not hide the latency of a multiply-add
  constexpr int kAhead = 4;           // rows between prefetching an output and writing it
  const bool writes = call.last && call.target != nullptr;
  const std::conditional_t<Where == Known::kPlace, Place, Nonzero>* entry;
  if constexpr (Where == Known::kPlace)
    entry = call.places;
  else
    entry = call.nonzeros;
  const auto pixels_of = [&](const auto& nonzero) { return call.panel + place_of(call, nonzero, Where); };
  for (int i = 0; i < call.row_count; ++i) {
    const int row = call.rows[i].row;
    const int count = call.rows[i].count;
    float* sums = call.sums == nullptr ? nullptr : call.sums + static_cast<int64_t>(row) * kTile;

    // 1. Prefetch what a later row writes: rows go by their number of non-zeros, an order that no hardware foresees.
    if (writes && !call.cached && i + kAhead < call.row_count) {
      const int64_t next = call.rows[i + kAhead].row * call.target_step + call.outputs->at;
      prefetch<V, 1>(call.target + next);
      if (call.residual != nullptr) prefetch<V, 0>(call.residual + next);
    }

    // 2. Start the sums: in the first block from the bias, later from what the blocks before have left.
    Vec even[V], odd[V];
    const float start = call.bias == nullptr ? 0.0f : call.bias[row];
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) even[q] = call.first ? all(start) : load(sums + q * LANES);
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) odd[q] = all(0.0f);

    // 3. Non-zeros two by two, as two chains of sums where V is small.
    int p = 0;
    for (; p + 2 <= count; p += 2) {
      const float* a = pixels_of(entry[p]);
      const float* b = pixels_of(entry[p + 1]);
      const Vec v = all(entry[p].value), w = all(entry[p + 1].value);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) even[q] += v * load_pixels<V, Tail>(call, a, q);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) (kTwoChains ? odd : even)[q] += w * load_pixels<V, Tail>(call, b, q);
    }
    if (p < count) {
      const float* a = pixels_of(entry[p]);
      const Vec v = all(entry[p].value);
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) even[q] += v * load_pixels<V, Tail>(call, a, q);
    }
    entry += count;
    if (kTwoChains) {
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) even[q] += odd[q];
    }

    // 4. After the last block the epilogue; before, sums for the next block.
    if (writes) {
      write<V>(call, row, even);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < V; ++q) store(sums + q * LANES, even[q]);
    }
  }
}

template <bool Tail, Known Where>
static void rows_with(int vectors, const RowsCall& call) {
  switch (vectors) {
    case 1:
      return rows_of<1, Tail, Where>(call);
    case 2:
      return rows_of<2, Tail, Where>(call);
    case 3:
      return rows_of<3, Tail, Where>(call);
    case 4:
      return rows_of<4, Tail, Where>(call);
#if MAX_VECTORS > 4
    case 5:
      return rows_of<5, Tail, Where>(call);
    case 6:
      return rows_of<6, Tail, Where>(call);
#endif
#if MAX_VECTORS > 6
    case 7:
      return rows_of<7, Tail, Where>(call);
    case 8:
      return rows_of<8, Tail, Where>(call);
#endif
  }
}

static void rows(int vectors, const RowsCall& call) {
  if (call.places != nullptr) return rows_with<false, Known::kPlace>(vectors, call);
#if defined(SPARSIFY_AVX512)
  if (call.tail != 0) return rows_with<true, Known::kPlane>(vectors, call);
#endif
  if (call.offsets == nullptr) return rows_with<false, Known::kPlane>(vectors, call);
  rows_with<false, Known::kTap>(vectors, call);
}
