// Rows with few non-zeros: their weights stay in registers while they go over many vectors of pixels. As a tile of
// rows.inl such a row would take longer to begin and to end than for its products.

// U neighboring vectors of a row with N non-zeros.
template <int N, int U>
static inline __attribute__((always_inline)) void thin_part(const float* const* from, const Vec* weights, Vec bias,
                                                            Cut cut, const int32_t* kept, float* target, int64_t x) {
  Vec sums[U];
#pragma GCC unroll 4
  for (int q = 0; q < U; ++q) sums[q] = bias;
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i)
#pragma GCC unroll 4
    for (int q = 0; q < U; ++q) sums[q] += weights[i] * load(from[i] + x + q * LANES);
#pragma GCC unroll 4
  for (int q = 0; q < U; ++q) {
    sums[q] = cut_off(sums[q], cut);
    if (kept != nullptr) sums[q] = masked(sums[q], kept + x + q * LANES);
    store(target + x + q * LANES, sums[q]);
  }
}

static __attribute__((noinline)) void activate_row(float* target, const int32_t* kept, int64_t width,
                                                   Activation activation) {
  for (int64_t x = 0; x < width; x += LANES) {
    const Vec v = activate(load(target + x), activation);
    store(target + x, kept == nullptr ? v : masked(v, kept + x));
  }
}

// From row `i` on as many rows as have N non-zeros; the number of the row after them.
template <int N>
static int thin_rows(int vectors, const RowsCall& call, int i, const Nonzero* entry) {
  constexpr int U = 4;
  const int64_t width = static_cast<int64_t>(vectors) * LANES, step = call.target_step;
  const int32_t* kept = call.kept;
  const Cut cut = cut_of(call.activation);
  const RowRef* rows = call.rows;
  const int count = call.row_count;
  for (; i < count && rows[i].count == N; ++i, entry += N) {
    float* target = call.target + rows[i].row * step + call.outputs->at;
    const Vec bias = all(call.bias == nullptr ? 0.0f : call.bias[rows[i].row]);
    const float* from[N + 1];
    Vec weights[N + 1];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      from[n] = call.panel + place_of(call, entry[n], Known::kPlane);
      weights[n] = all(entry[n].value);
    }
    int64_t x = 0;
    for (; x + U * LANES <= width; x += U * LANES) thin_part<N, U>(from, weights, bias, cut, kept, target, x);
    for (; x < width; x += LANES) thin_part<N, 1>(from, weights, bias, cut, kept, target, x);
    if (!cut.all) activate_row(target, kept, width, call.activation);
  }
  return i;
}

template <int N>
static void thin_from(int vectors, const RowsCall& call, int i, const Nonzero* entry) {
  const int end = thin_rows<N>(vectors, call, i, entry);
  if constexpr (N < kThinRow) thin_from<N + 1>(vectors, call, end, entry + (end - i) * N);
}

static void thin(int vectors, const RowsCall& call) { thin_from<0>(vectors, call, 0, call.nonzeros); }
