// Padded planes: a layout with room for padding, so that convolutions read each other's results in place.
//
// Such a tensor has one dimension: a header with its sizes, and for every image and band of lines the planes of all
// channels. A plane of a band is its lines, each with one zero after it, which is the padding to the right of this line
// and to the left of the next one. With a halo there are also `lead` floats, in which the line above ends, and the line
// below, so that a tap that reads past a side of the band meets its neighbor, or zeros where the image ends:
//
//     |  lead: ... line above 0 | line 0 0 | line 1 0 | ... | last line 0 | line below 0 | up to `step` |
//                               ^ at(image, band, channel)
//
// What one thread writes, a band, lies together and shares no cache line with another's: processors prefetch what lies
// near what is read, and threads that work on neighboring cache lines wait for each other.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "one_input.h"
#include "ort.h"
#include "workers.h"

namespace sparsify {

class Planes {
 public:
  Planes() = default;
  // `halo`: bands hold the lines of their neighbors, which kernels of more than one pixel read. InvalidArgument for
  // sizes of which the header or the tensor's own size would wrap.
  Planes(int64_t images, int64_t channels, int64_t height, int64_t width, bool halo);
  // Those of a tensor, whose header and size are checked; `name` is for errors.
  static Planes of(const Tensor& tensor, const char* name);

  int64_t images = 0, channels = 0, height = 0, width = 0;
  bool halo = false;
  int64_t bands = 0, lines = 0;           // of an image; of a band, of which the last one may have fewer
  int64_t pitch = 0, lead = 0, step = 0;  // floats of a line, in front of a plane, from one plane to the next

  int64_t positions() const { return lines * pitch; }  // of a band
  int64_t size() const { return floats_; }
  bool empty() const { return images * channels * height * width == 0; }
  bool same_shape(const Planes& other) const;
  bool operator==(const Planes& other) const { return same_shape(other) && halo == other.halo; }
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
  // Zeros into this band's halo where the image ends, and this band's lines into the halos of its neighbors: of the
  // channels [first, end). Each thread writes what comes of its own band, and none reads what another writes.
  void write_halo(float* tensor, int64_t image, int64_t band, int64_t first, int64_t end) const;
  // For every position of a band -1 where there is a pixel, and 0 elsewhere; with zeros up to a multiple of 16.
  std::shared_ptr<const std::vector<int32_t>> kept(int64_t band) const;

 private:
  int64_t floats_ = 0;
  static constexpr int64_t kHeader = 16, kAfter = 64;  // kAfter: whole vectors may be read there
};

template <typename F>
struct PlanesWorker {
  const Planes& planes;
  const int64_t& parts;
  const F& work;

  void run(int64_t task) const {
    const int64_t band = task / parts, part = task % parts;
    work(band / planes.bands, band % planes.bands, planes.channels * part / parts,
         planes.channels * (part + 1) / parts);
  }
};

// Calls work(image, band, first, end) for the channels [first, end) of every band, on the session's threads.
template <typename F>
void share_planes(const OrtApi* api, const OrtKernelContext* context, const Planes& planes, const F& work) {
  const int64_t bands = planes.images * planes.bands;
  const int64_t parts = std::clamp<int64_t>(8 / std::max<int64_t>(bands, 1), 1, std::max<int64_t>(planes.channels, 1));
  run_workers<PlanesWorker<F>>(api, context, bands * parts, planes, parts, work);
}

// NCHW to padded planes, and back.
class PadPlanes : public OneInput {
 public:
  static constexpr const char* kName = "PadPlanes";

  PadPlanes(const OrtApi* api, const OrtKernelInfo* info)
      : api_(api), halo_(attribute_int(api, info, "edges", 0) != 0) {}
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
  bool halo_;
};

class UnpadPlanes : public OneInput {
 public:
  static constexpr const char* kName = "UnpadPlanes";

  UnpadPlanes(const OrtApi* api, const OrtKernelInfo*) : api_(api) {}
  void compute(OrtKernelContext* context) const;

 private:
  const OrtApi* api_;
};

}  // namespace sparsify
