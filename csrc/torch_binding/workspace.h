// The scratch memory of a call.
#pragma once

#include <ATen/ops/empty.h>

#include <utility>

#include "torch_binding/fresh_memory.h"

namespace convkern::torch_binding {

constexpr int64_t kKeptBytes = 16 << 20;  // most bytes that are kept, for each thread at work

// The scratch memory of one call. On the CPU the calling thread keeps its largest workspace, up to
// kKeptBytes for each thread, for its next calls. oneDNN keeps its scratchpad in the same way.
// Without this the allocator returns the memory to the system, and its page faults then took longer
// than the convolution itself.
class Workspace {
 public:
  Workspace(int64_t bytes, int threads, const at::TensorOptions& options) {
    if (bytes == 0) return;
    keep_ = options.device().is_cpu() && bytes <= kKeptBytes * threads;
    // The kept memory is taken, so that a call within this call gets memory of its own.
    if (keep_) memory_ = std::exchange(kept(), at::Tensor());
    if (memory_.defined() && static_cast<int64_t>(memory_.nbytes()) >= bytes) return;
    memory_.reset();
    memory_ = at::empty({bytes}, options.dtype(at::kByte));
    prefer_huge_pages(memory_);
  }
  ~Workspace() {
    if (keep_) kept() = std::move(memory_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const { return memory_.defined() ? memory_.mutable_data_ptr() : nullptr; }

 private:
  static at::Tensor& kept() {
    thread_local at::Tensor memory;
    return memory;
  }
  at::Tensor memory_;
  bool keep_ = false;
};

}  // namespace convkern::torch_binding
