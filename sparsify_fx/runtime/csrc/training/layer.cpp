#include "layer.h"

#include <algorithm>

#include "../checked.h"
#include "threads.h"

namespace sparsify {
namespace training {

namespace {

// Working memory of a thread, which keeps it: fresh pages for every call would cost as much as a small layer.
enum Purpose { kInput, kGradient, kOutput, kValues, kPurposes };

float* scratch(Purpose purpose, int64_t floats) {
  thread_local std::vector<float> memory[kPurposes];
  std::vector<float>& of = memory[purpose];
  if (static_cast<int64_t>(of.size()) < floats) {
    of = {};
    of.resize(floats);
  }
  return of.data();
}

const float* packed(const Kernels& kernels, const Packing& packing, const Panel& panel, const Images& images,
                    Purpose purpose, int64_t threads) {
  if (packing.is_panel(images)) return images.floats;
  float* into = scratch(purpose, panel.floats());
  packing.pack(kernels, images, into, threads);
  return into;
}

const float* ordered(const Values& values, const Matrix& matrix) {
  const std::vector<int32_t>& sources = matrix.sources();
  float* found = scratch(kValues, matrix.nonzeros());
  for (size_t k = 0; k < sources.size(); ++k) {
    const int32_t at = sources[k];
    found[k] = values.other == nullptr ? values.one[at] : values.one[at] * values.other[at];
  }
  return found;
}

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

void product(const Kernels& kernels, const Matrix& matrix, const Values& values, const Panel& panel,
             const float* source, const float* bias, float* out, int64_t positions, int64_t out_width,
             int64_t threads) {
  const float* given = ordered(values, matrix);
  const std::vector<Tile> tiles = matrix.tiles(panel.block, kernels.lanes, kernels.product_vectors);
  const Grid& grid = matrix.grid();
  const int64_t images = panel.images(), count = static_cast<int64_t>(tiles.size());
  const int64_t all_tiles = count * panel.blocks;
  threads = threads_for(threads, matrix.nonzeros() * grid.height * grid.width * images);
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
        const int64_t place = (y * out_width + x) * images + block * panel.block + at % panel.block;
        places[line * tile.vectors + v] = static_cast<int32_t>(place);
      }
    }
    ProductCall call{};
    call.panel = source + block * panel.block_step() + tile.line * matrix.line_step() + tile.vector * kernels.lanes;
    call.line_step = matrix.line_step();
    call.row_step = positions * images;
    call.places = places;
    for (int64_t channels = 0; channels < matrix.blocks(); ++channels) {
      call.first = channels == 0;
      for (int64_t group = first_group; group < last_group; ++group) {
        const int64_t row = matrix.groups()[group].first;
        call.rows = matrix.rows(group, channels, given);
        call.out = out + row * call.row_step;
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

}  // namespace

Layer::Layer(const Geometry& geometry, const int32_t* places, int64_t count)
    : geometry_((check(geometry), geometry)), kernels_(training::kernels()),
      block_(images_in_block(geometry, kernels_.lanes)), input_(input_panel(geometry, block_)),
      gradient_(gradient_panel(geometry, block_)),
      pack_input_(input_, geometry.images, geometry.height, geometry.width),
      pack_gradient_(gradient_, geometry.images, geometry.out_height, geometry.out_width) {
  const int64_t taps = geometry.kernel_y * geometry.kernel_x;
  const int64_t weights = geometry.rows * (geometry.channels / geometry.groups) * taps;
  for (int64_t k = 0; k < count; ++k) {
    if (places[k] < 0 || places[k] >= weights || (k > 0 && places[k] <= places[k - 1]))
      throw InvalidArgument("places must rise, from 0 to below " + std::to_string(weights));
  }
  places_.assign(places, places + count);

  std::vector<Entry> entries(places_.size());
  const int64_t tap_line = geometry.dilation_y * input_.pitch * block_;
  for (size_t k = 0; k < places_.size(); ++k) {
    const Decoded at = decoded(places_[k]);
    const int64_t column = at.x * geometry.dilation_x;
    const int64_t position = column % input_.stride * input_.phase_width + column / input_.stride;
    entries[k] = {at.row, at.channel, static_cast<int32_t>(at.y * tap_line + position * block_)};
  }
  const Grid grid{geometry.out_height, geometry.out_width, 0, 0, 1, 1};
  const int64_t line_step = geometry.stride_y * input_.pitch * block_;
  forward_ = std::make_unique<Matrix>(entries, geometry.rows, input_, grid, line_step, taps);
}

Layer::Decoded Layer::decoded(int32_t place) const {
  const int32_t kernel_x = static_cast<int32_t>(geometry_.kernel_x),
                kernel_y = static_cast<int32_t>(geometry_.kernel_y);
  const int32_t channels = static_cast<int32_t>(geometry_.channels / geometry_.groups);
  const int32_t rows = static_cast<int32_t>(geometry_.rows / geometry_.groups);
  const int32_t line = place / kernel_x, plane = line / kernel_y, row = plane / channels;
  return {row, row / rows * channels + plane % channels, line % kernel_y, place % kernel_x};
}

const std::vector<Matrix>& Layer::transposed() const {
  std::call_once(once_, [&] {
    const Geometry& of = geometry_;
    const int64_t phases_y = std::min(of.stride_y, of.height), phases_x = std::min(of.stride_x, of.width);
    const int64_t block = gradient_.block;
    std::vector<Entry> entries(places_.size());
    for (int64_t phase_y = 0; phase_y < phases_y; ++phase_y) {
      for (int64_t phase_x = 0; phase_x < phases_x; ++phase_x) {
        for (size_t k = 0; k < places_.size(); ++k) {
          const Decoded at = decoded(places_[k]);
          const int64_t y = phase_y + of.pad_y - at.y * of.dilation_y, x = phase_x + of.pad_x - at.x * of.dilation_x;
          entries[k].row = -1;
          if (y % of.stride_y != 0 || x % of.stride_x != 0) continue;
          const int64_t line = gradient_.lead_y + y / of.stride_y, column = gradient_.lead_x + x / of.stride_x;
          entries[k] = {at.channel, at.row, static_cast<int32_t>((line * gradient_.pitch + column) * block)};
        }
        const int64_t height = (of.height - phase_y + of.stride_y - 1) / of.stride_y;
        const int64_t width = (of.width - phase_x + of.stride_x - 1) / of.stride_x;
        const Grid grid{height, width, phase_y, phase_x, of.stride_y, of.stride_x};
        const int64_t taps = std::max<int64_t>(1, of.kernel_y * of.kernel_x / (phases_y * phases_x));
        transposed_.emplace_back(entries, of.channels, gradient_, grid, gradient_.pitch * block, taps);
      }
    }
  });
  return transposed_;
}

void Layer::forward(const Values& values, const Images& input, const float* bias, const Result& out,
                    int64_t threads) const {
  const float* panel = packed(kernels_, pack_input_, input_, input, kInput, threads);
  const int64_t positions = geometry_.out_height * geometry_.out_width, rows = geometry_.rows * positions;
  const bool direct = out.layout == Layout::kSideBySide;
  float* sums = direct ? out.floats : scratch(kOutput, rows * images());
  product(kernels_, *forward_, values, input_, panel, bias, sums, positions, geometry_.out_width, threads);
  if (!direct) unpack(kernels_, sums, rows, images(), geometry_.images, out.floats, threads);
}

void Layer::backward(const Values& values, const Images& input, const Images& gradient, const Result& to_input,
                     const Gradients& to_values, int64_t threads) const {
  const float* gradients = packed(kernels_, pack_gradient_, gradient_, gradient, kGradient, threads);
  if (to_input.floats != nullptr) input_gradient(values, gradients, to_input, threads);
  if (to_values.one == nullptr) return;
  const float* panel = packed(kernels_, pack_input_, input_, input, kInput, threads);
  float* sums = scratch(kValues, forward_->nonzeros());
  sample(panel, gradients, sums, threads);
  const std::vector<int32_t>& sources = forward_->sources();
  for (size_t k = 0; k < sources.size(); ++k) {
    const int32_t at = sources[k];
    to_values.one[at] = values.other == nullptr ? sums[k] : sums[k] * values.other[at];
    if (values.other != nullptr) to_values.other[at] = sums[k] * values.one[at];
  }
}

void Layer::input_gradient(const Values& values, const float* gradients, const Result& out, int64_t threads) const {
  const int64_t positions = geometry_.height * geometry_.width, rows = geometry_.channels * positions;
  const bool direct = out.layout == Layout::kSideBySide;
  float* sums = direct ? out.floats : scratch(kOutput, rows * images());
  for (const Matrix& matrix : transposed())
    product(kernels_, matrix, values, gradient_, gradients, nullptr, sums, positions, geometry_.width, threads);
  if (!direct) unpack(kernels_, sums, rows, images(), geometry_.images, out.floats, threads);
}

void Layer::sample(const float* panel, const float* gradients, float* sums, int64_t threads) const {
  const Matrix& matrix = *forward_;
  const std::vector<Tile> tiles = matrix.tiles(input_.block, kernels_.lanes, kernels_.sampled_vectors);
  std::fill_n(sums, matrix.nonzeros(), 0.0f);
  const int64_t groups = static_cast<int64_t>(matrix.groups().size());
  const int64_t work = matrix.nonzeros() * geometry_.out_height * geometry_.out_width * input_.images();
  threads = threads_for(threads, work);
  // Each sum belongs to one task, so that it does not depend on who computes it.
  const int64_t sets = threads == 1 && matrix.nonzeros() <= (int64_t{1} << 15)
                           ? 1
                           : std::min(groups, std::max(groups / 2, threads * kTasksPerThread));
  share(threads, sets, [&](int64_t set) {
    const int64_t first = groups * set / sets, last = groups * (set + 1) / sets;
    for (int64_t block = 0; block < input_.blocks; ++block) {
      for (const Tile& tile : tiles) {
        SampledCall call{};
        call.panel =
            panel + block * input_.block_step() + tile.line * matrix.line_step() + tile.vector * kernels_.lanes;
        call.line_step = matrix.line_step();
        call.row_step = gradient_.step;
        call.gradient_step = gradient_.pitch * gradient_.block;
        call.sums = sums;
        const float* from =
            gradients + block * gradient_.block_step() + gradient_.place(tile.line, 0) + tile.vector * kernels_.lanes;
        for (int64_t channels = 0; channels < matrix.blocks(); ++channels) {
          for (int64_t group = first; group < last; ++group) {
            call.rows = matrix.rows(group, channels, nullptr);
            call.gradients = from + matrix.groups()[group].first * call.row_step;
            kernels_.sampled(static_cast<int>(tile.lines), static_cast<int>(tile.vectors), call);
          }
        }
      }
    }
  });
}

}  // namespace training
}  // namespace sparsify
