// Working memory of one worker, taken from a pool that all operators of the process share: as many pieces exist as
// workers ever ran at the same time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "checked.h"

namespace sparsify {

// Floats at an address that is a multiple of 64 bytes; what they hold after `need` is undefined.
class Floats {
 public:
  Floats() = default;
  Floats(Floats&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
  Floats& operator=(Floats&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Floats() { std::free(data_); }

  float* need(int64_t count) {
    if (checked_most("working memory, in floats,", count, kMostFloats) > size_) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<float*>(std::aligned_alloc(64, (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = count;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

struct Scratch {
  Floats panel, sums;
  std::thread::id last;  // that had it: in whose cache it lies
};

class ScratchLease {
 public:
  ScratchLease() {
    std::lock_guard<std::mutex> lock(pool().mutex);
    std::vector<Scratch>& free = pool().free;
    if (free.empty()) return;
    const auto own = [](const Scratch& scratch) { return scratch.last == std::this_thread::get_id(); };
    const auto found = std::find_if(free.begin(), free.end(), own);
    if (found != free.end()) std::swap(*found, free.back());
    scratch_ = std::move(free.back());
    free.pop_back();
  }
  ~ScratchLease() {
    try {
      std::lock_guard<std::mutex> lock(pool().mutex);
      scratch_.last = std::this_thread::get_id();
      pool().free.push_back(std::move(scratch_));
    } catch (...) {  // no memory for the list: the scratch is simply freed
    }
  }
  Scratch* operator->() { return &scratch_; }

 private:
  struct Pool {
    std::mutex mutex;
    std::vector<Scratch> free;
  };
  static Pool& pool() {
    static Pool shared;
    return shared;
  }
  Scratch scratch_;
};

}  // namespace sparsify
