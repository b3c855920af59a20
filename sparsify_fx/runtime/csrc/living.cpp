// Between a dense tensor and the vector of its living entries, for training (sparsify_fx/programs/living.py).
//
// Entries are given by their places in the flattened tensor, in rising order. Both functions move bits and do not
// compute, so they are named by the size of an entry alone: 2 bytes (float16, bfloat16), 4 (float32) and 8 (float64).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

// Entries of the dense tensor that one thread has at least: below, starting a thread costs more than it saves.
constexpr int64_t kEntriesPerThread = int64_t{1} << 19;

// Bytes that are cleared and then written to before the next: they stay in the first-level cache in between, so that
// each line of the result goes to memory once. Clearing everything first would send it there twice.
constexpr int64_t kBlockBytes = 16384;

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

template <typename Entry>
void place(const Entry* values, const int32_t* places, int64_t count, Entry* dense, int64_t size, int64_t threads) {
  constexpr int64_t kBlock = kBlockBytes / sizeof(Entry);
  in_parts(size, threads, [=](int64_t first, int64_t last) {
    int64_t next = std::lower_bound(places, places + count, first) - places;
    for (int64_t begin = first; begin < last; begin += kBlock) {
      const int64_t end = std::min(last, begin + kBlock);
      std::memset(dense + begin, 0, (end - begin) * sizeof(Entry));
      // A place below `begin` would mean that places do not rise; it is passed over rather than written outside.
      for (; next < count && places[next] < end; ++next) {
        if (places[next] >= begin) dense[places[next]] = values[next];
      }
    }
  });
}

template <typename Entry>
void pick(const Entry* dense, int64_t origin, int64_t size, const int32_t* places, int64_t count, Entry* values,
          int64_t threads) {
  in_parts(size, threads, [=](int64_t first, int64_t last) {
    const int64_t begin = count * first / size, end = count * last / size;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t at = places[k] - origin;
      const bool inside = static_cast<uint64_t>(at) < static_cast<uint64_t>(size);
      values[k] = inside ? dense[at] : Entry{0};
    }
  });
}

}  // namespace

// dense[places[k]] = values[k] and zero elsewhere; `dense` has `size` entries and need not be initialized.
extern "C" __attribute__((visibility("default"))) void sparsify_fx_place(const void* values, const int32_t* places,
                                                                         int64_t count, void* dense, int64_t size,
                                                                         int64_t bytes, int64_t threads) {
  if (bytes == 2) place<uint16_t>((const uint16_t*)values, places, count, (uint16_t*)dense, size, threads);
  if (bytes == 4) place<uint32_t>((const uint32_t*)values, places, count, (uint32_t*)dense, size, threads);
  if (bytes == 8) place<uint64_t>((const uint64_t*)values, places, count, (uint64_t*)dense, size, threads);
}

// values[k] = dense[places[k] - origin], zero for a place outside; `dense` has `size` entries, the first of which is
// at the place `origin`.
extern "C" __attribute__((visibility("default"))) void sparsify_fx_pick(const void* dense, int64_t origin, int64_t size,
                                                                        const int32_t* places, int64_t count,
                                                                        void* values, int64_t bytes, int64_t threads) {
  if (bytes == 2) pick<uint16_t>((const uint16_t*)dense, origin, size, places, count, (uint16_t*)values, threads);
  if (bytes == 4) pick<uint32_t>((const uint32_t*)dense, origin, size, places, count, (uint32_t*)values, threads);
  if (bytes == 8) pick<uint64_t>((const uint64_t*)dense, origin, size, places, count, (uint64_t*)values, threads);
}
