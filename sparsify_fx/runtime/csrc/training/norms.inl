// Sums over the values of a channel, and what batch norm makes of them.

// Floats of a run, after which sums go on in double precision: few enough that rounding stays small.
constexpr int64_t kRun = 4096;

struct Sums {
  double first, second;
};

static inline double total(Vec v) {
  double sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += v[lane];
  return sum;
}

// Sums over a run of a(k) and b(k), which `terms` gives for whole vectors and for single floats.
template <typename Terms>
static inline Sums run_sums(int64_t first, int64_t last, const Terms& terms) {
  // Two of each, so that one addition does not wait for the other.
  Vec a[2] = {}, b[2] = {};
  int64_t k = first;
  for (; k + 2 * LANES <= last; k += 2 * LANES) {
    terms.vectors(k, a[0], b[0]);
    terms.vectors(k + LANES, a[1], b[1]);
  }
  Sums sums{total(a[0] + a[1]), total(b[0] + b[1])};
  for (; k < last; ++k) terms.single(k, sums);
  return sums;
}

template <typename Terms>
static inline Sums sums_of(int64_t count, const Terms& terms) {
  Sums sums{0, 0};
  for (int64_t first = 0; first < count; first += kRun) {
    const Sums run = run_sums(first, first + kRun < count ? first + kRun : count, terms);
    sums.first += run.first;
    sums.second += run.second;
  }
  return sums;
}

// Differences to a value near the mean, and their squares.
template <typename T>
struct Differences {
  const T* values;
  float middle;
  void vectors(int64_t k, Vec& a, Vec& b) const {
    const Vec difference = load(values + k) - middle;
    a += difference;
    b += difference * difference;
  }
  void single(int64_t k, Sums& sums) const {
    const double difference = static_cast<double>(one(values[k])) - middle;
    sums.first += difference;
    sums.second += difference * difference;
  }
};

// Gradients, and their products with differences to the mean.
template <typename T>
struct Products {
  const T* gradients;
  const T* values;
  float mean;
  void vectors(int64_t k, Vec& a, Vec& b) const {
    const Vec gradient = load(gradients + k);
    a += gradient;
    b += gradient * (load(values + k) - mean);
  }
  void single(int64_t k, Sums& sums) const {
    sums.first += one(gradients[k]);
    sums.second += static_cast<double>(one(gradients[k])) * (static_cast<double>(one(values[k])) - mean);
  }
};

// The mean, and the mean square of differences to it.
template <typename T>
static void moments(const T* values, int64_t count, double* mean, double* variance) {
  // The squares of differences to a far value would drown those to the mean.
  const int64_t some = count < kRun ? count : kRun;
  const Sums begin = run_sums(0, some, Differences<T>{values, 0});
  const float middle = static_cast<float>(begin.first / some);
  const Sums sums = sums_of(count, Differences<T>{values, middle});
  const double off = sums.first / count;
  const double square = sums.second / count - off * off;
  *mean = middle + off;
  *variance = square > 0 ? square : 0;
}

template <typename T>
static void correlations(const T* gradients, const T* values, int64_t count, float mean, double* of_gradients,
                         double* of_products) {
  const Sums sums = sums_of(count, Products<T>{gradients, values, mean});
  *of_gradients = sums.first;
  *of_products = sums.second;
}

// out[k] = scale (values[k] - middle) + offset
template <typename T>
static void scaled(const T* values, float middle, float scale, float offset, int64_t count, T* out) {
  int64_t k = 0;
  for (; k + LANES <= count; k += LANES) store(out + k, (load(values + k) - middle) * scale + offset);
  for (; k < count; ++k) put(out + k, (one(values[k]) - middle) * scale + offset);
}

// out[k] = scale gradients[k] + slope (values[k] - middle) + offset
template <typename T>
static void combined(const T* gradients, float scale, const T* values, float middle, float slope, float offset,
                     int64_t count, T* out) {
  int64_t k = 0;
  for (; k + LANES <= count; k += LANES) {
    store(out + k, load(gradients + k) * scale + ((load(values + k) - middle) * slope + offset));
  }
  for (; k < count; ++k) put(out + k, one(gradients[k]) * scale + ((one(values[k]) - middle) * slope + offset));
}
