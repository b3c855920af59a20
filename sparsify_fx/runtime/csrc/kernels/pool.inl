// Maximum pooling: of a few lines first, which reads every pixel as it lies in memory, and then along what that gives.
//
// Lines in the padding need no values: the nearest line that exists belongs to the same window, and may be taken twice.

// The maximum of the lines that one output line reads, laid out like a copied line of `plan`; padding lies around it.
template <int Kernel, int Stride>
static inline void largest_of_lines(const DepthwisePlan& plan, const float* const* lines, float* target) {
  const Vec padding = all(plan.padding);
  const int64_t width = plan.width, pitch = plan.pitch;
  const auto largest = [&](auto read) {
    Vec v = read(lines[0]);
#pragma GCC unroll 2
    for (int ky = 1; ky < Kernel; ++ky) v = larger(v, read(lines[ky]));
    return v;
  };
  const auto whole = [&](int64_t at) { return largest([&](const float* line) { return load(line + at); }); };
  const auto part = [&](int64_t at) {
    return at < width ? largest([&](const float* line) { return line_part(line, at, width, padding); }) : padding;
  };
  const auto put = [&](int64_t x, Vec first, Vec second) {
    Vec even, odd;
    part_by_parity(first, second, &even, &odd);
    store(target + x, even);
    store(target + pitch + x, odd);
  };
  int64_t x = 0;
  if (Stride == 1) {
    for (; x + LANES <= width; x += LANES) store(target + x, whole(x));
    if (x < width) store(target + x, part(x));
  } else {
    for (; 2 * (x + LANES) <= width; x += LANES) put(x, whole(2 * x), whole(2 * x + LANES));
    if (2 * x < width) put(x, part(2 * x), part(2 * x + LANES));
  }
}

template <int Kernel>
static inline void largest_of_columns(const DepthwisePlan& plan, const float* line, float* target) {
  const float* columns[Kernel];
#pragma GCC unroll 3
  for (int kx = 0; kx < Kernel; ++kx) columns[kx] = line + plan.offsets[kx];
  const auto largest = [&](int64_t x) {
    Vec v = load(columns[0] + x);
#pragma GCC unroll 2
    for (int kx = 1; kx < Kernel; ++kx) v = larger(v, load(columns[kx] + x));
    return v;
  };
  int64_t x = 0;
  for (; x + LANES <= plan.out_width; x += LANES) store(target + x, largest(x));
  if (x < plan.out_width) store_first(target + x, largest(x), static_cast<int>(plan.out_width - x));
}

template <int Kernel, int Stride>
static void pool_of(const DepthwisePlan& plan, const PoolCall& call) {
  // Some lines at once: what has just been stored cannot be forwarded to loads at other places, which would wait.
  for (int64_t y = 0; y < call.out_lines; y += kPoolLines) {
    const int64_t count = call.out_lines - y < kPoolLines ? call.out_lines - y : kPoolLines;
    for (int64_t i = 0; i < count; ++i) {
      const float* lines[Kernel];
      for (int ky = 0; ky < Kernel; ++ky) {
        const int64_t line = call.first + (y + i) * plan.stride_y + ky;
        lines[ky] = call.image + (line < 0 ? 0 : line < call.height ? line : call.height - 1) * call.step;
      }
      largest_of_lines<Kernel, Stride>(plan, lines, call.lines + i * plan.line);
    }
    for (int64_t i = 0; i < count; ++i)
      largest_of_columns<Kernel>(plan, call.lines + i * plan.line, call.target + (y + i) * plan.out_width);
  }
}

static void pool(const DepthwisePlan& plan, const PoolCall& call) {
  if (plan.kernel == 2) return plan.stride_x == 2 ? pool_of<2, 2>(plan, call) : pool_of<2, 1>(plan, call);
  return plan.stride_x == 2 ? pool_of<3, 2>(plan, call) : pool_of<3, 1>(plan, call);
}
