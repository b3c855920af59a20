// A tile of L lines of R vectors stays in registers while a row goes by: each non-zero is loaded once and multiplies
// all of it. Small tiles take several non-zeros at once, since a sum that waits for itself would leave units idle.
template <int L, int R>
static void product_of(const ProductCall& call) {
  constexpr int V = L * R;
  constexpr int Unroll = V >= 5 ? 1 : V >= 3 ? 2 : 4;
  const Rows& rows = call.rows;
  float* out = call.out;
  for (int row = 0; row < rows.count; ++row, out += call.row_step) {
    int32_t k = rows.starts[row];
    const int32_t end = rows.starts[row + 1];
    if (k == end && !call.first) continue;
    Vec sums[Unroll][V];
#pragma GCC unroll 12
    for (int v = 0; v < V; ++v) {
      sums[0][v] = call.first ? all(call.bias == nullptr ? 0.0f : call.bias[row]) : load(out + call.places[v]);
#pragma GCC unroll 4
      for (int u = 1; u < Unroll; ++u) sums[u][v] = all(0.0f);
    }
    const auto add = [&](int32_t at, Vec* into) __attribute__((always_inline)) {
      const Vec value = all(rows.values[at]);
      const float* from = call.panel + rows.offsets[at];
#pragma GCC unroll 4
      for (int line = 0; line < L; ++line) {
#pragma GCC unroll 12
        for (int v = 0; v < R; ++v) into[line * R + v] += value * load(from + line * call.line_step + v * LANES);
      }
    };
    for (; k + Unroll <= end; k += Unroll) {
#pragma GCC unroll 4
      for (int u = 0; u < Unroll; ++u) add(k + u, sums[u]);
    }
    for (; k < end; ++k) add(k, sums[0]);
#pragma GCC unroll 12
    for (int v = 0; v < V; ++v) {
#pragma GCC unroll 4
      for (int u = 1; u < Unroll; ++u) sums[0][v] += sums[u][v];
      store(out + call.places[v], sums[0][v]);
    }
  }
}
