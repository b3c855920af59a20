#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace sparsify {
namespace training {

namespace {

// What threads share: each takes the next task until there are none.
struct Tasks {
  const std::function<void(int64_t)>& work;
  int64_t count;
  std::atomic<int64_t> next{0};
};

void take_tasks(void* given) {
  Tasks& tasks = *static_cast<Tasks*>(given);
  for (int64_t task; (task = tasks.next.fetch_add(1)) < tasks.count;) tasks.work(task);
}

struct Pool {
  std::mutex taken;  // by the one call that has these threads
  std::mutex mutex;
  std::condition_variable wake, done;
  Tasks* tasks = nullptr;
  int64_t wanted = 0, busy = 0, count = 0;
  uint64_t call = 0;

  void wait_for_work(int64_t number) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return call != seen; });
      seen = call;
      if (number >= wanted) continue;
      Tasks* shared = tasks;
      lock.unlock();
      take_tasks(shared);
      lock.lock();
      if (--busy == 0) done.notify_one();
    }
  }

  void run(int64_t threads, Tasks* given) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      // A thread that begins now has seen no call yet, so that it takes part in the next one, which is this.
      for (; count < threads - 1; ++count) {
        std::thread([this, number = count] { wait_for_work(number); }).detach();
      }
      tasks = given;
      wanted = busy = threads - 1;
      ++call;
    }
    wake.notify_all();
    take_tasks(given);
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return busy == 0; });
  }
};

// Never freed: its threads may still wait when the process ends.
Pool* pool = nullptr;
bool forked = false;

// A process that was forked has none of the threads, and perhaps a lock that nobody will give back.
void start_anew() {
  forked = true;
  pool = new Pool;
}

// From the moment when the library is loaded: a fork may come before the first call.
const int registered = [] {
  pool = new Pool;
  return pthread_atfork(nullptr, nullptr, start_anew);
}();

// The threads of OpenMP, as GCC's code and LLVM's call them, where this process has them; null elsewhere. PyTorch's
// operators run on these, and they go on turning for a while after each: other threads would wait for their processors.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

Parallel openmp() {
  static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  // OpenMP itself does not know that its threads are gone after a fork.
  return forked ? nullptr : found;
}

void run_alone(int64_t tasks, const std::function<void(int64_t)>& work) {
  for (int64_t task = 0; task < tasks; ++task) work(task);
}

}  // namespace

void share(int64_t threads, int64_t tasks, const std::function<void(int64_t)>& work) {
  threads = std::min(threads, tasks);
  if (threads <= 1) return run_alone(tasks, work);
  Tasks shared{work, tasks};
  if (const Parallel parallel = openmp()) return parallel(take_tasks, &shared, static_cast<unsigned>(threads), 0);
  // Another call has the threads: this one goes on alone.
  if (!pool->taken.try_lock()) return run_alone(tasks, work);
  pool->run(threads, &shared);
  pool->taken.unlock();
}

int64_t threads_for(int64_t threads, int64_t work) {
  constexpr int64_t kLeast = int64_t{1} << 16;
  return std::max<int64_t>(1, std::min(threads, work / kLeast));
}

void share_runs(int64_t threads, int64_t operations, int64_t size, const std::function<void(int64_t, int64_t)>& work) {
  threads = threads_for(threads, operations);
  const int64_t runs = threads == 1 ? 1 : std::min(size, threads * kTasksPerThread);
  share(threads, runs, [&](int64_t run) { work(size * run / runs, size * (run + 1) / runs); });
}

}  // namespace training
}  // namespace sparsify
