// An Executor whose threads are played by one: the tasks are cut into ranges, which run one after
// the other in random order, each as a random thread. So the outcome depends on the seed alone.
// What a race would do is for the thread sanitizer to tell.
#pragma once

#include <utility>
#include <vector>

#include "core/axis.h"
#include "core/executor.h"
#include "random.h"

namespace convkern {

class PlayedThreads : public Executor {
 public:
  PlayedThreads(int threads, Random& random) : threads_(threads), random_(random) {}
  int threads() const override { return threads_; }
  // Also of less than the grain, which is for speed: small problems would else have one range.
  void run(int64_t count, int64_t, Body body) const override {
    std::vector<Range> ranges;
    for (int64_t begin = 0, end; begin < count; begin = end) {
      end = begin + 1 + random_.below(count - begin);
      ranges.push_back({begin, end});
    }
    for (size_t left = ranges.size(); left > 0; --left) {
      std::swap(ranges[random_.below(left)], ranges[left - 1]);
      const Range range = ranges[left - 1];
      body(range.begin, range.end, static_cast<int>(random_.below(threads_)));
    }
  }

 private:
  int threads_;
  Random& random_;
};

}  // namespace convkern
