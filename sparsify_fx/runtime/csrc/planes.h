// Planes with room for padding around them, so that convolutions read each other's results in place.
//
// Such a tensor has one dimension: a header with its sizes, and for every image and band of lines the planes of all
// channels. A plane of a band is its lines, each with one zero behind it; with edges also `lead` floats, in which the
// line above ends, and the line below, so that a tap that reads past a side of the band meets its neighbour, or zeros
// where the image ends. What one thread writes, a band, lies together and shares no cache line with another's:
// processors fetch what lies near what is read, and threads that work on neighbouring lines of memory wait for each
// other.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "ort.h"
#include "product.h"

namespace sparsify {

class Planes {
 public:
  Planes() = default;
  // `edges`: bands hold the lines of their neighbours, which kernels of more than one pixel read. InvalidArgument for
  // sizes of which the header or the tensor's own size would wrap.
  Planes(int64_t images, int64_t channels, int64_t height, int64_t width, bool edges);
  // Those of a tensor, whose header and size are checked; `name` is for errors.
  static Planes of(const Tensor& tensor, const char* name);

  int64_t images = 0, channels = 0, height = 0, width = 0;
  bool edges = false;
  int64_t bands = 0, lines = 0;           // of an image; of a band, of which the last one may have fewer
  int64_t pitch = 0, lead = 0, step = 0;  // floats of a line, in front of a plane, from one plane to the next

  int64_t positions() const { return lines * pitch; }  // of a band
  int64_t size() const { return floats_; }
  bool empty() const { return images * channels * height * width == 0; }
  bool same_shape(const Planes& other) const;
  bool operator==(const Planes& other) const { return same_shape(other) && edges == other.edges; }
  // Position 0 of a band.
  int64_t at(int64_t image, int64_t band, int64_t channel = 0) const {
    return kHeader + ((image * bands + band) * channels + channel) * step + lead;
  }
  // Pixel 0 of line y of channel 0, which may be the one above or below the image.
  int64_t line_at(int64_t image, int64_t y) const {
    const int64_t band = std::clamp<int64_t>(y / std::max<int64_t>(lines, 1), 0, bands - 1);
    return at(image, band) + (y - band * lines) * pitch;
  }
  int64_t lines_of(int64_t band) const { return std::min(lines, height - band * lines); }

  void write_header(float* tensor) const;
  // What neighbouring bands hold of each other, or the zeros at the edges of the image: of the channels [first, end).
  void write_edges(float* tensor, int64_t image, int64_t band, int64_t first, int64_t end) const;
  // For every position of a band -1 where there is a pixel, and 0 elsewhere; with zeros up to a multiple of 16.
  std::shared_ptr<const std::vector<int32_t>> kept(int64_t band) const;

 private:
  int64_t floats_ = 0;
  static constexpr int64_t kHeader = 16, kBehind = 64;  // kBehind: whole vectors may be read there
};

// Calls work(image, band, first, end) for the channels [first, end) of every band, on the session's threads.
template <typename F>
void share_planes(const OrtApi* api, const OrtKernelContext* context, const Planes& planes, F work) {
  const int64_t bands = planes.images * planes.bands;
  const int64_t parts = std::clamp<int64_t>(8 / std::max<int64_t>(bands, 1), 1, std::max<int64_t>(planes.channels, 1));
  run_workers(api, context, bands * parts, [&](Share& share) {
    for (int64_t task; share.next(&task);) {
      const int64_t band = task / parts, part = task % parts;
      work(band / planes.bands, band % planes.bands, planes.channels * part / parts,
           planes.channels * (part + 1) / parts);
    }
  });
}

// NCHW to such planes, and back.
class PadPlanes {
 public:
  static constexpr const char* kName = "PadPlanes";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  PadPlanes(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api), edges_(attribute_int(api, info, "edges", 0) != 0) {}
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  bool edges_;
};

class UnpadPlanes {
 public:
  static constexpr const char* kName = "UnpadPlanes";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kMoreGaps = 2;
  static constexpr int kResidual = 0;
  static constexpr bool kResidualInPlace = false;

  UnpadPlanes(const OrtApi* api, const OrtKernelInfo*) : api_(api) {}
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
};

}  // namespace sparsify
