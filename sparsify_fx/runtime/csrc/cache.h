// How much a worker keeps in which cache, in floats. README.md says what panels, lines and bands are.
#pragma once

#include <cstdint>

namespace sparsify {

constexpr int64_t kLineFloats = 16;  // of a cache line of 64 bytes

// 32 KiB, a first-level cache: what one tile reads of the panel, or one block of rows of a dense matrix.
constexpr int64_t kTileFloats = 8192;
// 24 KiB: lines that are copied and read at once, which leaves room in a first-level cache for what they become.
constexpr int64_t kNearFloats = 6144;
// 1 MiB, half of a second-level cache: the panel of a band.
constexpr int64_t kPanelFloats = int64_t{1} << 18;
// 512 KiB, a quarter of it: lines between two layers that are fused.
constexpr int64_t kLinesFloats = int64_t{1} << 17;
// What a task of a cheap operator reads at least, or handing it out would cost more than it.
constexpr int64_t kTaskFloats = int64_t{1} << 14;

inline int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// An odd number of cache lines. A cache finds the place of a line by the low bits of its address: rows whose distance
// is a power of two would compete for a few places, while an odd distance visits all of them.
inline int64_t odd_lines(int64_t floats) { return ((floats + kLineFloats - 1) / kLineFloats | 1) * kLineFloats; }

}  // namespace sparsify
