// Threads of a caller of the C interface, as kernels see them.
#pragma once

#include <atomic>
#include <exception>

#include "convkern.h"
#include "core/executor.h"

namespace convkern::library {

class CallersExecutor : public Executor {
 public:
  explicit CallersExecutor(const convkern_executor& caller) : caller_(caller) {}
  int threads() const override { return caller_.threads; }
  void run(int64_t count, int64_t grain, Body body) const override {
    Tasks tasks{body};
    caller_.run(
        caller_.self, count, grain,
        [](void* context, int64_t begin, int64_t end, int thread) {
          static_cast<Tasks*>(context)->run(begin, end, thread);
        },
        &tasks);
    if (tasks.error) std::rethrow_exception(tasks.error);
  }
  void* stream() const override { return caller_.stream; }
  void wait() const override {
    if (caller_.wait != nullptr) caller_.wait(caller_.self);
  }

 private:
  // A body, and the first exception of its tasks, which must not cross the caller's code.
  struct Tasks {
    Body body;
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    std::exception_ptr error = nullptr;

    void run(int64_t begin, int64_t end, int thread) noexcept {
      try {
        body(begin, end, thread);
      } catch (...) {
        if (!failed.test_and_set()) error = std::current_exception();
      }
    }
  };

  const convkern_executor& caller_;
};

}  // namespace convkern::library
