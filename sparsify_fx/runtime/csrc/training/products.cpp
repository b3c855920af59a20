#include "products.h"

#include <algorithm>

#include "threads.h"

namespace sparsify {
namespace training {

namespace {

// What tiles and row groups one task has.
struct Cut {
  int64_t tiles, groups;  // in a task
  int64_t tile_sets, group_sets;

  Cut(int64_t all_tiles, const Matrix& matrix, int64_t threads) {
    const int64_t all_groups = static_cast<int64_t>(matrix.groups().size());
    const int64_t wanted = threads == 1 ? 1 : threads * kTasksPerThread;
    // Weights that do not stay in the cache are taken group by group, and all tiles go by.
    groups = matrix.nonzeros() > (int64_t{1} << 15) ? 1 : all_groups;
    tiles = std::max<int64_t>(1, all_tiles / wanted);
    if (all_tiles < wanted) groups = 1;
    group_sets = (all_groups + groups - 1) / groups;
    tile_sets = (all_tiles + tiles - 1) / tiles;
  }
};

}  // namespace

void product(const Kernels& kernels, const Matrix& matrix, const float* values, const Packed& source, const float* bias,
             const Outputs& out, int64_t threads) {
  const Panel& panel = source.panel;
  const Blocks& blocks = source.blocks;
  const std::vector<Tile> tiles = matrix.tiles(panel.block, kernels.lanes, kernels.product_vectors);
  const Grid& grid = matrix.grid();
  const int64_t images = panel.images(), count = static_cast<int64_t>(tiles.size());
  const int64_t all_tiles = count * blocks.count();
  threads = threads_for(threads, matrix.nonzeros() * grid.height * grid.width * blocks.count() * panel.block);
  const Cut cut(all_tiles, matrix, threads);

  const auto one = [&](int64_t number, int64_t first_group, int64_t last_group) {
    const Tile& tile = tiles[number % count];
    const int64_t block = number / count;
    int32_t places[kMostVectors];
    for (int64_t line = 0; line < tile.lines; ++line) {
      for (int64_t v = 0; v < tile.vectors; ++v) {
        const int64_t at = (tile.vector + v) * kernels.lanes;
        const int64_t y = grid.first_y + (tile.line + line) * grid.step_y;
        const int64_t x = grid.first_x + at / panel.block * grid.step_x;
        const int64_t image = (blocks.first + block) * panel.block + at % panel.block;
        const int64_t place = (y * out.width + x) * images + image;
        places[line * tile.vectors + v] = static_cast<int32_t>(place);
      }
    }
    ProductCall call{};
    call.panel =
        source.floats + block * panel.block_step() + tile.line * matrix.line_step() + tile.vector * kernels.lanes;
    call.line_step = matrix.line_step();
    call.row_step = out.positions * images;
    call.places = places;
    for (int64_t channels = 0; channels < matrix.blocks(); ++channels) {
      call.first = channels == 0;
      for (int64_t group = first_group; group < last_group; ++group) {
        const int64_t row = matrix.groups()[group].first;
        call.rows = matrix.rows(group, channels, values);
        call.out = out.floats + row * call.row_step;
        call.bias = bias == nullptr ? nullptr : bias + row;
        kernels.product(static_cast<int>(tile.lines), static_cast<int>(tile.vectors), call);
      }
    }
  };
  share(threads, cut.group_sets * cut.tile_sets, [&](int64_t task) {
    const int64_t group = task / cut.tile_sets * cut.groups, tile = task % cut.tile_sets * cut.tiles;
    const int64_t last = std::min<int64_t>(matrix.groups().size(), group + cut.groups);
    for (int64_t i = tile; i < std::min(all_tiles, tile + cut.tiles); ++i) one(i, group, last);
  });
}

void sample(const Kernels& kernels, const Matrix& matrix, const Packed& source, const Packed& gradients, float* sums,
            int64_t threads) {
  const Panel &panel = source.panel, &of = gradients.panel;
  const std::vector<Tile> tiles = matrix.tiles(panel.block, kernels.lanes, kernels.sampled_vectors);
  const int64_t groups = static_cast<int64_t>(matrix.groups().size());
  const int64_t work =
      matrix.nonzeros() * matrix.grid().height * matrix.grid().width * source.blocks.count() * panel.block;
  threads = threads_for(threads, work);
  // Each sum belongs to one task, so that it does not depend on who computes it.
  const int64_t sets = threads == 1 && matrix.nonzeros() <= (int64_t{1} << 15)
                           ? 1
                           : std::min(groups, std::max(groups / 2, threads * kTasksPerThread));
  share(threads, sets, [&](int64_t set) {
    const int64_t first = groups * set / sets, last = groups * (set + 1) / sets;
    for (int64_t block = 0; block < source.blocks.count(); ++block) {
      for (const Tile& tile : tiles) {
        SampledCall call{};
        call.panel =
            source.floats + block * panel.block_step() + tile.line * matrix.line_step() + tile.vector * kernels.lanes;
        call.line_step = matrix.line_step();
        call.row_step = of.step;
        call.gradient_step = of.pitch * of.block;
        call.sums = sums;
        const float* from =
            gradients.floats + block * of.block_step() + of.place(tile.line, 0) + tile.vector * kernels.lanes;
        for (int64_t channels = 0; channels < matrix.blocks(); ++channels) {
          for (int64_t group = first; group < last; ++group) {
            call.rows = matrix.rows(group, channels, nullptr);
            call.gradients = from + matrix.groups()[group].first * call.row_step;
            kernels.sampled(static_cast<int>(tile.lines), static_cast<int>(tile.vectors), call);
          }
        }
      }
    }
  });
}

}  // namespace training
}  // namespace sparsify
