// Between a dense tensor and the vector of its living entries, for training (sparsify_fx/living/kernels.py).
//
// Entries are given by their places in the flattened tensor, in rising order. `place` and `pick` move bits and do not
// compute, so they are named by the size of an entry alone: 2 bytes (float16, bfloat16), 4 (float32) and 8 (float64).
// Where the entries are products of two factors, `place_product` and `pick_product` multiply on the way, in the
// precision of the factors (4 bytes: float, 8: double): the same bits as with a vector of products in between, which
// would be written and read again.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

// Entries of the dense tensor that one thread has at least: below, starting a thread costs more than it saves.
constexpr int64_t kEntriesPerThread = int64_t{1} << 19;

// Bytes that are cleared and then written to before the next: they stay in the second-level cache in between, so that
// each line of the result goes to memory once. Clearing everything first would send it there twice; and with less at
// once memset would read the lines that it clears, which it leaves out for large pieces.
constexpr int64_t kBlockBytes = int64_t{1} << 20;

// Calls body(first, last) for parts of [0, size) on up to `threads` threads.
template <typename Body>
void in_parts(int64_t size, int64_t threads, const Body& body) {
  const int64_t parts = std::max<int64_t>(1, std::min(threads, size / kEntriesPerThread));
  std::vector<std::thread> others;
  for (int64_t part = 1; part < parts; ++part) {
    others.emplace_back([&body, part, parts, size] { body(size * part / parts, size * (part + 1) / parts); });
  }
  body(0, size / parts);
  for (std::thread& other : others) other.join();
}

// Writes a part of a dense tensor that begins at `origin`; value(k) is its k-th living entry.
template <typename Entry, typename Value>
void place(const Value& value, const int32_t* places, int64_t count, Entry* dense, int64_t origin, int64_t size,
           int64_t threads) {
  constexpr int64_t kBlock = kBlockBytes / sizeof(Entry);
  Entry* const start = dense - origin;
  in_parts(size, threads, [=](int64_t first, int64_t last) {
    int64_t next = std::lower_bound(places, places + count, origin + first) - places;
    for (int64_t begin = origin + first; begin < origin + last; begin += kBlock) {
      const int64_t end = std::min(origin + last, begin + kBlock);
      std::memset(start + begin, 0, (end - begin) * sizeof(Entry));
      // A place below `begin` would mean that places do not rise; it is passed over rather than written outside.
      for (; next < count && places[next] < end; ++next) {
        if (places[next] >= begin) start[places[next]] = value(next);
      }
    }
  });
}

template <typename Entry>
void place_bits(const void* given, const int32_t* places, int64_t count, void* dense, int64_t origin, int64_t size,
                int64_t threads) {
  const Entry* values = static_cast<const Entry*>(given);
  const auto value = [values](int64_t k) { return values[k]; };
  place(value, places, count, static_cast<Entry*>(dense), origin, size, threads);
}

template <typename Entry>
void place_product(const void* one, const void* other, const int32_t* places, int64_t count, void* dense,
                   int64_t origin, int64_t size, int64_t threads) {
  const Entry *left = static_cast<const Entry*>(one), *right = static_cast<const Entry*>(other);
  const auto value = [left, right](int64_t k) { return left[k] * right[k]; };
  place(value, places, count, static_cast<Entry*>(dense), origin, size, threads);
}

// Writes the columns from `column` to `column` + `width` of a matrix to dense [rows, width]. The entries of row r in
// these columns are those from starts[r * stride] to starts[r * stride + 1].
template <typename Entry, typename Value>
void place_columns(const Value& value, const int32_t* places, const int32_t* starts, int64_t stride, Entry* dense,
                   int64_t rows, int64_t columns, int64_t column, int64_t width) {
  std::memset(dense, 0, rows * width * sizeof(Entry));
  for (int64_t row = 0; row < rows; ++row) {
    Entry* const out = dense + row * width;
    const int64_t origin = row * columns + column;
    for (int64_t k = starts[row * stride]; k < starts[row * stride + 1]; ++k) {
      const int64_t at = places[k] - origin;
      if (static_cast<uint64_t>(at) < static_cast<uint64_t>(width)) out[at] = value(k);
    }
  }
}

template <typename Entry>
void place_columns(const void* one, const void* other, const int32_t* places, const int32_t* starts, int64_t stride,
                   void* dense, int64_t rows, int64_t columns, int64_t column, int64_t width) {
  const Entry *left = static_cast<const Entry*>(one), *right = static_cast<const Entry*>(other);
  Entry* out = static_cast<Entry*>(dense);
  if (right == nullptr) {
    const auto value = [left](int64_t k) { return left[k]; };
    place_columns(value, places, starts, stride, out, rows, columns, column, width);
  } else {
    const auto value = [left, right](int64_t k) { return left[k] * right[k]; };
    place_columns(value, places, starts, stride, out, rows, columns, column, width);
  }
}

// Calls take(k, entry) with the k-th living entry of a part of a dense tensor that begins at `origin`.
template <typename Entry, typename Take>
void pick(const Entry* dense, int64_t origin, int64_t size, const int32_t* places, int64_t count, int64_t threads,
          const Take& take) {
  in_parts(size, threads, [=](int64_t first, int64_t last) {
    const int64_t begin = count * first / size, end = count * last / size;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t at = places[k] - origin;
      const bool inside = static_cast<uint64_t>(at) < static_cast<uint64_t>(size);
      take(k, inside ? dense[at] : Entry{0});
    }
  });
}

template <typename Entry>
void pick_bits(const void* dense, int64_t origin, int64_t size, const int32_t* places, int64_t count, void* into,
               int64_t threads) {
  Entry* values = static_cast<Entry*>(into);
  const auto take = [values](int64_t k, Entry entry) { values[k] = entry; };
  pick(static_cast<const Entry*>(dense), origin, size, places, count, threads, take);
}

template <typename Entry>
void pick_product(const void* dense, int64_t origin, int64_t size, const int32_t* places, int64_t count,
                  const void* one, const void* other, void* of_one, void* of_other, int64_t threads) {
  const Entry *left = static_cast<const Entry*>(one), *right = static_cast<const Entry*>(other);
  Entry *of_left = static_cast<Entry*>(of_one), *of_right = static_cast<Entry*>(of_other);
  const auto take = [=](int64_t k, Entry entry) {
    of_left[k] = entry * right[k];
    of_right[k] = entry * left[k];
  };
  pick(static_cast<const Entry*>(dense), origin, size, places, count, threads, take);
}

}  // namespace

#define SPARSIFY_FX_API extern "C" __attribute__((visibility("default")))

// dense[places[k] - origin] = values[k] and zero elsewhere; `dense` has `size` entries, the first of which is at the
// place `origin`, and need not be initialized.
SPARSIFY_FX_API void sparsify_fx_place_values(const void* values, const int32_t* places, int64_t count, void* dense,
                                              int64_t origin, int64_t size, int64_t bytes, int64_t threads) {
  if (bytes == 2) place_bits<uint16_t>(values, places, count, dense, origin, size, threads);
  if (bytes == 4) place_bits<uint32_t>(values, places, count, dense, origin, size, threads);
  if (bytes == 8) place_bits<uint64_t>(values, places, count, dense, origin, size, threads);
}

// dense[places[k] - origin] = one[k] other[k] and zero elsewhere.
SPARSIFY_FX_API void sparsify_fx_place_product(const void* one, const void* other, const int32_t* places, int64_t count,
                                               void* dense, int64_t origin, int64_t size, int64_t bytes,
                                               int64_t threads) {
  if (bytes == 4) place_product<float>(one, other, places, count, dense, origin, size, threads);
  if (bytes == 8) place_product<double>(one, other, places, count, dense, origin, size, threads);
}

// Some columns of a matrix [rows, columns] with the entries one[k] other[k], or one[k] where `other` is null, at
// places[k]: see place_columns above.
SPARSIFY_FX_API void sparsify_fx_place_columns(const void* one, const void* other, const int32_t* places,
                                               const int32_t* starts, int64_t stride, void* dense, int64_t rows,
                                               int64_t columns, int64_t column, int64_t width, int64_t bytes) {
  if (bytes == 4) place_columns<float>(one, other, places, starts, stride, dense, rows, columns, column, width);
  if (bytes == 8) place_columns<double>(one, other, places, starts, stride, dense, rows, columns, column, width);
}

// values[k] = dense[places[k] - origin], zero for a place outside; `dense` has `size` entries, the first of which is
// at the place `origin`.
SPARSIFY_FX_API void sparsify_fx_pick(const void* dense, int64_t origin, int64_t size, const int32_t* places,
                                      int64_t count, void* values, int64_t bytes, int64_t threads) {
  if (bytes == 2) pick_bits<uint16_t>(dense, origin, size, places, count, values, threads);
  if (bytes == 4) pick_bits<uint32_t>(dense, origin, size, places, count, values, threads);
  if (bytes == 8) pick_bits<uint64_t>(dense, origin, size, places, count, values, threads);
}

// The gradients of one[k] other[k]: of_one[k] = g other[k] and of_other[k] = g one[k], g = dense[places[k] - origin].
SPARSIFY_FX_API void sparsify_fx_pick_product(const void* dense, int64_t origin, int64_t size, const int32_t* places,
                                              int64_t count, const void* one, const void* other, void* of_one,
                                              void* of_other, int64_t bytes, int64_t threads) {
  if (bytes == 4) pick_product<float>(dense, origin, size, places, count, one, other, of_one, of_other, threads);
  if (bytes == 8) pick_product<double>(dense, origin, size, places, count, one, other, of_one, of_other, threads);
}
