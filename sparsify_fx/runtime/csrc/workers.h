// Tasks, and the threads of the session that share them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "ort.h"

namespace sparsify {

// Numbers 0, 1, ... count - 1, each given to one of the workers that ask. Each worker goes on from a place of its own:
// neighboring tasks then fall to the same thread, which has packed what they read, and in each layer to the same one.
class Tasks {
 public:
  explicit Tasks(int64_t count)
      : taken_(static_cast<size_t>(checked_most("the number of tasks", count, kMaxTasks))), left_(count) {}
  int64_t count() const { return static_cast<int64_t>(taken_.size()); }

  // The next free task from *place on, which moves on to it; false when there is none any more.
  bool take(int64_t* place);

 private:
  static constexpr int64_t kMaxTasks = int64_t{1} << 31;
  std::vector<std::atomic<bool>> taken_;
  std::atomic<int64_t> left_;
};

// The tasks of one worker.
class Share {
 public:
  Share(Tasks& tasks, int64_t first) : tasks_(tasks), place_(first) {}
  bool next(int64_t* task) {
    const bool found = tasks_.take(&place_);
    *task = place_;
    return found;
  }

 private:
  Tasks& tasks_;
  int64_t place_;
};

// Calls `work` on the threads of the session's own pool; rethrows what it threw. How many threads there are onnxruntime
// does not tell: up to 64 workers start, and all but as many find nothing to do. It gives each thread a run of
// neighboring numbers, so that the first worker of each tells where its tasks begin.
void share_tasks(const OrtApi* api, const OrtKernelContext* context, int64_t tasks,
                 const std::function<void(Share&)>& work);

// Every task once: each thread makes a Worker{arguments...} of its own and calls its run(task) for those it takes.
template <typename Worker, typename... Arguments>
void run_workers(const OrtApi* api, const OrtKernelContext* context, int64_t tasks, const Arguments&... arguments) {
  share_tasks(api, context, tasks, [&](Share& share) {
    int64_t task;
    // Who comes too late for any task makes no worker either, which would take working memory.
    if (!share.next(&task)) return;
    Worker worker{arguments...};
    do worker.run(task);
    while (share.next(&task));
  });
}

constexpr int64_t kFewTiles = 16;

// A few of something are made an even number: two threads, or four, then have equally much to do.
inline int64_t even(int64_t count) { return count > 1 && count < kFewTiles ? count + count % 2 : count; }

}  // namespace sparsify
