// Stands in for torch's header of this name: a parallel region has threads of its own, which may
// come late or be fewer than those that were asked for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace at {

// What the next regions of the calling thread are like: how many threads they have at most, and
// what each but the first does before it begins.
struct Regions {
  int64_t most_threads = 1 << 10;
  std::function<void(int64_t)> arrive = [](int64_t) {};
};
inline thread_local Regions regions;

// Calls f(begin, end) on ranges of at least `grain`, one for each thread, and returns when all are
// done. The caller is the first thread. Raises one of the errors of the ranges.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (begin >= end) return;
  const int64_t count = end - begin;
  const int64_t most = std::min(regions.most_threads, (count + grain - 1) / grain);
  const int64_t even = (count + most - 1) / most;
  std::exception_ptr error;
  std::mutex mutex;
  const auto run = [&](int64_t first) {
    try {
      f(first, std::min(end, first + even));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (int64_t first = begin + even; first < end; first += even) {
    threads.emplace_back([&run, first, arrive = regions.arrive] {
      arrive(first);
      run(first);
    });
  }
  run(begin);
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace at
