#include "conv_planes.h"

#include <algorithm>

namespace sparsify {

namespace {

constexpr int64_t kCachedFloats = int64_t{1} << 14;  // 64 KiB: a band of all rows that needs no prefetching

// As few chunks as the cache allows: the lines at their ends are packed twice.
int64_t count_chunks(const Matrix& matrix, const Tiling& tiling, int64_t more, int64_t tile) {
  const int64_t room = kPanelFloats / std::max<int64_t>(1, static_cast<int64_t>(matrix.planes.size())) - more;
  const int64_t chunk = std::max<int64_t>(1, room / tile);
  return (tiling.tiles + chunk - 1) / chunk;
}

const ConvAttributes& checked_planes(const ConvAttributes& a) {
  const int64_t side = a.kernel_height, stride = a.strides[0];
  const bool fits = a.rank == 4 && a.group == 1 && a.kernel_width == side && (side == 1 || side == 3) &&
                    a.strides[1] == stride && stride <= 2 && a.dilations == std::vector<int64_t>{1, 1} &&
                    a.pads == std::vector<int64_t>(4, side / 2);
  if (!fits)
    throw InvalidArgument(
        "padded planes need kernels of 1x1 without pads or of 3x3 with pads of 1, equal strides of 1 or 2, one group "
        "and no dilations");
  return a;
}

}  // namespace

PlanesConv::PlanesConv(const ConvModel& model, bool halo)
    : attributes_(checked_planes(model.attributes)), halo_(halo), direct_(attributes_.strides[0] == 1),
      weight_(model.weights, attributes_, direct_ || attributes_.kernel_height == 1) {}

Planes PlanesConv::output_planes(const Planes& in, const char* name) const {
  const ConvAttributes& a = attributes_;
  if (in.channels != a.in_channels)
    throw InvalidArgument(std::string("input ") + name + " has " + std::to_string(in.channels) +
                          " channels; the weight needs " + std::to_string(a.in_channels));
  if (a.kernel_height > 1 && !in.halo)
    throw InvalidArgument(std::string("input ") + name + " has bands without the edges that a kernel of 3x3 reads");
  const auto length = [&](int64_t side) { return (side + a.strides[0] - 1) / a.strides[0]; };
  return {in.images, a.out_channels, length(in.height), length(in.width), halo_};
}

std::shared_ptr<const PlanesConv::Places> PlanesConv::places_for(int64_t step,
                                                                 const std::vector<int32_t>& offsets) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (places_ != nullptr && places_->step == step && places_->offsets == offsets) return places_;
  const Matrix& matrix = weight_.matrices[0];
  auto made = std::make_shared<Places>(Places{step, offsets, {}});
  // Places are 32 bits wide, as planes and taps together were: rows read no more memory than before.
  if ((matrix.widest_block() + 1) * step < INT32_MAX) {
    made->nonzeros.reserve(matrix.nonzeros.size());
    for (const Nonzero& each : matrix.nonzeros)
      made->nonzeros.push_back({static_cast<int32_t>(each.plane * step + offsets[each.tap]), each.value});
  }
  return places_ = std::move(made);
}

PlanesConv::Call::Call(const PlanesConv& conv, const Planes& in_, const Planes& out_, const float* x_,
                       const float* bias_, const float* residual_, float* y_)
    : in(in_), out(out_), x(x_), bias(bias_), residual(residual_), y(y_), direct(conv.direct_), kept(out_.kept(0)),
      kept_last(out_.kept(out_.bands - 1)), tiling(out_.positions(), kernels().lanes, conv.weight_.max_vectors, false) {
  const Taps& taps = conv.weight_.taps;
  // Where the panel is the input itself, position 0 is pixel 0, and the taps of a 3x3 kernel begin a line and a pixel
  // before it, in the halo. A packed panel already begins there.
  const int64_t pad = direct ? conv.attributes_.pads[0] : 0;
  for (size_t tap = 0; tap < taps.phase.size(); ++tap)
    offsets.push_back(static_cast<int32_t>((taps.down[tap] - pad) * out.pitch + taps.right[tap] - pad));
  // With the distance of planes known, plane and tap of a non-zero become one number, once for all runs of this size.
  if (direct) places = conv.places_for(in.step, offsets);
  reach = taps.most_down * out.pitch + taps.most_right;
  const int64_t tile = static_cast<int64_t>(conv.weight_.max_vectors) * kernels().lanes;
  chunks = direct ? tiling.tiles : count_chunks(conv.weight_.matrices[0], tiling, reach + out.pitch, tile);
  parts = row_parts(conv.weight_.matrices[0], out.images * out.bands);
}

// With a stride of two also where the lines of every phase come from that the tiles of the chunk read.
void PlanesConv::Worker::set_chunk(int64_t chunk) {
  first_tile_ = call_.first_tile(chunk), end_tile_ = call_.first_tile(chunk + 1);
  if (call_.direct) return;
  const Planes &in = call_.in, &out = call_.out;
  const std::vector<Shift>& shifts = conv_.weight_.taps.phases;
  const int64_t pad = conv_.attributes_.pads[0], end = call_.tiling.first(end_tile_) + call_.reach;
  first_line_ = call_.tiling.first(first_tile_) / out.pitch;
  const int64_t lines = (end + out.pitch - 1) / out.pitch - first_line_;
  plane_step_ = odd_lines(lines * out.pitch);
  lines_.clear();
  for (const Shift& shift : shifts)
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t y = 2 * (band_ * out.lines + first_line_ + i) + shift.y - pad;
      // After the last line that there is, nothing that an output pixel needs; any line will do.
      const int64_t last = in.halo ? in.height : in.height - 1;
      lines_.push_back(in.line_at(image_, std::min(y, last)) + shift.x - pad);
    }
}

const float* PlanesConv::Worker::panel_of(const Block& block, bool pack) {
  const Planes& in = call_.in;
  if (call_.direct) return call_.x + in.at(image_, band_, block.first_plane);
  const Matrix& matrix = conv_.weight_.matrices[0];
  const size_t phases = conv_.weight_.taps.phases.size();
  // All blocks stay in the panel when other parts of the rows will need them again.
  const bool keep = call_.parts > 1 && call_.chunks == 1;
  const int64_t rows = keep ? static_cast<int64_t>(matrix.planes.size()) : matrix.widest_block();
  // One plane and a vector more: `rows` may read whole vectors past the last position, `pack_even` write them.
  float* panel = scratch_->panel.need((rows + 1) * plane_step_ + 16) + (keep ? block.first_plane * plane_step_ : 0);
  if (pack || !keep)
    kernels().pack_even({panel, plane_step_, call_.x, in.step, conv_.weight_.sources[0].data() + block.first_plane,
                         block.planes, lines_.data(), static_cast<int64_t>(lines_.size() / phases), call_.out.pitch});
  return panel - first_line_ * call_.out.pitch;  // so that all offsets count from position 0 of the band
}

void PlanesConv::Worker::multiply(const Block& block, const float* panel, int64_t tile, int first_rows, int end_rows) {
  const Kernels& kernel = kernels();
  const Planes& out = call_.out;
  const Matrix& matrix = conv_.weight_.matrices[0];
  const int64_t position = call_.tiling.first(tile), plane = out.at(image_, band_);
  const Piece output{position, 0, 0};
  RowsCall call{};
  call.panel = panel + position;
  call.plane_step = call_.direct ? call_.in.step : plane_step_;
  call.offsets = call_.offsets.data();
  call.places = call_.places == nullptr || call_.places->nonzeros.empty() ? nullptr : call_.places->nonzeros.data();
  call.cached = matrix.rows * out.step <= kCachedFloats;
  call.first = &block == &matrix.blocks.front();
  call.last = &block == &matrix.blocks.back();
  call.bias = call_.bias;
  if (matrix.blocks.size() > 1) {
    const int64_t first = call_.tiling.first(first_tile_), chunk = call_.tiling.first(end_tile_) - first;
    call.sums = scratch_->sums.need(matrix.rows * chunk) + matrix.rows * (position - first);
  }
  call.target = call_.y + plane;
  call.target_step = out.step;
  call.residual = call_.residual == nullptr ? nullptr : call_.residual + plane;
  call.outputs = &output;
  call.outputs_per_vector = 1;
  call.whole = true;
  call.kept = (band_ + 1 == out.bands ? call_.kept_last : call_.kept)->data() + position;
  call.written = call_.tiling.count(tile) % kernel.lanes;
  call.activation = conv_.attributes_.activation;
  for (int i = first_rows; i < end_rows; ++i) kernel.rows(call_.tiling.width(tile), stretch_of(matrix, block, i, call));
}

void PlanesConv::Worker::run(int64_t task) {
  const Matrix& matrix = conv_.weight_.matrices[0];
  const Planes& out = call_.out;
  const int part = static_cast<int>(task % call_.parts);
  const int64_t band = task / call_.parts % out.bands, image = task / call_.parts / out.bands;
  const bool fresh = band != band_ || image != image_;
  image_ = image, band_ = band;
  const int from = first_group(matrix, part, call_.parts), to = first_group(matrix, part + 1, call_.parts);
  for (int64_t chunk = 0; chunk < call_.chunks; ++chunk) {
    set_chunk(chunk);
    for (const Block& block : matrix.blocks) {
      const float* panel = panel_of(block, fresh);
      for (int64_t tile = first_tile_; tile < end_tile_; ++tile) multiply(block, panel, tile, from, to);
    }
  }
  // Only of the rows of this part: other threads write those of the others.
  out.write_halo(call_.y, image, band, from * kGroup, std::min(to * kGroup, matrix.rows));
}

void PlanesConv::compute(const OrtApi* api, OrtKernelContext* context, const ConvInputs& inputs) const {
  const Planes in = Planes::of(inputs.x, "X"), out = output_planes(in, "X");
  const float* bias = checked_bias(attributes_, inputs.bias, "B");
  if (inputs.residual && !(Planes::of(inputs.residual, "Z") == out))
    throw InvalidArgument("input Z must have the shape and the edges of the output");
  const Tensor y = output(api, context, {out.size()});
  out.write_header(y.writable());
  if (out.empty()) return;
  const float* residual = inputs.residual ? inputs.residual.floats() : nullptr;
  const Call call(*this, in, out, inputs.x.floats(), bias, residual, y.writable());
  run_workers<Worker>(api, context, call.tasks(), *this, call);
}

}  // namespace sparsify
