// Threads that stay together while several kernels run one after the other.
//
// A parallel region of torch costs some microseconds, which is as much as a small convolution. A
// team enters one region and stays in it. Its leader runs the kernels, and hands their tasks to the
// other threads through memory, which takes a fraction of a microsecond.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "convkern.h"

namespace convkern::torch_binding {

class Team {
 public:
  static constexpr int kMostThreads = 32;  // a range of a job is a bit of a word

  explicit Team(int threads)
      : executor_{this, std::min(threads, kMostThreads), run, nullptr, nullptr} {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Calls lead(executor) while the other threads wait for the tasks of kernels that it runs.
  template <class Lead>
  void assemble(const Lead& lead) {
    stops_ = false;
    at::parallel_for(0, executor_.threads, 1, [&](int64_t begin, int64_t) {
      if (begin > 0) return follow(static_cast<int>(begin));
      const Release release{*this};
      lead(static_cast<const convkern_executor*>(&executor_));
    });
  }

 private:
  // Tasks [0, count) of a kernel in one range for each thread. A thread that comes late finds its
  // range taken: the leader takes what is left when it is done with its own.
  struct Job {
    int64_t count, ranges;
    convkern_body body;
    void* context;
  };
  struct Release {
    Team& team;
    ~Release() { team.stops_.store(true, std::memory_order_release); }
  };

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  // Waits for a condition. Gives way to other threads of the machine when that takes long.
  template <class Condition>
  static void wait_until(const Condition& condition) {
    for (int spins = 0; !condition(); ++spins) {
      if (spins < kSpins) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
  }

  static void run(const void* self, int64_t count, int64_t grain, convkern_body body,
                  void* context) {
    auto& team = *static_cast<Team*>(const_cast<void*>(self));
    const int64_t most = std::max<int64_t>(1, count / std::max<int64_t>(1, grain));
    const int64_t ranges = std::min<int64_t>(team.executor_.threads, most);
    if (ranges == 1) return body(context, 0, count, 0);
    team.job_ = {count, ranges, body, context};
    // Bits of `open_` are the ranges that no thread has taken. The number of the job in its upper
    // half keeps a late thread from taking a range of the next job for one of this.
    team.left_.store(ranges, std::memory_order_relaxed);
    const uint64_t number = (team.open_.load(std::memory_order_relaxed) >> 32) + 1;
    team.open_.store(number << 32 | ((uint64_t{1} << ranges) - 1), std::memory_order_release);
    for (int64_t range = 0; range < ranges; ++range) team.take(static_cast<int>(range), number, 0);
    wait_until([&] { return team.left_.load(std::memory_order_acquire) == 0; });
    if (team.has_failed_.load(std::memory_order_relaxed)) {
      team.has_failed_.store(false, std::memory_order_relaxed);
      std::rethrow_exception(std::exchange(team.failure_, nullptr));
    }
  }

  // Runs a range of a job unless another thread has taken it.
  void take(int range, uint64_t number, int thread) {
    const uint64_t bit = uint64_t{1} << range;
    uint64_t open = open_.load(std::memory_order_acquire);
    do {
      if (open >> 32 != (number & 0xffffffff) || (open & bit) == 0) return;
    } while (!open_.compare_exchange_weak(open, open & ~bit, std::memory_order_acq_rel));
    const Job job = job_;
    const int64_t even = (job.count + job.ranges - 1) / job.ranges;
    const int64_t begin = range * even, end = std::min(job.count, begin + even);
    try {
      if (begin < end) job.body(job.context, begin, end, thread);
    } catch (...) {  // the leader raises the first error when all ranges are done
      if (!has_failed_.exchange(true)) failure_ = std::current_exception();
    }
    left_.fetch_sub(1, std::memory_order_acq_rel);
  }

  void follow(int thread) {
    uint64_t seen = open_.load(std::memory_order_acquire) >> 32;
    if ((open_.load(std::memory_order_acquire) & 0xffffffff) != 0) --seen;  // a job has begun
    for (;;) {
      wait_until([&] {
        return open_.load(std::memory_order_acquire) >> 32 != seen ||
               stops_.load(std::memory_order_acquire);
      });
      const uint64_t number = open_.load(std::memory_order_acquire) >> 32;
      if (number == seen) return;  // it stops
      seen = number;
      take(thread, number, thread);
    }
  }

  static constexpr int kSpins = 20000;  // some tenths of a millisecond

  const convkern_executor executor_;
  Job job_{};
  alignas(64) std::atomic<uint64_t> open_{0};
  alignas(64) std::atomic<int64_t> left_{0};
  alignas(64) std::atomic<bool> stops_{false};
  std::atomic<bool> has_failed_{false};
  std::exception_ptr failure_;
};

}  // namespace convkern::torch_binding
