// Runs tasks on torch's intra-op pool.
#pragma once

#include <ATen/Parallel.h>

#include "core/executor.h"

namespace convkern::bindings {

class TorchExecutor : public Executor {
 public:
  int threads() const override { return at::in_parallel_region() ? 1 : at::get_num_threads(); }
  void run(int64_t count, int64_t grain, Body body) const override {
    at::parallel_for(0, count, grain,
                     [&](int64_t begin, int64_t end) { body(begin, end, at::get_thread_num()); });
  }
};

}  // namespace convkern::bindings
