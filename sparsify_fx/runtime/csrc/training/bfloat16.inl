// Entries of images as floats: one, or a vector of them.

typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));

static inline Vec load(const Bfloat16* from) {
  HalfVec bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<Vec>(__builtin_convertvector(bits, UintVec) << 16);
}

// To the nearest, ties to even, as PyTorch does; what is no number stays none.
static inline void store(Bfloat16* to, Vec v) {
  const UintVec bits = reinterpret_cast<UintVec>(v);
  const UintVec nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UintVec no_number = reinterpret_cast<UintVec>(v != v);
  const HalfVec half = __builtin_convertvector((nearest & ~no_number) | (no_number & 0x7fc0), HalfVec);
  __builtin_memcpy(to, &half, sizeof half);
}

static inline float one(float entry) { return entry; }

static inline float one(Bfloat16 entry) {
  const uint32_t bits = static_cast<uint32_t>(entry.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

static inline void put(float* to, float value) { *to = value; }

static inline void put(Bfloat16* to, float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>(value == value ? nearest : 0x7fc0);
}
