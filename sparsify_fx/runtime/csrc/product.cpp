#include "product.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

namespace sparsify {

Shape choose_shape(int columns, double density) {
  const Kernels& kernel = kernels();
  const int fast = 8192;  // floats of the first level cache that a panel may take
  int vectors = kernel.max_vectors;
  int block = std::max(16, fast / (vectors * kernel.lanes));
  // A row should meet some non-zeros in every block, or starting and ending it costs more than its products.
  const int enough = static_cast<int>(8.0 / std::max(density, 1e-3));
  block = std::max(block, enough);
  if (const char* v = std::getenv("SFX_V")) vectors = std::min(kernel.max_vectors, std::atoi(v));
  if (const char* v = std::getenv("SFX_KB")) block = std::atoi(v);
  (void)columns;
  return {vectors, block};
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
