// As living.cpp, for weights with few zeros: the living entries are given by a bit each, least significant bit first,
// so that eight entries of the dense tensor are written or read at once, and less is read than with a place for each.
//
// Entries are floats. The bits of a part begin with a byte, so parts begin at multiples of eight. The results are those
// of living.cpp, bit for bit.
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define SPARSIFY_FX_AVX2 __attribute__((target("avx2")))
#define SPARSIFY_FX_EIGHT __attribute__((target("avx2"), always_inline)) inline

namespace {

// Entries of the dense tensor that one thread has at least, as in living.cpp.
constexpr int64_t kEntriesPerThread = int64_t{1} << 19;

// For each byte of bits: `spread` says which of the next values each of eight entries gets, none with the highest bit;
// `gathered` which entries the next values are.
struct Tables {
  int8_t spread[256][8];
  int8_t gathered[256][8];
  int8_t count[256];
};

constexpr Tables make_tables() {
  Tables tables{};
  for (int byte = 0; byte < 256; ++byte) {
    int found = 0;
    for (int entry = 0; entry < 8; ++entry) {
      const bool lives = byte >> entry & 1;
      tables.spread[byte][entry] = static_cast<int8_t>(lives ? found : -128);
      if (lives) tables.gathered[byte][found++] = static_cast<int8_t>(entry);
    }
    tables.count[byte] = static_cast<int8_t>(found);
  }
  return tables;
}

constexpr Tables kTables = make_tables();

SPARSIFY_FX_EIGHT __m256i indices(const int8_t* eight) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(eight)));
}

// The values one[k] other[k], or one[k] without `other`, of a vector with `count` of them.
struct Values {
  const float* one;
  const float* other;
  int64_t count;

  float at(int64_t k) const { return other == nullptr ? one[k] : one[k] * other[k]; }

  SPARSIFY_FX_EIGHT __m256 eight(int64_t k) const {
    const __m256 left = _mm256_loadu_ps(one + k);
    return other == nullptr ? left : _mm256_mul_ps(left, _mm256_loadu_ps(other + k));
  }
};

// Writes up to eight entries one by one; where a vector ends eight values would be read or written behind it.
int64_t place_single(const Values& values, int64_t k, int byte, float* dense, int64_t entries) {
  for (int64_t entry = 0; entry < entries; ++entry) {
    const bool lives = byte >> entry & 1 && k < values.count;
    dense[entry] = lives ? values.at(k++) : 0.0f;
  }
  return k;
}

// Writes `size` entries, the first living one of which has the k-th value; the number of the next value.
SPARSIFY_FX_AVX2 int64_t place(const Values& values, int64_t k, const uint8_t* bits, float* dense, int64_t size) {
  int64_t at = 0;
  for (; at + 8 <= size && k + 8 <= values.count; at += 8) {
    const int byte = bits[at / 8];
    const __m256i which = indices(kTables.spread[byte]);
    const __m256 spread = _mm256_permutevar8x32_ps(values.eight(k), which);
    const __m256 dead = _mm256_castsi256_ps(_mm256_srai_epi32(which, 31));
    _mm256_storeu_ps(dense + at, _mm256_andnot_ps(dead, spread));
    k += kTables.count[byte];
  }
  for (; at < size; at += 8) k = place_single(values, k, bits[at / 8], dense + at, size - at < 8 ? size - at : 8);
  return k;
}

// Where the entries go: into[k], or their products with the values of two factors.
struct Into {
  const float* one;
  const float* other;
  float* of_one;
  float* of_other;
  int64_t count;

  void put(int64_t k, float entry) const {
    of_one[k] = other == nullptr ? entry : entry * other[k];
    if (other != nullptr) of_other[k] = entry * one[k];
  }

  SPARSIFY_FX_EIGHT void put(int64_t k, __m256 entries) const {
    if (other == nullptr) {
      _mm256_storeu_ps(of_one + k, entries);
      return;
    }
    _mm256_storeu_ps(of_one + k, _mm256_mul_ps(entries, _mm256_loadu_ps(other + k)));
    _mm256_storeu_ps(of_other + k, _mm256_mul_ps(entries, _mm256_loadu_ps(one + k)));
  }
};

// Reads the living ones of `size` entries, to the k-th value and on, up to the `end`-th.
SPARSIFY_FX_AVX2 void pick(const float* dense, int64_t size, const uint8_t* bits, int64_t k, int64_t end,
                           const Into& into) {
  int64_t at = 0;
  // What lies behind the living ones of eight is written over by the next, and never beyond `end`, which may be
  // where another thread begins.
  for (; at + 8 <= size && k + 8 <= end; at += 8) {
    const int byte = bits[at / 8];
    into.put(k, _mm256_permutevar8x32_ps(_mm256_loadu_ps(dense + at), indices(kTables.gathered[byte])));
    k += kTables.count[byte];
  }
  for (; at < size && k < end; ++at) {
    if (bits[at / 8] >> at % 8 & 1) into.put(k++, dense[at]);
  }
}

// Calls body(first, last, k) for parts of [0, size) on up to `threads` threads, with the number of each one's value.
template <typename Body>
void in_parts(int64_t size, const uint8_t* bits, int64_t threads, const Body& body) {
  int64_t parts = size / kEntriesPerThread < threads ? size / kEntriesPerThread : threads;
  if (parts < 1) parts = 1;
  std::vector<std::thread> others;
  int64_t k = 0, first = 0;
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t last = size * part / parts / 8 * 8;
    others.emplace_back([&body, first, last, k] { body(first, last, k); });
    for (int64_t byte = first / 8; byte < last / 8; ++byte) k += kTables.count[bits[byte]];
    first = last;
  }
  body(first, size, k);
  for (std::thread& other : others) other.join();
}

}  // namespace
#endif

#define SPARSIFY_FX_API extern "C" __attribute__((visibility("default")))

// Whether this processor has what the functions below need; they must not be called elsewhere.
SPARSIFY_FX_API int sparsify_fx_has_bits() {
#if defined(__x86_64__)
  return std::strcmp(sparsify::kernels().name, "portable") != 0;
#else
  return 0;
#endif
}

#if defined(__x86_64__)

// dense[i] = one[k] other[k] (`other` may be null) where the i-th bit is the k-th that is set, and zero elsewhere;
// the vectors have `count` values.
SPARSIFY_FX_API void sparsify_fx_place_bits(const float* one, const float* other, int64_t count, const uint8_t* bits,
                                            float* dense, int64_t size, int64_t threads) {
  const Values values{one, other, count};
  in_parts(size, bits, threads, [&](int64_t first, int64_t last, int64_t k) {
    place(values, k, bits + first / 8, dense + first, last - first);
  });
}

// The columns from `column` to `column` + `width` of a matrix [rows, columns], whose bits these are, to
// dense [rows, width]; all three are multiples of eight. Row r begins with the value starts[r * stride].
SPARSIFY_FX_API void sparsify_fx_place_bit_columns(const float* one, const float* other, int64_t count,
                                                   const uint8_t* bits, const int32_t* starts, int64_t stride,
                                                   float* dense, int64_t rows, int64_t columns, int64_t column,
                                                   int64_t width) {
  const Values values{one, other, count};
  for (int64_t row = 0; row < rows; ++row) {
    place(values, starts[row * stride], bits + (row * columns + column) / 8, dense + row * width, width);
  }
}

// of_one[k] = dense[i] where the i-th bit is the k-th that is set; with factors of_one[k] = dense[i] other[k] and
// of_other[k] = dense[i] one[k]. The bits that are set are `count`.
SPARSIFY_FX_API void sparsify_fx_pick_bits(const float* dense, int64_t size, const uint8_t* bits, int64_t count,
                                           const float* one, const float* other, float* of_one, float* of_other,
                                           int64_t threads) {
  const Into into{one, other, of_one, of_other, count};
  in_parts(size, bits, threads, [&](int64_t first, int64_t last, int64_t k) {
    int64_t end = count;
    if (last < size) {
      end = k;
      for (int64_t byte = first / 8; byte < last / 8; ++byte) end += kTables.count[bits[byte]];
    }
    pick(dense + first, last - first, bits + first / 8, k, end, into);
  });
}
#endif
