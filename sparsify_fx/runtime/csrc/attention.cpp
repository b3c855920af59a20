#include "attention.h"

#include <algorithm>
#include <cstring>

#include "product.h"

namespace sparsify {

namespace {

constexpr int64_t kMost = 1 << 20;  // heads, and floats to a head
constexpr int64_t kScores = 16384;  // of a block of query rows
constexpr int64_t kFewTasks = 8;

}  // namespace

Attention::Attention(const OrtApi* api, const OrtKernelInfo* info)
    : api_(api), heads_(attribute_int(api, info, "heads", 0)), head_(attribute_int(api, info, "head_size", 0)),
      tokens_first_(attribute_int(api, info, "tokens_first", 0) != 0) {
  if (std::min(heads_, head_) < 1 || std::max(heads_, head_) > kMost)
    throw InvalidArgument("heads and head_size must be from 1 to " + std::to_string(kMost));
  const std::vector<float> scales = attribute_floats(api, info, "scales");
  if (!scales.empty() && scales.size() != 3)
    throw InvalidArgument("scales needs 3 values: of queries, of keys and of their products");
  for (float scale : scales) scale_ *= scale;
}

namespace {

// Sizes of one run, and where things lie. Query rows of a head are cut into blocks, whole groups of kDenseRows.
struct Layout {
  int64_t images, tokens, heads, head;  // `head` floats to a head and token
  int64_t image_step, token_step;       // of the output; three times that in the input
  Tiling keys, columns;                 // tiles of the keys, and of a head's floats
  int64_t groups, blocks;
  float scale;

  Layout(int64_t images_, int64_t tokens_, int64_t heads_, int64_t head_, bool tokens_first, float scale_)
      : images(images_), tokens(tokens_), heads(heads_), head(head_),
        image_step(tokens_first ? channels() : tokens_ * channels()),
        token_step(tokens_first ? images_ * channels() : channels()),
        keys(tokens_, kernels().lanes, kernels().dense_vectors),
        columns(head, kernels().lanes, kernels().dense_vectors), groups((tokens_ + kDenseRows - 1) / kDenseRows),
        scale(scale_) {
    const int64_t most = std::max<int64_t>(1, kScores / score_step() / kDenseRows);
    const int64_t enough = (kFewTasks + images * heads - 1) / (images * heads);
    blocks = even(std::min(groups, std::max((groups + most - 1) / most, enough)));
  }

  int64_t channels() const { return heads * head; }
  int64_t first_row(int64_t block) const { return std::min(groups * block / blocks * kDenseRows, tokens); }
  int64_t most_rows() const { return (groups + blocks - 1) / blocks * kDenseRows; }
  int64_t score_step() const { return odd_lines(keys.vectors * keys.lanes); }
  int64_t padded_head() const { return columns.vectors * columns.lanes; }
  int64_t key_floats() const { return keys.vectors * keys.lanes * head; }
};

// The keys and values of a head as `dense` reads them: tiles of keys, transposed; rows of values, in whole vectors.
void pack_head(const Layout& l, const float* queries, float* keys, float* values) {
  const float *key = queries + l.channels(), *value = key + l.channels();
  const int64_t step = 3 * l.token_step, padded = l.padded_head();
  for (int64_t tile = 0; tile < l.keys.tiles; ++tile)
    kernels().pack_transposed(keys + l.keys.first(tile) * l.head, l.keys.width(tile) * l.keys.lanes,
                              key + l.keys.first(tile) * step, step, l.keys.count(tile), static_cast<int>(l.head));
  for (int64_t token = 0; token < l.tokens; ++token, values += padded, value += step) {
    std::memcpy(values, value, static_cast<size_t>(l.head) * sizeof(float));
    std::fill(values + l.head, values + padded, 0.0f);
  }
}

// Where the rows of a block have their scores, their factors, and the sums of the values so far.
struct Buffers {
  float *scores, *factors, *sums;
};

// The rows of weights times the values, some tokens after others: all of a head's values would not stay in the cache.
void add_values(const Layout& l, const float* values, const Buffers& buffers, int rows, float* target) {
  const int64_t padded = l.padded_head(), parts = (l.tokens * padded + kTileFloats - 1) / kTileFloats;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t from = l.tokens * part / parts, to = l.tokens * (part + 1) / parts;
    const bool last = part + 1 == parts;
    for (int64_t tile = 0; tile < l.columns.tiles; ++tile) {
      const int64_t at = l.columns.first(tile);
      const int width = l.columns.width(tile);
      DenseCall call{buffers.scores + from,
                     l.score_step(),
                     rows,
                     static_cast<int>(to - from),
                     values + from * padded + at,
                     padded,
                     part == 0 ? nullptr : buffers.sums + at,
                     padded,
                     buffers.sums + at,
                     padded,
                     width * l.columns.lanes,
                     nullptr};
      if (last) {
        call.target = target + at;
        call.target_step = l.token_step;
        call.columns = l.columns.count(tile);
        call.factors = buffers.factors;
      }
      kernels().dense(width, call);
    }
  }
}

// softmax(scale Q K^T) V for the rows of one block: scores tile by tile of keys, their softmax in place, and the values
// weighted by it. What softmax divides by is a factor of the last product, so that no pass over the scores does it.
void attend(const Layout& l, const float* queries, const float* keys, const float* values, const Buffers& buffers,
            int rows, float* target) {
  std::fill_n(buffers.factors, rows, l.scale);
  for (int64_t tile = 0; tile < l.keys.tiles; ++tile) {
    const int width = l.keys.width(tile), floats = width * l.keys.lanes;
    kernels().dense(
        width, {queries, 3 * l.token_step, rows, static_cast<int>(l.head), keys + l.keys.first(tile) * l.head, floats,
                nullptr, 0, buffers.scores + l.keys.first(tile), l.score_step(), floats, buffers.factors});
  }
  kernels().softmax({buffers.scores, l.score_step(), rows, static_cast<int>(l.tokens), buffers.factors});
  add_values(l, values, buffers, rows, target);
}

// A task is a block of query rows of one head.
class Worker {
 public:
  Worker(const Layout& l, const float* x, float* y) : l_(l), x_(x), y_(y) {
    keys_ = scratch_->panel.need(l.key_floats() + l.tokens * l.padded_head());
    values_ = keys_ + l.key_floats();
    float* scores = scratch_->sums.need(l.most_rows() * (l.score_step() + l.padded_head() + 1));
    float* sums = scores + l.most_rows() * l.score_step();
    buffers_ = {scores, sums + l.most_rows() * l.padded_head(), sums};
  }

  void run(int64_t task) {
    const int64_t number = task / l_.blocks, image = number / l_.heads, head = number % l_.heads;
    const int64_t first = l_.first_row(task % l_.blocks);
    const int rows = static_cast<int>(l_.first_row(task % l_.blocks + 1) - first);
    const float* queries = x_ + image * 3 * l_.image_step + head * l_.head;
    // Neighboring tasks are blocks of one head, whose keys and values then lie packed already.
    if (packed_ != number) pack_head(l_, queries, keys_, values_);
    packed_ = number;
    attend(l_, queries + first * 3 * l_.token_step, keys_, values_, buffers_, rows,
           y_ + image * l_.image_step + head * l_.head + first * l_.token_step);
  }

 private:
  const Layout& l_;
  const float* x_;
  float* y_;
  ScratchLease scratch_;
  float *keys_, *values_;
  Buffers buffers_;
  int64_t packed_ = -1;  // the head whose keys and values those are
};

}  // namespace

void Attention::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  const int64_t channels = heads_ * head_;
  if (x.type != kFloat || x.shape.size() != 3 || x.shape[2] != 3 * channels)
    throw InvalidArgument("the input must be float32 with 3 dimensions, the last one of " +
                          std::to_string(3 * channels));
  checked_product("the input", x.shape);
  for (int64_t length : {x.shape[0], x.shape[1]}) checked_most("the number of images or tokens", length, kMaxLength);
  const Tensor y = output(api_, context, {x.shape[0], x.shape[1], channels});
  if (y.size() == 0) return;
  const Layout l(x.shape[tokens_first_ ? 1 : 0], x.shape[tokens_first_ ? 0 : 1], heads_, head_, tokens_first_, scale_);
  const float* from = x.floats();
  float* to = y.writable();
  run_workers<Worker>(api_, context, l.images * l.heads * l.blocks, l, from, to);
}

}  // namespace sparsify
