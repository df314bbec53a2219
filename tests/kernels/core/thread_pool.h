// An Executor with plain threads, which runs kernels without torch.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/executor.h"

// Tasks go to whichever thread is free. The caller is one of the threads.
class ThreadPool : public convkern::Executor {
 public:
  explicit ThreadPool(int threads) {
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([this, thread] { serve(thread); });
    }
  }
  ~ThreadPool() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const override { return static_cast<int>(workers_.size()) + 1; }
  void run(int64_t count, int64_t grain, Body body) const override {
    std::unique_lock<std::mutex> lock(mutex_);
    body_.emplace(body);
    next_ = 0;
    count_ = left_ = count;
    grain_ = grain < 1 ? 1 : grain;
    changed_.notify_all();
    work(0, lock);
    done_.wait(lock, [this] { return left_ == 0; });
    body_.reset();
  }

 private:
  // Runs ranges of the current loop until none is left.
  void work(int thread, std::unique_lock<std::mutex>& lock) const {
    while (next_ < count_) {
      const int64_t begin = next_;
      // A range has at least the grain, unless there are fewer tasks.
      const int64_t end = count_ - begin < 2 * grain_ ? count_ : begin + grain_;
      next_ = end;
      const Body body = *body_;
      lock.unlock();
      body(begin, end, thread);
      lock.lock();
      left_ -= end - begin;
      if (left_ == 0) done_.notify_all();
    }
  }
  void serve(int thread) const {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ending_) {
      work(thread, lock);
      changed_.wait(lock, [this] { return ending_ || next_ < count_; });
    }
  }

  std::vector<std::thread> workers_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_, done_;
  mutable std::optional<Body> body_;
  mutable int64_t next_ = 0, count_ = 0, left_ = 0, grain_ = 1;
  bool ending_ = false;
};
