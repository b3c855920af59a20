// Layer normalization of a panel: each lane is a pixel, whose values are the planes.

template <bool Squares>
static inline Vec term(Vec v, Vec center) {
  return Squares ? (v - center) * (v - center) : v - center;
}

// The mean over all planes, vector by vector, of the distances from `center` or (Squares) of their squares; two chains
// of sums, which also round less than one.
template <int V, bool Squares>
static inline void mean_of(const NormCall& call, const Vec* center, Vec* mean) {
  Vec even[V] = {}, odd[V] = {};
  const float* at = call.panel;
  int k = 0;
  for (; k + 2 <= call.planes; k += 2, at += 2 * V * LANES) {
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) even[q] += term<Squares>(load(at + q * LANES), center[q]);
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) odd[q] += term<Squares>(load(at + (V + q) * LANES), center[q]);
  }
  if (k < call.planes)
    for (int q = 0; q < V; ++q) even[q] += term<Squares>(load(at + q * LANES), center[q]);
  const Vec part = all(1.0f / static_cast<float>(call.planes));
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q) mean[q] = (even[q] + odd[q]) * part;
}

template <int V>
static void normalize_of(const NormCall& call) {
  Vec zero[V] = {}, mean[V], rest[V], variance[V];
  mean_of<V, false>(call, zero, mean);
  // What rounding left of the mean. Of values that are all equal it would be all that is normalized: with a small
  // epsilon up to 1 in place of 0.
  mean_of<V, false>(call, mean, rest);
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q) mean[q] += rest[q];
  // Of what is left after the mean: a difference of two means would lose all digits where values are far from zero.
  mean_of<V, true>(call, mean, variance);
  float factors[V * LANES];
#pragma GCC unroll 8
  for (int q = 0; q < V; ++q) store(factors + q * LANES, variance[q] + all(call.epsilon));
  for (int i = 0; i < V * LANES; ++i) factors[i] = 1.0f / __builtin_sqrtf(factors[i]);
  float* at = call.panel;
  for (int k = 0; k < call.planes; ++k, at += V * LANES) {
    const Vec scale = all(call.scale[k]), shift = all(call.shift == nullptr ? 0.0f : call.shift[k]);
#pragma GCC unroll 8
    for (int q = 0; q < V; ++q) {
      const Vec v = (load(at + q * LANES) - mean[q]) * load(factors + q * LANES);
      store(at + q * LANES, v * scale + shift);
    }
  }
}

static void normalize(int vectors, const NormCall& call) {
  switch (vectors) {
    case 1:
      return normalize_of<1>(call);
    case 2:
      return normalize_of<2>(call);
    case 3:
      return normalize_of<3>(call);
    case 4:
      return normalize_of<4>(call);
#if MAX_VECTORS > 4
    case 5:
      return normalize_of<5>(call);
    case 6:
      return normalize_of<6>(call);
#endif
#if MAX_VECTORS > 6
    case 7:
      return normalize_of<7>(call);
    case 8:
      return normalize_of<8>(call);
#endif
  }
}
