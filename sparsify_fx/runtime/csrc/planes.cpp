#include "planes.h"

#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "cache.h"

namespace sparsify {

namespace {

constexpr int32_t kMark = 0x53504c31;         // in the header of every such tensor
constexpr size_t kMasks = 64;                 // that are kept
constexpr int64_t kBand = 832, kAlone = 128;  // positions: of a band at most, of an image that may be one band
constexpr int64_t kHalf = 17;                 // of a band that is worth a thread of its own

// As memcpy, which is a call, of a few floats.
inline void copy_line(float* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) std::memcpy(to + i, from + i, 16);
  for (; i < count; ++i) to[i] = from[i];
}

}  // namespace

Planes::Planes(int64_t images_, int64_t channels_, int64_t height_, int64_t width_, bool halo_)
    : images(images_), channels(channels_), height(height_), width(width_), halo(halo_), pitch(width_ + 1) {
  checked_most("the number of images of padded planes", images, INT32_MAX);
  checked_most("the number of channels of padded planes", channels, INT32_MAX);
  // So that the offsets of taps, a line and a pixel away, fit into 32 bits.
  checked_most("the number of lines of padded planes", height, kMaxLength);
  checked_most("the number of columns of padded planes", width, kMaxLength);
  const int64_t all = height * pitch, half = (height + 1) / 2 * pitch;
  // Two bands are for two threads; small images have them where that makes no vector more.
  const bool two = all > kAlone || (half >= kHalf && 2 * round_up(half, kLineFloats) <= round_up(all, kLineFloats));
  const int64_t wanted = std::max<int64_t>(two ? 2 : 1, (all + kBand - 1) / kBand);
  lines = std::max<int64_t>(1, (height + wanted - 1) / wanted);
  bands = std::max<int64_t>(1, (height + lines - 1) / lines);
  // Planes begin at cache lines and tiles at vectors, so that no store crosses a cache line.
  lead = halo ? round_up(pitch + 1, kLineFloats) : 0;
  step = odd_lines(lead + round_up(positions(), kLineFloats) + (halo ? pitch + 1 : 0));
  checked_product("the tensor of padded planes (images, bands, channels, floats of a plane)",
                  {images, bands, channels, step});
  floats_ = kHeader + images * bands * channels * step + kAfter;
}

bool Planes::same_shape(const Planes& other) const {
  return images == other.images && channels == other.channels && height == other.height && width == other.width;
}

Planes Planes::of(const Tensor& tensor, const char* name) {
  const auto wrong = [&](const std::string& what) { return InvalidArgument(std::string("input ") + name + what); };
  int32_t sizes[6] = {};
  if (tensor.type == kFloat && tensor.shape.size() == 1 && tensor.size() >= kHeader)
    std::memcpy(sizes, tensor.data, sizeof sizes);
  if (sizes[0] != kMark) throw wrong(" must hold padded planes, as PadPlanes makes them");
  const std::string told = " has a damaged header: it tells the sizes " + in_brackets({sizes + 1, sizes + 5});
  Planes planes;
  try {
    planes = Planes(sizes[1], sizes[2], sizes[3], sizes[4], sizes[5] != 0);
  } catch (const InvalidArgument& error) {
    throw wrong(told + "; " + error.what());
  }
  if (planes.size() != tensor.size())
    throw wrong(told + ", which take " + std::to_string(planes.size()) + " floats; there are " +
                std::to_string(tensor.size()));
  return planes;
}

void Planes::write_header(float* tensor) const {
  const int32_t sizes[kHeader] = {kMark,
                                  static_cast<int32_t>(images),
                                  static_cast<int32_t>(channels),
                                  static_cast<int32_t>(height),
                                  static_cast<int32_t>(width),
                                  halo};
  std::memcpy(tensor, sizes, sizeof sizes);
}

void Planes::write_halo(float* tensor, int64_t image, int64_t band, int64_t first, int64_t end) const {
  if (!halo) return;
  const bool top = band == 0, bottom = band + 1 == bands;
  for (int64_t channel = first; channel < end; ++channel) {
    float* plane = tensor + at(image, band, channel);
    float* above = top ? plane : tensor + at(image, band - 1, channel);
    float* below = bottom ? plane : tensor + at(image, band + 1, channel);

    // 1. The first line is the one below the band above.
    if (top)
      std::fill_n(plane - pitch - 1, pitch + 1, 0.0f);
    else
      copy_line(above + positions(), plane, pitch);

    // 2. The last line is the one above the band below; one float before it is the padding to its left. Only the last
    // band of an image may have fewer lines, so that here the last line lies right before `positions`.
    if (bottom) {
      std::fill_n(plane + positions(), pitch, 0.0f);
    } else {
      below[-pitch - 1] = 0.0f;
      copy_line(below - pitch, plane + positions() - pitch, pitch);
    }
  }
}

// Shared by all operators of the process: a model has few sizes of bands, and every run needs two of their masks.
std::shared_ptr<const std::vector<int32_t>> Planes::kept(int64_t band) const {
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, int64_t>, std::shared_ptr<const std::vector<int32_t>>> known;
  const int64_t held = lines_of(band);
  std::lock_guard<std::mutex> lock(mutex);
  auto& found = known[{lines, held, width}];
  if (found != nullptr) return found;
  auto lanes = std::make_shared<std::vector<int32_t>>(static_cast<size_t>(round_up(positions(), kLineFloats)), 0);
  for (int64_t y = 0; y < held; ++y) std::fill_n(lanes->begin() + y * pitch, width, -1);
  const std::shared_ptr<const std::vector<int32_t>> made = found = std::move(lanes);
  if (known.size() > kMasks) known.clear();
  return made;
}

void PadPlanes::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  if (x.type != kFloat || x.shape.size() != 4) throw InvalidArgument("input X must be float32 and have 4 dimensions");
  const Planes planes(x.shape[0], x.shape[1], x.shape[2], x.shape[3], halo_);
  const Tensor y = output(api_, context, {planes.size()});
  float* target = y.writable();
  planes.write_header(target);
  const int64_t width = planes.width, size = planes.height * width;
  share_planes(api_, context, planes, [&](int64_t image, int64_t band, int64_t first, int64_t end) {
    const int64_t held = planes.lines_of(band);
    for (int64_t channel = first; channel < end; ++channel) {
      float* to = target + planes.at(image, band, channel);
      const float* from = x.floats() + (image * planes.channels + channel) * size + band * planes.lines * width;
      for (int64_t line = 0; line < held; ++line, from += width, to += planes.pitch) {
        copy_line(to, from, width);
        to[width] = 0.0f;
      }
      std::fill_n(to, (planes.lines - held) * planes.pitch, 0.0f);
    }
    planes.write_halo(target, image, band, first, end);
  });
}

void UnpadPlanes::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  const Planes planes = Planes::of(x, "X");
  const int64_t width = planes.width, size = planes.height * width;
  const Tensor y = output(api_, context, {planes.images, planes.channels, planes.height, width});
  if (planes.empty()) return;
  share_planes(api_, context, planes, [&](int64_t image, int64_t band, int64_t first, int64_t end) {
    for (int64_t channel = first; channel < end; ++channel) {
      const float* from = x.floats() + planes.at(image, band, channel);
      float* to = y.writable() + (image * planes.channels + channel) * size + band * planes.lines * width;
      for (int64_t line = 0; line < planes.lines_of(band); ++line, from += planes.pitch, to += width)
        copy_line(to, from, width);
    }
  });
}

}  // namespace sparsify
