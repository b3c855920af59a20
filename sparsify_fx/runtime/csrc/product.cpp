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

namespace {

struct Work {
  Tasks* tasks;
  const std::function<void(Tasks&)>* worker;
  std::mutex mutex;
  std::exception_ptr error;
};

void work_on(void* argument, size_t) {
  Work& work = *static_cast<Work*>(argument);
  try {
    (*work.worker)(*work.tasks);
  } catch (...) {
    std::lock_guard<std::mutex> lock(work.mutex);
    if (!work.error) work.error = std::current_exception();
  }
}

}  // namespace

void run_workers(const OrtApi* api, const OrtKernelContext* context, Tasks& tasks,
                 const std::function<void(Tasks&)>& worker) {
  Work work{&tasks, &worker, {}, {}};
  const size_t workers = static_cast<size_t>(std::min<int64_t>(tasks.count(), 64));
  if (workers == 1)
    work_on(&work, 0);
  else if (workers > 1)
    check(api, ParallelFor::call(api, context, work_on, workers, 0, &work));
  if (work.error) std::rethrow_exception(work.error);
}

}  // namespace sparsify
