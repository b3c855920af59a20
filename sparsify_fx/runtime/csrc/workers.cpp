#include "workers.h"

#include <algorithm>
#include <exception>
#include <mutex>

namespace sparsify {

bool Tasks::take(int64_t* place) {
  const int64_t first = *place;
  for (int64_t i = 0; i < count() && left_.load(std::memory_order_relaxed) > 0; ++i) {
    *place = first + i < count() ? first + i : first + i - count();
    std::atomic<bool>& taken = taken_[static_cast<size_t>(*place)];
    // The load first: an exchange fetches the cache line for writing, and most tasks that are passed are taken.
    // Relaxed, since tasks give each other nothing; that ParallelFor returns orders what they wrote.
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
  const std::function<void(Share&)>& work;
  std::mutex mutex;
  std::exception_ptr error;
};

void work_on(void* argument, size_t number) {
  Work& work = *static_cast<Work*>(argument);
  // No exception may pass through onnxruntime's own frames: the first one waits until all workers have ended.
  try {
    Share share(work.tasks, static_cast<int64_t>(number) * work.tasks.count() / work.workers);
    work.work(share);
  } catch (...) {
    std::lock_guard<std::mutex> lock(work.mutex);
    if (!work.error) work.error = std::current_exception();
  }
}

}  // namespace

void share_tasks(const OrtApi* api, const OrtKernelContext* context, int64_t tasks,
                 const std::function<void(Share&)>& work) {
  Work shared{Tasks(tasks), std::min<int64_t>(tasks, 64), work, {}, {}};
  if (shared.workers == 1)
    work_on(&shared, 0);
  else if (shared.workers > 1)
    check(api, ParallelFor::call(api, context, work_on, static_cast<size_t>(shared.workers), 0, &shared));
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace sparsify
