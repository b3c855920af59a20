#include "halve_planes.h"

#include <algorithm>
#include <cstring>

namespace sparsify {

namespace {

int64_t channels(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  const int64_t count = attribute_int(api, info, name, 0);
  return checked_most(name, count, kMaxLength);
}

// Four at a time; after the last pixel of a line there is a zero, so that all eight that are read exist.
void copy_even(float* to, const float* from, int64_t count) {
  typedef float Four __attribute__((vector_size(16)));
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    Four low, high;
    std::memcpy(&low, from + 2 * i, sizeof low);
    std::memcpy(&high, from + 2 * i + 4, sizeof high);
    const Four even = {low[0], low[2], high[0], high[2]};
    std::memcpy(to + i, &even, sizeof even);
  }
  for (; i < count; ++i) to[i] = from[2 * i];
}

}  // namespace

HalvePlanes::HalvePlanes(const OrtApi* api, const OrtKernelInfo* info)
    : api_(api), before_(channels(api, info, "before")), after_(channels(api, info, "behind")),
      halo_(attribute_int(api, info, "edges", 0) != 0) {}

void HalvePlanes::compute(OrtKernelContext* context) const {
  const Tensor x = input(api_, context, kX);
  const Planes in = Planes::of(x, "X");
  const Planes out(in.images, before_ + in.channels + after_, (in.height + 1) / 2, (in.width + 1) / 2, halo_);
  const Tensor y = output(api_, context, {out.size()});
  float* target = y.writable();
  out.write_header(target);
  if (out.empty()) return;
  share_planes(api_, context, out, [&](int64_t image, int64_t band, int64_t first, int64_t end) {
    for (int64_t channel = first; channel < end; ++channel) {
      float* to = target + out.at(image, band, channel);
      const int64_t source = channel - before_;
      const bool exists = source >= 0 && source < in.channels;
      if (!exists) {
        std::fill_n(to, out.positions(), 0.0f);
        continue;
      }
      const int64_t held = out.lines_of(band);
      for (int64_t line = 0; line < held; ++line, to += out.pitch) {
        const float* from = x.floats() + in.line_at(image, 2 * (band * out.lines + line)) + source * in.step;
        copy_even(to, from, out.width);
        to[out.width] = 0.0f;
      }
      std::fill_n(to, (out.lines - held) * out.pitch, 0.0f);
    }
    out.write_halo(target, image, band, first, end);
  });
}

}  // namespace sparsify
