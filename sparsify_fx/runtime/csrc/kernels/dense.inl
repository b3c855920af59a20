// Products of dense matrices, in tiles of kDenseRows rows and a few vectors whose sums stay in registers; and softmax.

template <int V>
static void dense_of(const DenseCall& call) {
  for (int first = 0; first < call.rows; first += kDenseRows) {
    // Rows that do not exist are the last one once more, so that there is one inner loop. Its sums are written again,
    // the same bits.
    int64_t row[kDenseRows];
    for (int i = 0; i < kDenseRows; ++i) row[i] = first + i < call.rows ? first + i : call.rows - 1;
    const float* a[kDenseRows];
    Vec sum[kDenseRows][V];
#pragma GCC unroll 8
    for (int i = 0; i < kDenseRows; ++i) {
      a[i] = call.a + row[i] * call.a_step;
      const float* start = call.start + (call.start == nullptr ? 0 : row[i] * call.start_step);
#pragma GCC unroll 4
      for (int q = 0; q < V; ++q) sum[i][q] = call.start == nullptr ? all(0.0f) : load(start + q * LANES);
    }
    const float* panel = call.panel;
    for (int k = 0; k < call.depth; ++k, panel += call.panel_step) {
      Vec w[V];
#pragma GCC unroll 4
      for (int q = 0; q < V; ++q) w[q] = load(panel + q * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < kDenseRows; ++i) {
        const Vec v = all(a[i][k]);
#pragma GCC unroll 4
        for (int q = 0; q < V; ++q) sum[i][q] += v * w[q];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kDenseRows; ++i) {
      const Vec factor = all(call.factors == nullptr ? 1.0f : call.factors[row[i]]);
      float* target = call.target + row[i] * call.target_step;
#pragma GCC unroll 4
      for (int q = 0; q < V; ++q) {
        const int left = call.columns - q * LANES;
        left >= LANES ? store(target + q * LANES, sum[i][q] * factor)
                      : store_first(target + q * LANES, sum[i][q] * factor, left);
      }
    }
  }
}

static void dense(int vectors, const DenseCall& call) {
  switch (vectors) {
    case 1:
      return dense_of<1>(call);
    case 2:
      return dense_of<2>(call);
#if DENSE_VECTORS > 2
    case 3:
      return dense_of<3>(call);
    case 4:
      return dense_of<4>(call);
#endif
  }
}

static void softmax(const SoftmaxCall& call) {
  const Vec nothing = all(-__builtin_inff());
  const int whole = call.columns / LANES * LANES, rest = call.columns - whole;
  for (int i = 0; i < call.rows; ++i) {
    float* row = call.scores + i * call.step;
    const Vec last = rest == 0 ? nothing : load_first(row + whole, rest, nothing);
    Vec most = last;
    for (int k = 0; k < whole; k += LANES) most = larger(load(row + k), most);
    const Vec top = folded(most, larger);
    Vec sum = all(0.0f);
    const auto put = [&](int k, Vec score) {
      const Vec power = exponential(score - top);
      store(row + k, power);
      sum += power;
    };
    for (int k = 0; k < whole; k += LANES) put(k, load(row + k));
    if (rest > 0) put(whole, last);  // e^-87 in the lanes that are too many is nothing beside the largest, 1
    call.factors[i] = 1.0f / added(sum);
  }
}
