#include "layer.h"

#include <algorithm>

#include "../checked.h"
#include "products.h"
#include "threads.h"

namespace sparsify {
namespace training {

namespace {

// Working memory of a thread, which keeps it: fresh pages for every call would cost as much as a small layer.
enum Purpose { kInput, kGradient, kOutput, kValues, kSums, kPurposes };

// Of the second-level cache, what a panel may take.
constexpr int64_t kCachedBytes = 256 * 1024;

// Each run has sums of its own.
constexpr int64_t kMostRuns = 16;

float* scratch(Purpose purpose, int64_t floats) {
  thread_local std::vector<float> memory[kPurposes];
  std::vector<float>& of = memory[purpose];
  if (static_cast<int64_t>(of.size()) < floats) {
    of = {};
    of.resize(floats);
  }
  return of.data();
}

Packed packed(const Kernels& kernels, const Packing& packing, const Panel& panel, const Images& images, Purpose purpose,
              const Blocks& blocks, int64_t threads) {
  if (packing.is_panel(images)) {
    const float* floats = static_cast<const float*>(images.entries);
    return {panel, blocks, floats + blocks.first * panel.block_step()};
  }
  float* into = scratch(purpose, blocks.count() * panel.block_step());
  packing.pack(kernels, images, blocks, into, threads);
  return {panel, blocks, into};
}

// So many blocks are packed and multiplied one after another that their panel is still in the second-level cache.
template <typename Work>
void by_blocks(const Panel& panel, const Blocks& all, int64_t threads, const Work& work) {
  const int64_t bytes = panel.block_step() * static_cast<int64_t>(sizeof(float));
  const int64_t at_once = std::max<int64_t>(1, kCachedBytes / bytes) * std::max<int64_t>(1, threads);
  for (int64_t first = all.first; first < all.end; first += at_once)
    work(Blocks{first, std::min(all.end, first + at_once)}, threads);
}

// Runs of blocks, which hang on the shape alone. Where there are enough of them each goes by on one thread, from
// packing to results, since what another processor has packed comes slowly from its cache; else threads share every
// block.
struct Runs {
  int64_t blocks, count, threads;
  bool apart;

  Runs(const Panel& panel, int64_t operations, int64_t given)
      : blocks(panel.blocks), count(std::min(panel.blocks, kMostRuns)), threads(threads_for(given, operations)),
        apart(threads > 1 && count >= threads) {}

  Blocks of(int64_t run) const { return {blocks * run / count, blocks * (run + 1) / count}; }

  // Calls work(run, threads that it may have).
  template <typename Work>
  void each(const Work& work) const {
    if (apart) return share(threads, count, [&](int64_t run) { work(run, 1); });
    for (int64_t run = 0; run < count; ++run) work(run, threads);
  }
};

void add(const float* values, int64_t count, float* to) {
  for (int64_t k = 0; k < count; ++k) to[k] += values[k];
}

// Values in the order in which a matrix multiplies them.
void order(const Values& values, const Matrix& matrix, float* into) {
  const std::vector<int32_t>& sources = matrix.sources();
  for (size_t k = 0; k < sources.size(); ++k) {
    const int32_t at = sources[k];
    into[k] = values.other == nullptr ? values.one[at] : values.one[at] * values.other[at];
  }
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
  const int64_t positions = geometry_.out_height * geometry_.out_width, rows = geometry_.rows * positions;
  const bool direct = out.is_sums();
  float* sums = direct ? static_cast<float*>(out.entries) : scratch(kOutput, rows * images());
  float* given = scratch(kValues, forward_->nonzeros());
  order(values, *forward_, given);
  const Runs runs(input_, operations(), threads);
  runs.each([&](int64_t run, int64_t given_threads) {
    by_blocks(input_, runs.of(run), given_threads, [&](const Blocks& blocks, int64_t may) {
      const Packed panel = packed(kernels_, pack_input_, input_, input, kInput, blocks, may);
      product(kernels_, *forward_, given, panel, bias, {sums, positions, geometry_.out_width}, may);
    });
  });
  if (!direct) unpack(kernels_, sums, rows, images(), geometry_.images, out, threads);
}

void Layer::backward(const Values& values, const Images& input, const Images& gradient, const Result& to_input,
                     const Gradients& to_values, int64_t threads) const {
  const bool sampled = to_values.one != nullptr, direct = to_input.entries == nullptr || to_input.is_sums();
  const int64_t rows = geometry_.channels * geometry_.height * geometry_.width;
  float* back = direct ? static_cast<float*>(to_input.entries) : scratch(kOutput, rows * images());
  const std::vector<const float*> given = back == nullptr ? std::vector<const float*>() : ordered_transposed(values);

  // Sums of a run begin at zero and are added in order, so that they are the same whoever makes them.
  const Runs runs(gradient_, operations(), threads);
  const int64_t count = forward_->nonzeros();
  float* sums = sampled ? scratch(kSums, count * (runs.apart ? runs.count : 2)) : nullptr;
  const auto sums_of = [&](int64_t run) { return sums + count * (runs.apart ? run : std::min<int64_t>(run, 1)); };
  runs.each([&](int64_t run, int64_t given_threads) {
    if (sampled) std::fill_n(sums_of(run), count, 0.0f);
    by_blocks(gradient_, runs.of(run), given_threads, [&](const Blocks& blocks, int64_t may) {
      const Packed gradients = packed(kernels_, pack_gradient_, gradient_, gradient, kGradient, blocks, may);
      const Outputs target{back, geometry_.height * geometry_.width, geometry_.width};
      for (size_t phase = 0; phase < given.size(); ++phase)
        product(kernels_, transposed()[phase], given[phase], gradients, nullptr, target, may);
      if (!sampled) return;
      const Packed panel = packed(kernels_, pack_input_, input_, input, kInput, blocks, may);
      sample(kernels_, *forward_, panel, gradients, sums_of(run), may);
    });
    if (sampled && !runs.apart && run > 0) add(sums_of(run), count, sums);
  });
  for (int64_t run = 1; sampled && runs.apart && run < runs.count; ++run) add(sums_of(run), count, sums);
  if (!direct) unpack(kernels_, back, rows, images(), geometry_.images, to_input, threads);
  if (sampled) write_gradients(values, sums, to_values);
}

int64_t Layer::operations() const {
  return forward_->nonzeros() * geometry_.out_height * geometry_.out_width * images();
}

std::vector<const float*> Layer::ordered_transposed(const Values& values) const {
  int64_t all = 0;
  for (const Matrix& matrix : transposed()) all += matrix.nonzeros();
  float* into = scratch(kValues, all);
  std::vector<const float*> found;
  for (const Matrix& matrix : transposed()) {
    order(values, matrix, into);
    found.push_back(into);
    into += matrix.nonzeros();
  }
  return found;
}

void Layer::write_gradients(const Values& values, const float* sums, const Gradients& to_values) const {
  const std::vector<int32_t>& sources = forward_->sources();
  for (size_t k = 0; k < sources.size(); ++k) {
    const int32_t at = sources[k];
    to_values.one[at] = values.other == nullptr ? sums[k] : sums[k] * values.other[at];
    if (values.other != nullptr) to_values.other[at] = sums[k] * values.one[at];
  }
}

}  // namespace training
}  // namespace sparsify
