// An Executor that plays several threads on one. It cuts the tasks into ranges and runs them one
// after the other in random order, each as a random thread. The outcome therefore depends on the
// seed alone. Races are left to the thread sanitizer.
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
  // Ranges may be smaller than the grain, which only matters for speed. Otherwise small problems
  // would have a single range.
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
