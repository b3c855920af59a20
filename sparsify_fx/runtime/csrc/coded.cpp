#include "coded.h"

#include <cmath>
#include <cstring>

namespace sparsify {

namespace {

enum Kind : int { kHalf = 1, kInt8 = 2, kPacked = 3 };

// The first bytes of the values. All numbers are little-endian.
struct Header {
  uint8_t format, kind, gap_bits;
  uint8_t detail;   // int8: whether channels lie along the last axis; packed: bits of an exponent's code
  int16_t unit;     // int8: scales are integers times 2^unit
  uint16_t unused;  // 0
  uint64_t count;
};
constexpr int64_t kHeaderBytes = 16, kExponents = 16;
static_assert(sizeof(Header) == kHeaderBytes, "the header is read as it lies in the file");

Header read_header(const Tensor& values) {
  Header header{};
  if (values.size() < kHeaderBytes) throw InvalidArgument("the weight's values are shorter than their header");
  std::memcpy(&header, values.data, kHeaderBytes);
  if (header.format != kNewestFormat || header.kind < kHalf || header.kind > kPacked)
    throw InvalidArgument("the weight's values have format " + std::to_string(header.format) + " and kind " +
                          std::to_string(header.kind) + ", which this library does not know (it reads format " +
                          std::to_string(kNewestFormat) + ", kinds 1 to 3); install a newer version of sparsify_fx");
  if (header.gap_bits < 1 || header.gap_bits > 8)
    throw InvalidArgument("gap codes have " + std::to_string(header.gap_bits) + " bits; expected 1 to 8");
  // No value takes less than a byte: what is checked first bounds everything that is computed from the count.
  if (header.count > static_cast<uint64_t>(values.size()))
    throw InvalidArgument("the weight's values are fewer than their header says: " + std::to_string(header.count));
  return header;
}

// Codes of a few bits one after another, from the lowest bit of the first byte on.
class Bits {
 public:
  Bits(const uint8_t* bytes, int64_t size, int width)
      : bytes_(bytes), size_(size), width_(width), mask_((1 << width) - 1) {}

  int64_t codes() const { return size_ * 8 / width_; }
  int mask() const { return mask_; }

  int code(int64_t i) const {
    const int64_t bit = i * width_, byte = bit >> 3;
    // A code of up to eight bits lies in two bytes at most.
    const int second = byte + 1 < size_ ? bytes_[byte + 1] : 0;
    return ((bytes_[byte] | second << 8) >> (bit & 7)) & mask_;
  }

 private:
  const uint8_t* bytes_;
  int64_t size_;
  int width_, mask_;
};

// The places of all values. The largest code says that so many zeros follow, and no value.
std::vector<int64_t> read_places(const Tensor& gaps, const Header& header, int64_t size) {
  const Bits bits(static_cast<const uint8_t*>(gaps.data), gaps.size(), header.gap_bits);
  const int64_t count = static_cast<int64_t>(header.count), codes = bits.codes();
  std::vector<int64_t> places(count);
  int64_t next = 0, found = 0;
  for (int64_t i = 0; found < count; ++i) {
    if (i == codes) throw InvalidArgument("the gap codes end before the last value");
    const int code = bits.code(i);
    // Without a branch, which would be foreseen badly: a place that is no value's is written over.
    places[found] = next += code;
    const bool is_value = code != bits.mask();
    found += is_value;
    next += is_value;
  }
  if (count > 0 && places.back() >= size) throw InvalidArgument("the gaps lead beyond the end of weight_shape");
  return places;
}

void check_bytes(const Tensor& values, int64_t expected) {
  if (values.size() != kHeaderBytes + expected)
    throw InvalidArgument("the weight's values have " + std::to_string(values.size()) + " bytes; expected " +
                          std::to_string(kHeaderBytes + expected));
}

float of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float of_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 0x3ff;
  if (exponent == 31) return of_bits(sign | 0x7f800000 | mantissa << 13);
  if (exponent > 0) return of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  // A denormal is an integer times 2^-24, which float32 holds as a normal number.
  const float small = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -small : small;
}

void decode_halves(const uint8_t* from, std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, from + 2 * i, sizeof half);
    values[i] = of_half(half);
  }
}

// Scales of all channels, then a signed byte for each value: code times scale in double precision, rounded once.
void decode_int8(const uint8_t* from, const Header& header, int64_t channels, int64_t inner,
                 const std::vector<int64_t>& places, std::vector<float>& values) {
  std::vector<double> scales(channels);
  for (int64_t i = 0; i < channels; ++i) {
    int32_t scale;
    std::memcpy(&scale, from + 4 * i, sizeof scale);
    scales[i] = std::ldexp(static_cast<double>(scale), header.unit);
  }
  const int8_t* codes = reinterpret_cast<const int8_t*>(from + 4 * channels);
  // Places ascend: the channel of the next one is this one or a later one, or, along the last axis, what is left of the
  // place after whole rows. Neither takes a division.
  int64_t channel = 0, row = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (header.detail) {
      while (places[i] - row >= channels) row += channels;
      channel = places[i] - row;
    } else {
      while (places[i] >= row + inner) row += inner, ++channel;
    }
    values[i] = static_cast<float>(codes[i] * scales[channel]);
  }
}

// A table of exponents, sign and mantissa of each value in three bytes, and which exponent it has.
void decode_packed(const uint8_t* from, const Header& header, int64_t bytes, std::vector<float>& values) {
  const size_t count = values.size();
  const uint8_t* mantissas = from + kExponents;
  const Bits exponents(mantissas + 3 * count, bytes - kExponents - 3 * static_cast<int64_t>(count), header.detail);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* at = mantissas + 3 * i;
    const uint32_t low = at[0] | at[1] << 8, high = at[2];
    const uint32_t exponent = from[exponents.code(static_cast<int64_t>(i))];
    values[i] = of_bits((high & 0x80) << 24 | exponent << 23 | (high & 0x7f) << 16 | low);
  }
}

// Kernels skip zeros; the few that codes give, as -0.0, go here.
void drop_zeros(Weights& weights) {
  size_t kept = 0;
  for (size_t i = 0; i < weights.values.size(); ++i) {
    weights.positions[kept] = weights.positions[i];
    weights.values[kept] = weights.values[i];
    kept += weights.values[i] != 0.0f;
  }
  weights.positions.resize(kept);
  weights.values.resize(kept);
}

}  // namespace

Weights read_coded(const Tensor& values, const Tensor& gaps, const std::vector<int64_t>& shape, int64_t size) {
  if (!gaps || gaps.type != kUint8 || gaps.shape.size() != 1 || values.shape.size() != 1)
    throw InvalidArgument("a weight in bytes needs values and gaps that are uint8 vectors");
  const Header header = read_header(values);
  const int64_t count = static_cast<int64_t>(header.count);
  const uint8_t* from = static_cast<const uint8_t*>(values.data) + kHeaderBytes;
  Weights weights{shape, read_places(gaps, header, size), std::vector<float>(count)};
  if (header.kind == kHalf) {
    check_bytes(values, 2 * count);
    decode_halves(from, weights.values);
  } else if (header.kind == kInt8) {
    const int64_t channels = header.detail ? shape.back() : shape.front();
    check_bytes(values, 4 * channels + count);
    decode_int8(from, header, channels, size / channels, weights.positions, weights.values);
  } else {
    const int bits = header.detail;
    if (bits != 1 && bits != 2 && bits != 4)
      throw InvalidArgument("exponents have codes of " + std::to_string(bits) + " bits; expected 1, 2 or 4");
    const int64_t bytes = kExponents + 3 * count + (count * bits + 7) / 8;
    check_bytes(values, bytes);
    decode_packed(from, header, bytes, weights.values);
  }
  drop_zeros(weights);
  return weights;
}

}  // namespace sparsify
