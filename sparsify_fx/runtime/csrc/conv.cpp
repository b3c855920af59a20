#include "conv.h"

#include <algorithm>

#include "weights.h"

namespace sparsify {

Activation parse_activation(const std::string& name) {
  if (name.empty()) return Activation::kNone;
  if (name == "Relu") return Activation::kRelu;
  if (name == "Relu6") return Activation::kRelu6;
  if (name == "Silu") return Activation::kSilu;
  if (name == "Gelu") return Activation::kGelu;
  throw InvalidArgument("unknown activation '" + name + "'; known: Relu, Relu6, Silu, Gelu");
}

namespace {

constexpr int64_t kMaxLength = int64_t{1} << 24;  // of a stride, pad, dilation or image side

std::vector<int64_t> ints_or(const OrtApi* api, const OrtKernelInfo* info, const char* name, size_t count,
                             int64_t otherwise, int64_t least) {
  std::vector<int64_t> values = attribute_ints(api, info, name);
  if (values.empty()) values.assign(count, otherwise);
  if (values.size() != count)
    throw InvalidArgument(std::string(name) + " needs " + std::to_string(count) + " values");
  for (int64_t value : values)
    if (value < least || value > kMaxLength)
      throw InvalidArgument(std::string(name) + " holds " + std::to_string(value) + "; expected at least " +
                            std::to_string(least) + " and at most " + std::to_string(kMaxLength));
  return values;
}

// A one-dimensional convolution is a two-dimensional one of height 1.
ConvAttributes read_attributes(const OrtApi* api, const OrtKernelInfo* info, size_t spatial) {
  ConvAttributes a;
  a.group = attribute_int(api, info, "group", 1);
  a.strides = ints_or(api, info, "strides", spatial, 1, 1);
  a.dilations = ints_or(api, info, "dilations", spatial, 1, 1);
  a.pads = ints_or(api, info, "pads", 2 * spatial, 0, 0);
  a.activation = parse_activation(attribute_string(api, info, "activation"));
  if (spatial == 1) {
    a.strides.insert(a.strides.begin(), 1);
    a.dilations.insert(a.dilations.begin(), 1);
    a.pads = {0, a.pads[0], 0, a.pads[1]};
  }
  return a;
}

}  // namespace

SparseConv::SparseConv(const OrtApi* api, const OrtKernelInfo* info) : api_(api) {
  const Tensor values = constant_input(api, info, 1);
  const Tensor gaps = constant_input(api, info, 2);
  if (!values) throw InvalidArgument("input W must be a constant initializer");
  const Weights weights = read_weights(values, gaps, attribute_ints(api, info, "weight_shape"));
  rank_ = weights.shape.size();
  if (rank_ != 3 && rank_ != 4) throw InvalidArgument("the weight must have 3 or 4 dimensions");
  attributes_ = read_attributes(api, info, rank_ - 2);
  out_channels_ = weights.shape[0];
  in_channels_ = weights.shape[1];
  kernel_height_ = rank_ == 4 ? weights.shape[2] : 1;
  kernel_width_ = weights.shape[rank_ - 1];
  if (std::max({out_channels_, in_channels_, kernel_height_, kernel_width_}) > kMaxLength)
    throw InvalidArgument("the weight is too large");
  if (attributes_.group < 1 || out_channels_ % attributes_.group != 0)
    throw InvalidArgument("group must be positive and divide the number of output channels");
  const int64_t rows = out_channels_ / attributes_.group;
  const int64_t columns = in_channels_ * kernel_height_ * kernel_width_;
  const double density = static_cast<double>(weights.values.size()) / static_cast<double>(out_channels_ * columns);
  const Shape shape = choose_shape(density);
  max_vectors_ = shape.max_vectors;
  const int64_t taps = kernel_height_ * kernel_width_;
  for (int64_t g = 0; g < attributes_.group; ++g) {
    matrices_.push_back(build_matrix(take_rows(weights, g * rows, rows, columns), shape.block_columns, false));
    columns_.emplace_back();
    for (int32_t column : matrices_.back().columns)
      columns_.back().push_back({static_cast<int32_t>(column / taps), static_cast<int32_t>(column % taps)});
  }
}

// Sizes of one run. A 1x1 convolution without stride and padding sees its image as a single line.
struct SparseConv::Geometry {
  int64_t images, channels, height, width;
  int64_t out_height, out_width;
  int64_t stride_y, stride_x, pad_y, pad_x;
  std::vector<int64_t> output_shape;

  int64_t plane() const { return height * width; }
  int64_t out_plane() const { return out_height * out_width; }
};

SparseConv::Geometry SparseConv::geometry(const Tensor& x) const {
  if (x.type != kFloat) throw InvalidArgument("input X must be float32");
  if (x.shape.size() != rank_)
    throw InvalidArgument("input X has " + std::to_string(x.shape.size()) + " dimensions; the weight has " +
                          std::to_string(rank_));
  Geometry g{};
  g.images = x.shape[0];
  g.channels = x.shape[1];
  g.height = rank_ == 4 ? x.shape[2] : 1;
  g.width = x.shape[rank_ - 1];
  if (g.channels != in_channels_ * attributes_.group)
    throw InvalidArgument("input X has " + std::to_string(g.channels) + " channels; the weight needs " +
                          std::to_string(in_channels_ * attributes_.group));
  if (g.height > kMaxLength || g.width > kMaxLength) throw InvalidArgument("input X is too large");
  const auto& a = attributes_;
  const int64_t room_y = g.height + a.pads[0] + a.pads[2] - (a.dilations[0] * (kernel_height_ - 1) + 1);
  const int64_t room_x = g.width + a.pads[1] + a.pads[3] - (a.dilations[1] * (kernel_width_ - 1) + 1);
  if (room_y < 0 || room_x < 0) throw InvalidArgument("input X with its padding is smaller than the kernel");
  g.stride_y = a.strides[0], g.stride_x = a.strides[1];
  g.pad_y = a.pads[0], g.pad_x = a.pads[1];
  g.out_height = room_y / g.stride_y + 1;
  g.out_width = room_x / g.stride_x + 1;
  g.output_shape = {g.images, out_channels_, g.out_width};
  if (rank_ == 4) g.output_shape.insert(g.output_shape.begin() + 2, g.out_height);
  const bool point = kernel_height_ == 1 && kernel_width_ == 1;
  if (point && g.out_height == g.height && g.out_width == g.width && g.pad_y == 0 && g.pad_x == 0 &&
      g.stride_y == 1 && g.stride_x == 1) {
    g.width = g.out_width = g.plane();
    g.height = g.out_height = 1;
  }
  return g;
}

struct SparseConv::Call {
  Geometry g;
  Tiling tiling;
  int parts;  // of the rows of a group
  const float *x, *bias, *residual;
  float* y;
};

namespace {

bool same_shape(const Tensor& tensor, const std::vector<int64_t>& shape) { return tensor.shape == shape; }

}  // namespace

void SparseConv::compute(OrtKernelContext* context) const {
  size_t inputs = 0;
  check(api_, GetInputCount::call(api_, context, &inputs));
  const Tensor x = input(api_, context, 0);
  const Tensor bias = inputs > 3 ? input(api_, context, 3) : Tensor{};
  const Tensor residual = inputs > 4 ? input(api_, context, 4) : Tensor{};
  const Geometry g = geometry(x);
  if (bias && (bias.type != kFloat || !same_shape(bias, {out_channels_})))
    throw InvalidArgument("input B must be a float32 vector with a value per output channel");
  if (residual && (residual.type != kFloat || !same_shape(residual, g.output_shape)))
    throw InvalidArgument("input Z must be float32 and have the shape of the output");
  const Tensor y = output(api_, context, g.output_shape);
  if (y.size() == 0) return;
  Call call{g,
            Tiling(g.images * g.out_plane(), kernels().lanes, max_vectors_),
            1,
            x.floats(),
            bias ? bias.floats() : nullptr,
            residual ? residual.floats() : nullptr,
            static_cast<float*>(y.data)};
  call.parts = row_parts(matrices_[0], call.tiling.tiles * attributes_.group);
  Tasks tasks(attributes_.group * call.tiling.tiles * call.parts);
  run_workers(api_, context, tasks, [&](Tasks& shared) { work(call, shared); });
}

namespace {

// The lanes i < run whose source from + i * stride lies in [0, size).
uint32_t lanes_within(int64_t from, int64_t stride, int run, int64_t size) {
  const uint64_t all = (uint64_t{1} << run) - 1;
  if (from >= 0 && from + (run - 1) * stride < size) return static_cast<uint32_t>(all);
  const int64_t low = from >= 0 ? 0 : std::min<int64_t>((-from + stride - 1) / stride, run);
  const int64_t high = from >= size ? 0 : std::min<int64_t>((size - from + stride - 1) / stride, run);
  return low >= high ? 0 : static_cast<uint32_t>(all >> (run - (high - low)) << low);
}

// A run of neighbouring output pixels in a vector: its first lane, its length, and its place in the output.
struct Run {
  int lane, length;
  int64_t image, y, x;
};

// The runs of every vector for the output pixels [first, first + count).
template <typename Geometry>
std::vector<std::vector<Run>> runs_of(const Geometry& g, int64_t first, int count, int vectors, int lanes) {
  std::vector<std::vector<Run>> runs(vectors);
  int64_t image = first / g.out_plane(), y = first % g.out_plane() / g.out_width, x = first % g.out_width;
  for (int done = 0; done < count;) {
    const int lane = done % lanes;
    const int length = static_cast<int>(std::min<int64_t>({g.out_width - x, count - done, lanes - lane}));
    runs[done / lanes].push_back({lane, length, image, y, x});
    done += length;
    x += length;
    if (x == g.out_width) x = 0, ++y;
    if (y == g.out_height) y = 0, ++image;
  }
  return runs;
}

// Where a tap that lies (dy, dx) off the place of the output pixel reads.
template <typename Geometry>
void add_pieces(std::vector<Piece>& pieces, const Geometry& g, const std::vector<std::vector<Run>>& runs,
                size_t per_vector, int64_t dy, int64_t dx) {
  for (const auto& vector : runs) {
    for (const Run& run : vector) {
      const int64_t y = run.y * g.stride_y + dy, x = run.x * g.stride_x + dx;
      const bool inside = y >= 0 && y < g.height;
      const uint32_t mask = inside ? lanes_within(x, g.stride_x, run.length, g.width) : 0;
      const int64_t source = run.image * g.channels * g.plane() + y * g.width + x - run.lane * g.stride_x;
      pieces.push_back({mask == 0 ? 0 : source, mask << run.lane});
    }
    for (size_t i = vector.size(); i < per_vector; ++i) pieces.push_back({0, 0});
  }
}

bool is_line(const Piece* pieces, size_t count, int lanes) {
  for (size_t i = 0; i < count; ++i)
    if (pieces[i].mask != (uint64_t{1} << lanes) - 1 ||
        pieces[i].source != pieces[0].source + static_cast<int64_t>(i) * lanes)
      return false;
  return true;
}

}  // namespace

// The taps of the kernel for one tile.
struct SparseConv::TileTaps {
  std::vector<Piece> pieces;
  std::vector<Tap> taps;
  size_t per_vector = 1;

  void set(const SparseConv& conv, const Geometry& g, int64_t first, int count, int vectors, int lanes) {
    const auto runs = runs_of(g, first, count, vectors, lanes);
    per_vector = 1;
    for (const auto& vector : runs) per_vector = std::max(per_vector, vector.size());
    pieces.clear();
    for (int64_t y = 0; y < conv.kernel_height_; ++y)
      for (int64_t x = 0; x < conv.kernel_width_; ++x)
        add_pieces(pieces, g, runs, per_vector, y * conv.attributes_.dilations[0] - g.pad_y,
                   x * conv.attributes_.dilations[1] - g.pad_x);
    taps.clear();
    const size_t step = per_vector * vectors;
    for (size_t i = 0; i < pieces.size(); i += step)
      taps.push_back({&pieces[i], per_vector == 1 && is_line(&pieces[i], step, lanes)});
  }
};

void SparseConv::work(const Call& call, Tasks& tasks) const {
  const Kernels& kernel = kernels();
  const Geometry& g = call.g;
  const int64_t rows = out_channels_ / attributes_.group;
  ScratchLease scratch;
  TileTaps taps;
  int64_t packed = -1;  // the tile (of a group) whose panel lies in `scratch`
  for (int64_t task; tasks.next(&task);) {
    const int part = static_cast<int>(task % call.parts);
    const int64_t group = task / call.parts / call.tiling.tiles, tile = task / call.parts % call.tiling.tiles;
    const Matrix& matrix = matrices_[group];
    const int vectors = call.tiling.width(tile), width = vectors * kernel.lanes, count = call.tiling.count(tile);
    const int64_t first = call.tiling.first(tile), image = first / g.out_plane();
    const bool fresh = packed != task / call.parts;
    if (fresh) {
      taps.set(*this, g, first, count, vectors, kernel.lanes);
      packed = task / call.parts;
    }
    // All blocks stay in the panel when other parts of the rows will need them again.
    const bool keep = call.parts > 1;
    const int64_t panel_rows = keep ? static_cast<int64_t>(matrix.columns.size()) : matrix.widest_block();
    float* panel = scratch->panel.need(panel_rows * width);
    float* sums = scratch->sums.need(rows * width);
    const bool direct = first + count <= (image + 1) * g.out_plane();
    const int64_t offset = image * out_channels_ * g.out_plane() + group * rows * g.out_plane() + first % g.out_plane();
    const int from = first_group(matrix, part, call.parts), to = first_group(matrix, part + 1, call.parts);
    for (size_t b = 0; b < matrix.blocks.size(); ++b) {
      const Block& block = matrix.blocks[b];
      float* here = keep ? panel + static_cast<int64_t>(block.first_column) * width : panel;
      if (fresh || !keep)
        kernel.pack({here, vectors, call.x + group * in_channels_ * g.plane(), g.plane(),
                     columns_[group].data() + block.first_column, block.columns, taps.taps.data(),
                     static_cast<int>(taps.per_vector), g.stride_x});
      RowsCall rows_call{};
      rows_call.panel = here;
      rows_call.first = b == 0;
      rows_call.last = b + 1 == matrix.blocks.size();
      rows_call.bias = call.bias == nullptr ? nullptr : call.bias + group * rows;
      rows_call.sums = sums;
      rows_call.target = direct ? call.y + offset : nullptr;
      rows_call.target_step = g.out_plane();
      rows_call.residual = direct && call.residual != nullptr ? call.residual + offset : nullptr;
      rows_call.pixels = count;
      rows_call.activation = attributes_.activation;
      for (int i = from; i < to; ++i) kernel.rows(vectors, stretch_of(matrix, block, i, rows_call));
    }
    if (direct) continue;
    for (int64_t row = from * kGroup; row < std::min<int64_t>(to * kGroup, rows); ++row)
      for (int done = 0; done < count;) {
        const int64_t pixel = first + done, at = pixel % g.out_plane();
        const int64_t run = std::min<int64_t>(count - done, g.out_plane() - at);
        const int64_t where = (pixel / g.out_plane() * out_channels_ + group * rows + row) * g.out_plane() + at;
        kernel.finish(call.y + where, sums + row * width + done,
                      call.residual == nullptr ? nullptr : call.residual + where, run, attributes_.activation);
        done += static_cast<int>(run);
      }
  }
}

}  // namespace sparsify
