// Between images that lie one after another and images that lie side by side in the lanes of a vector.

template <typename T>
static void scatter_transposed(const T* source, int64_t step, int64_t rows, int64_t columns, float* target,
                               const int64_t* places) {
  const int present = static_cast<int>(rows < LANES ? rows : LANES);
  int64_t column = 0;
  for (; column + LANES <= columns; column += LANES) {
    Vec square[LANES];
    for (int i = 0; i < LANES; ++i) square[i] = i < present ? load(source + i * step + column) : all(0.0f);
    exchange<LANES / 2>(square);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) store(target + places[column + i], square[i]);
  }
  for (; column < columns; ++column) {
    for (int i = 0; i < LANES; ++i) target[places[column] + i] = i < present ? one(source[i * step + column]) : 0.0f;
  }
}

template <typename T>
static void scatter_blocks(const T* source, int64_t step, int64_t count, int64_t floats, float* target,
                           const int64_t* places) {
  // Whole steps apart, which processors do not foresee.
  constexpr int64_t kAhead = 16;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t at = 0; at < floats; at += 16) __builtin_prefetch(source + (i + kAhead) * step + at);
    for (int64_t at = 0; at < floats; at += LANES) store(target + places[i] + at, load(source + i * step + at));
  }
}

template <typename T>
static void transposed(const float* source, int64_t source_step, int64_t rows, int64_t columns, T* target,
                       int64_t target_step) {
  int64_t row = 0;
  for (; row + LANES <= rows; row += LANES) {
    int64_t column = 0;
    for (; column + LANES <= columns; column += LANES) {
      Vec square[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i) square[i] = load(source + (column + i) * source_step + row);
      exchange<LANES / 2>(square);
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i) store(target + (row + i) * target_step + column, square[i]);
    }
    for (; column < columns; ++column)
      for (int i = 0; i < LANES; ++i)
        put(target + (row + i) * target_step + column, source[column * source_step + row + i]);
  }
  for (; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column)
      put(target + row * target_step + column, source[column * source_step + row]);
}

template <typename T>
static void widened(const T* source, int64_t count, float* target) {
  int64_t k = 0;
  for (; k + LANES <= count; k += LANES) store(target + k, load(source + k));
  for (; k < count; ++k) target[k] = one(source[k]);
}

template <typename T>
static void narrowed(const float* source, int64_t count, T* target) {
  int64_t k = 0;
  for (; k + LANES <= count; k += LANES) store(target + k, load(source + k));
  for (; k < count; ++k) put(target + k, source[k]);
}
