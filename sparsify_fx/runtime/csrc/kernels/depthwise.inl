// Depthwise convolution: planes of their own, each with a small dense kernel.
//
// The pixels that a band of output lines reads are copied into lines of a fixed pitch with zeros for the padding, so
// that no load of the inner loop needs a mask. With a stride of two in a line its even pixels lie before its odd ones.

// Pixels [at, at + LANES) of a line of `width`; padding after its end.
static inline Vec line_part(const float* line, int64_t at, int64_t width, Vec padding) {
  if (at + LANES <= width) return load(line + at);
  return at < width ? load_first(line + at, static_cast<int>(width - at), padding) : padding;
}

// Of two vectors in a row: the floats at even places, and those at odd ones.
static inline void part_by_parity(Vec a, Vec b, Vec* even, Vec* odd) {
#if defined(__clang__)
  for (int lane = 0; lane < LANES; ++lane) {
    (*even)[lane] = 2 * lane < LANES ? a[2 * lane] : b[2 * lane - LANES];
    (*odd)[lane] = 2 * lane + 1 < LANES ? a[2 * lane + 1] : b[2 * lane + 1 - LANES];
  }
#else
  IntVec places{};
  for (int lane = 0; lane < LANES; ++lane) places[lane] = 2 * lane;
  *even = __builtin_shuffle(a, b, places);
  *odd = __builtin_shuffle(a, b, places + 1);
#endif
}

// A line of the image, or with a width of 0 one of padding.
static inline void copy_line(const DepthwisePlan& plan, const float* line, int64_t width, float* target) {
  const Vec padding = all(plan.padding);
  if (plan.stride_x == 1 && plan.pitch < LANES) {  // several lines to a vector: only this one's lanes are stored
    const Vec pixels = width == 0 ? padding : load_first(line, static_cast<int>(width), padding);
    store_first(target, pixels, static_cast<int>(plan.pitch));
    return;
  }
  for (int64_t x = 0; x < plan.pitch; x += LANES) {
    if (plan.stride_x == 1) {
      store(target + x, line_part(line, x, width, padding));
      continue;
    }
    Vec even, odd;
    part_by_parity(line_part(line, 2 * x, width, padding), line_part(line, 2 * x + LANES, width, padding), &even, &odd);
    store(target + x, even);
    store(target + plan.pitch + x, odd);
  }
}

// Lines [first, first + count) of an image; those that do not exist are padding.
static void copy_lines(const DepthwisePlan& plan, const float* image, int64_t first, int64_t count, float* target) {
  for (int64_t y = first; y < first + count; ++y, target += plan.line) {
    const bool exists = y >= 0 && y < plan.height;
    copy_line(plan, exists ? image + y * plan.width : image, exists ? plan.width : 0, target);
  }
}

// Loaded once and not again with every multiply-add, as compilers prefer it: most loads here cross a cache line.
static inline void keep_in_register(Vec& v) {
#if defined(SPARSIFY_AVX512)
  asm("" : "+v"(v));
#elif defined(SPARSIFY_AVX2)
  asm("" : "+x"(v));
#elif defined(SPARSIFY_NEON)
  asm("" : "+w"(v));
#else
  (void)v;
#endif
}

// A place to which compilers go step by step: all places of a loop at once would be more than there are registers.
template <typename T>
static inline void step_by_step(T& place) {
  asm("" : "+r"(place));
}

// `Count` output lines from line `y` of the band on, which share what they read.
template <int Kernel, int Stride, int Count>
static void output_lines(const DepthwisePlan& plan, const DepthwiseCall& call, int64_t y) {
  constexpr int kRead = (Count - 1) * Stride + Kernel, kTaps = Kernel * Kernel;
  constexpr bool kHeld = Kernel == 3 && LANES > 8;  // 9 of the 32 registers that AVX-512 has for the weights
  // Whatever is stored might be a part of plan or call, for all that compilers know.
  const int64_t width = plan.out_width, step = plan.line;
  const Activation activation = plan.activation;
  const Cut cut = cut_of(activation);
  const auto activated = [&](Vec sum) { return cut.all ? cut_off(sum, cut) : activate(sum, activation); };
  const float *weights = call.weights, *residual = call.residual;
  float* target = call.target + y * width;
  if (residual != nullptr) residual += y * width;
  const float* columns[Kernel];
#pragma GCC unroll 8
  for (int kx = 0; kx < Kernel; ++kx) columns[kx] = call.lines + y * Stride * step + plan.offsets[kx];
  const Vec bias = all(call.bias);
  Vec held[kTaps];
  if (kHeld) {
#pragma GCC unroll 9
    for (int i = 0; i < kTaps; ++i) held[i] = all(weights[i]);
  }
  // One vector of each output line. A line of pixels is loaded once per column of the kernel, and goes into all the
  // output lines that it is in reach of: tap `line - i * Stride` of the column, where there is such a tap.
  const auto vectors_at = [&](int64_t x, auto epilogue) {
    Vec sums[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) sums[i] = bias;
#pragma GCC unroll 3
    for (int kx = 0; kx < Kernel; ++kx) {
      const float* from = columns[kx] + x;
#pragma GCC unroll 20
      for (int line = 0; line < kRead; ++line) {
        Vec pixels = load(from);
        keep_in_register(pixels);
        from += step;
        step_by_step(from);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
          const int tap = kx * Kernel + line - i * Stride;
          if (line - i * Stride < 0 || line - i * Stride >= Kernel) continue;
          sums[i] += (kHeld ? held[tap] : all(weights[tap])) * pixels;
        }
      }
    }
    int64_t at = x;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
      epilogue(sums[i], at);
      at += width;
      step_by_step(at);
    }
  };
  // Stores of single lanes take several times as long as whole ones. Where nothing else is read of the target, the
  // last vector of a line begins earlier, and computes some pixels again; in a line of less than a vector it goes on
  // into the next lines, which come after it.
  const bool alone = residual == nullptr;
  const int64_t end = alone && width >= LANES ? width : width / LANES * LANES;
  for (int64_t next = 0; next < end; next += LANES) {
    const int64_t x = next + LANES <= width ? next : width - LANES;
    vectors_at(x, [&](Vec sum, int64_t at) {
      if (!alone) sum += load(residual + at);
      store(target + at, activated(sum));
    });
  }
  const int left = static_cast<int>(width - end);
  const int64_t room = alone ? (call.out_lines - y) * width : 0;
  if (left > 0)
    vectors_at(end, [&](Vec sum, int64_t at) {
      if (at + LANES <= room) return store(target + at, activated(sum));
      if (!alone) sum += load_first(residual + at, left);
      store_first(target + at, activated(sum), left);
    });
}

#if defined(SPARSIFY_AVX512)
// Narrow images, stride 1: a vector holds LANES / pitch output lines.
template <int Kernel>
static void narrow_lines(const DepthwisePlan& plan, const DepthwiseCall& call) {
  const int per_vector = static_cast<int>(LANES / plan.pitch), width = static_cast<int>(plan.out_width);
  uint32_t whole = 0;
  for (int i = 0; i < per_vector; ++i) whole |= ((1u << width) - 1) << (i * plan.pitch);
  // Tap (ky, kx) of all these lines is one load: line y + ky begins ky pitches later, and the lines follow each other.
  for (int64_t y = 0; y < call.out_lines; y += per_vector) {
    const float* from = call.lines + y * plan.line;
    Vec sum = all(call.bias), other = all(0.0f);
    for (int kx = 0; kx < Kernel; ++kx)
#pragma GCC unroll 8
      for (int ky = 0; ky < Kernel; ++ky)
        (ky % 2 == 0 ? sum : other) +=
            all(call.weights[kx * Kernel + ky]) * load(from + plan.offsets[kx] + ky * plan.line);
    const int64_t lines = call.out_lines - y < per_vector ? call.out_lines - y : per_vector;
    const uint32_t mask = whole & ((1u << (lines * plan.pitch)) - 1);
    const Piece piece{y * plan.out_width, mask, static_cast<int32_t>(lines) * width};
    write_piece(call.target, call.residual, sum + other, piece, plan.activation);
  }
}
#endif

template <int Kernel, int Stride>
static void depthwise_of(const DepthwisePlan& plan, const DepthwiseCall& call) {
#if defined(SPARSIFY_AVX512)
  if (plan.pitch < LANES) return narrow_lines<Kernel>(plan, call);
#endif
  int64_t y = 0;
  while (y < call.out_lines) {
    const int64_t left = call.out_lines - y;
    if (Kernel < 7 && left >= 7 && (left % 7 == 0 || left % 4 == 3))
      output_lines < Kernel, Stride, Kernel<7 ? 7 : 4>(plan, call, y), y += 7;
    else if (left >= 4)
      output_lines<Kernel, Stride, 4>(plan, call, y), y += 4;
    else if (left == 3)
      output_lines<Kernel, Stride, 3>(plan, call, y), y += 3;
    else if (left == 2)
      output_lines<Kernel, Stride, 2>(plan, call, y), y += 2;
    else
      output_lines<Kernel, Stride, 1>(plan, call, y), y += 1;
  }
}

static void depthwise(const DepthwisePlan& plan, const DepthwiseCall& call) {
  const bool twice = plan.stride_y == 2;
  switch (plan.kernel) {
    case 3:
      return twice ? depthwise_of<3, 2>(plan, call) : depthwise_of<3, 1>(plan, call);
    case 5:
      return twice ? depthwise_of<5, 2>(plan, call) : depthwise_of<5, 1>(plan, call);
    case 7:
      return twice ? depthwise_of<7, 2>(plan, call) : depthwise_of<7, 1>(plan, call);
  }
}
