// Runs libconvkern's kernels in torch's intra-op pool or on a stream of a device.
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/Device.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

#include "convkern.h"
#include "torch_binding/torch_versions.h"

namespace convkern::torch_binding {

// Runs tasks on the threads of torch's pool. The number of threads is fixed at construction,
// because workspaces are sized by it. torch may change its own number at any moment: another thread
// can call torch.set_num_threads, and a thread adopts the new number in its first parallel_for.
class TorchExecutor {
 public:
  TorchExecutor() = default;
  TorchExecutor(const TorchExecutor&) = delete;
  TorchExecutor& operator=(const TorchExecutor&) = delete;
  operator const convkern_executor*() const { return &executor_; }
  int threads() const { return executor_.threads; }

  template <class Body>  // void(int64_t begin, int64_t end, int thread)
  void run(int64_t count, int64_t grain, const Body& body) const {
    // With ranges of at least this size there are at most threads() of them. torch then numbers the
    // threads that get a range from 0 to threads() - 1, whatever its own number of threads is.
    const int64_t even = (count + threads() - 1) / threads();
    at::parallel_for(0, count, std::max(grain, even),
                     [&](int64_t begin, int64_t end) { body(begin, end, at::get_thread_num()); });
  }

 private:
  static void run_body(const void* self, int64_t count, int64_t grain, convkern_body body,
                       void* context) {
    static_cast<const TorchExecutor*>(self)->run(
        count, grain,
        [&](int64_t begin, int64_t end, int thread) { body(context, begin, end, thread); });
  }

  const convkern_executor executor_{this, at::in_parallel_region() ? 1 : at::get_num_threads(),
                                    run_body, nullptr, nullptr};
};

// The current stream of a device. This uses torch's interface for devices of every kind, so that
// one binding serves a torch with CUDA and one without.
class StreamExecutor {
 public:
  explicit StreamExecutor(c10::Device device)
      : device_(device.type()), stream_(device_.getStream(device)) {
    executor_.stream = stream_handle(device_, stream_);
  }
  StreamExecutor(const StreamExecutor&) = delete;
  StreamExecutor& operator=(const StreamExecutor&) = delete;
  operator const convkern_executor*() const { return &executor_; }

 private:
  static void run_body(const void*, int64_t count, int64_t, convkern_body body, void* context) {
    body(context, 0, count, 0);
  }
  static void wait(const void* self) {
    const auto* executor = static_cast<const StreamExecutor*>(self);
    executor->device_.synchronizeStream(executor->stream_);
  }

  c10::impl::VirtualGuardImpl device_;
  c10::Stream stream_;
  convkern_executor executor_{this, 1, run_body, nullptr, wait};
};

}  // namespace convkern::torch_binding
