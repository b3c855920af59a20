#include "product.h"

#include <algorithm>
#include <exception>
#include <mutex>

namespace sparsify {

Shape choose_shape(double density, double taps) {
  const Kernels& kernel = kernels();
  // A panel of this many floats stays in the first level cache.
  const int cached = 8192 / (kernel.max_vectors * kernel.lanes) / (taps > 1 ? 2 : 1);
  // A row should meet some non-zeros in every block, or starting and ending it costs more than its products.
  const int enough = static_cast<int>(std::min(28.0 / std::max(density * taps, 1e-3), 700.0));
  return {kernel.max_vectors, std::max(cached, enough)};
}

int row_parts(const Matrix& matrix, int64_t tiles) {
  const int64_t wanted = 8;
  return static_cast<int>(std::clamp<int64_t>((wanted + tiles - 1) / tiles, 1, std::max(1, matrix.groups())));
}

bool Tasks::take(int64_t* place) {
  const int64_t first = *place;
  for (int64_t i = 0; i < count() && left_.load(std::memory_order_relaxed) > 0; ++i) {
    *place = first + i < count() ? first + i : first + i - count();
    std::atomic<bool>& taken = taken_[static_cast<size_t>(*place)];
    if (!taken.load(std::memory_order_relaxed) && !taken.exchange(true, std::memory_order_relaxed)) {
      left_.fetch_sub(1, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

namespace {

struct Work {
  Tasks tasks;
  int64_t workers;
  const std::function<void(Share&)>& worker;
  std::mutex mutex;
  std::exception_ptr error;
};

void work_on(void* argument, size_t number) {
  Work& work = *static_cast<Work*>(argument);
  try {
    Share share(work.tasks, static_cast<int64_t>(number) * work.tasks.count() / work.workers);
    work.worker(share);
  } catch (...) {
    std::lock_guard<std::mutex> lock(work.mutex);
    if (!work.error) work.error = std::current_exception();
  }
}

}  // namespace

void run_workers(const OrtApi* api, const OrtKernelContext* context, int64_t tasks,
                 const std::function<void(Share&)>& worker) {
  Work work{Tasks(tasks), std::min<int64_t>(tasks, 64), worker, {}, {}};
  if (work.workers == 1)
    work_on(&work, 0);
  else if (work.workers > 1)
    check(api, ParallelFor::call(api, context, work_on, static_cast<size_t>(work.workers), 0, &work));
  if (work.error) std::rethrow_exception(work.error);
}

}  // namespace sparsify
