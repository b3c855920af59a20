#include "matrix.h"

#include <algorithm>

namespace sparsify {
namespace training {

namespace {

// What the tiles of a block of channels may read: most of a first-level cache of 32 KB.
constexpr int64_t kBlockFloats = 5 << 10;
// Non-zeros that a row has in a block at least: below, loading and storing sums costs more than the cache saves.
constexpr int64_t kLeastOfRow = 8;
// Of a row group: they stay in a second-level cache while tile after tile goes by.
constexpr int64_t kMostOfGroup = int64_t{1} << 14;
constexpr int64_t kGroups = 8;  // at least, for threads; of kLeastRows rows
constexpr int64_t kLeastRows = 8;

int64_t divided_up(int64_t size, int64_t by) { return (size + by - 1) / by; }

std::vector<RowGroup> grouped(int64_t rows, int64_t nonzeros) {
  const int64_t wanted = std::max(divided_up(nonzeros, kMostOfGroup), std::min(kGroups, rows / kLeastRows));
  const int64_t count = std::max<int64_t>(1, std::min(wanted, rows));
  std::vector<RowGroup> groups;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = rows * i / count;
    groups.push_back({first, rows * (i + 1) / count - first});
  }
  return groups;
}

}  // namespace

Matrix::Matrix(const std::vector<Entry>& entries, int64_t rows, const Panel& panel, const Grid& grid, int64_t line_step,
               int64_t taps)
    : grid_(grid), line_step_(line_step) {
  const int64_t nonzeros = std::count_if(entries.begin(), entries.end(), [](const Entry& e) { return e.row >= 0; });
  groups_ = grouped(rows, nonzeros);

  // A tile of some ten vectors reads about this of each plane.
  const int64_t read = std::min(panel.plane(), taps * 64 + 16);
  const int64_t in_cache = std::max<int64_t>(1, kBlockFloats / std::max<int64_t>(1, read));
  const int64_t most = std::max<int64_t>(1, nonzeros / (kLeastOfRow * rows));
  blocks_ = std::min(divided_up(panel.channels, in_cache), std::min(most, panel.channels));
  const int64_t channels = divided_up(panel.channels, blocks_);

  // Sorted by row group, block and row by counting; within a row they keep their order.
  std::vector<int32_t> first_run(rows), step(rows);
  for (const RowGroup& group : groups_) {
    for (int64_t row = 0; row < group.count; ++row) {
      first_run[group.first + row] = static_cast<int32_t>(group.first * blocks_ + row);
      step[group.first + row] = static_cast<int32_t>(group.count);
    }
  }
  std::vector<int32_t> block_of(panel.channels);
  for (int64_t channel = 0; channel < panel.channels; ++channel)
    block_of[channel] = static_cast<int32_t>(channel / channels);
  const auto run = [&](const Entry& e) { return first_run[e.row] + block_of[e.channel] * step[e.row]; };
  starts_.assign(rows * blocks_ + 1, 0);
  for (const Entry& entry : entries) {
    if (entry.row >= 0) ++starts_[run(entry) + 1];
  }
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  std::vector<int32_t> next(starts_.begin(), starts_.end() - 1);
  offsets_.resize(nonzeros);
  sources_.resize(nonzeros);
  const int64_t plane = panel.step;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    if (entry.row < 0) continue;
    const int32_t at = next[run(entry)]++;
    offsets_[at] = static_cast<int32_t>(entry.channel * plane + entry.offset);
    sources_[at] = static_cast<int32_t>(i);
  }
}

std::vector<Tile> Matrix::tiles(int64_t images_in_block, int64_t lanes, int64_t most) const {
  const int64_t line = grid_.width * images_in_block / lanes;
  const int64_t pieces = divided_up(line, most);
  const int64_t wanted = pieces > 1 ? 1 : std::min<int64_t>({most / line, kMostLines, grid_.height});
  const int64_t bands = divided_up(grid_.height, wanted);
  std::vector<Tile> tiles;
  for (int64_t band = 0; band < bands; ++band) {
    const int64_t first = grid_.height * band / bands, lines = grid_.height * (band + 1) / bands - first;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t vector = line * piece / pieces;
      tiles.push_back({first, lines, vector, line * (piece + 1) / pieces - vector});
    }
  }
  return tiles;
}

}  // namespace training
}  // namespace sparsify
