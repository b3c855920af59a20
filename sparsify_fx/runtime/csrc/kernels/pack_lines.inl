// Packing a band of lines: as pack.inl, but line by line of one image, which needs no table of pieces.
//
// Whole vectors are stored wherever what follows is written later: the end of one line by the start of the next one,
// the end of a plane by the next plane. After the last plane of the panel there must be room for one vector more.

static inline void put_zeros(float* target, int64_t from, int64_t to) {
  for (int64_t x = from; x < to; x += LANES) store(target + x, all(0.0f));
}

// Pixels 0, 2, 4, ... of which the last lane's may not exist: nothing after pixel `read` - 1 is read.
static inline Vec even_pixels(const float* from, int64_t read) {
  Vec even, odd;
  part_by_parity(line_part(from, 0, read, all(0.0f)), line_part(from, LANES, read, all(0.0f)), &even, &odd);
  return even;
}

// `count` pixels, each `stride` after the one before.
template <int Stride>
static inline void put_pixels(float* target, const float* from, int64_t count, int64_t stride) {
  int64_t x = 0;
  if (Stride == 1) {
    for (; x + LANES <= count; x += LANES) store(target + x, load(from + x));
    if (x < count) store(target + x, line_part(from, x, count, all(0.0f)));
  } else if (Stride == 2) {
    for (; x + LANES < count; x += LANES) store(target + x, even_pixels(from + 2 * x, 2 * LANES));
    if (x < count) store(target + x, even_pixels(from + 2 * x, 2 * (count - x) - 1));
  } else {
    for (; x < count; ++x) target[x] = from[x * stride];
  }
}

template <int Stride>
static void pack_lines_of(const LinesCall& call) {
  for (int k = 0; k < call.count; ++k) {
    const LinePhase phase = call.phases[call.sources[k].phase];
    const float* channel = call.image + call.sources[k].channel * call.channel_step;
    float* line = call.panel + k * call.plane_step;
    for (int64_t i = 0; i < call.lines; ++i, line += call.pitch) {
      const int64_t y = phase.y + i * call.stride_y;
      if (y < 0 || y >= call.height || phase.low >= phase.high) {
        put_zeros(line, 0, call.pitch);
        continue;
      }
      // In this order: each overwrites what the vectors before it stored too much.
      put_zeros(line, 0, phase.low);
      put_pixels<Stride>(line + phase.low, channel + y * call.step + phase.x + phase.low * call.stride_x,
                         phase.high - phase.low, call.stride_x);
      put_zeros(line, phase.high, call.pitch);
    }
    put_zeros(line, 0, call.plane_step - call.lines * call.pitch);
  }
}

static void pack_even(const EvenCall& call) {
  for (int k = 0; k < call.count; ++k) {
    const float* channel = call.image + call.sources[k].channel * call.channel_step;
    const int64_t* lines = call.lines + call.sources[k].phase * call.line_count;
    float* line = call.panel + k * call.plane_step;
    for (int64_t i = 0; i < call.line_count; ++i, line += call.pitch)
      for (int64_t x = 0; x < call.pitch; x += LANES) {
        const float* from = channel + lines[i] + 2 * x;
        Vec even, odd;
        part_by_parity(load(from), load(from + LANES), &even, &odd);
        store(line + x, even);
      }
  }
}

static void pack_lines(const LinesCall& call) {
  if (call.stride_x == 1)
    pack_lines_of<1>(call);
  else if (call.stride_x == 2)
    pack_lines_of<2>(call);
  else
    pack_lines_of<0>(call);
}
