// Between pixels that lie side by side and panels, and the epilogue of sums that lie side by side.

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

static void unpack_transposed(float* target, int64_t step, const float* sums, int tile, int pixels, int row_count,
                              const float* residual) {
  for (int t = 0; t < pixels; t += LANES) {
    int row = 0;
    if (t + LANES <= pixels) {
      for (; row + LANES <= row_count; row += LANES) {
        Vec square[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) square[i] = load(sums + static_cast<int64_t>(row + i) * tile + t);
        exchange<LANES / 2>(square);
        if (residual != nullptr) {
#pragma GCC unroll 16
          for (int i = 0; i < LANES; ++i) square[i] += load(residual + (t + i) * step + row);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) store(target + (t + i) * step + row, square[i]);
      }
    }
    for (; row < row_count; ++row)
      for (int i = t; i < pixels && i < t + LANES; ++i) {
        const float sum = sums[static_cast<int64_t>(row) * tile + i];
        target[i * step + row] = residual == nullptr ? sum : sum + residual[i * step + row];
      }
  }
}

template <typename Of>
static inline void epilogue_with(float* target, const float* sums, const float* residual, int64_t count, Of of) {
  for (int64_t i = 0; i < count; i += LANES) {
    const int left = static_cast<int>(count - i < LANES ? count - i : LANES);
    Vec v = left == LANES ? load(sums + i) : load_first(sums + i, left);
    if (residual != nullptr) v += left == LANES ? load(residual + i) : load_first(residual + i, left);
    v = of(v);
    left == LANES ? store(target + i, v) : store_first(target + i, v, left);
  }
}

static void epilogue(float* target, const float* sums, const float* residual, int64_t count, Activation activation) {
  if (activation == Activation::kGelu) return epilogue_with(target, sums, residual, count, gelu_of);
  if (activation == Activation::kSilu) return epilogue_with(target, sums, residual, count, silu_of);
  epilogue_with(target, sums, residual, count,
                [&](Vec v) __attribute__((always_inline)) { return activate(v, activation); });
}
