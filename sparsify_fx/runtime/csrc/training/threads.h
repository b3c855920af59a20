// Threads that share the tasks of a kernel. They wait between kernels, since starting one takes as long as a small
// layer.
#pragma once

#include <cstdint>
#include <functional>

namespace sparsify {
namespace training {

// Calls work(0), work(1), ... work(tasks - 1) on up to `threads` threads, this one among them. Nothing may depend on
// which thread has a task, and no task may throw.
void share(int64_t threads, int64_t tasks, const std::function<void(int64_t)>& work);

// How many threads some work is worth, of those that may be had.
int64_t threads_for(int64_t threads, int64_t work);

// Tasks for each thread: enough that none waits long for the last one.
constexpr int64_t kTasksPerThread = 4;

// Calls work(first, last) for parts of [0, size), on as many threads as `operations` are worth.
void share_runs(int64_t threads, int64_t operations, int64_t size, const std::function<void(int64_t, int64_t)>& work);

}  // namespace training
}  // namespace sparsify
