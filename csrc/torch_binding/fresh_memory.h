// Allocates memory that a kernel is about to write: results of the ops, and workspaces.
#pragma once

#include <ATen/ops/empty.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convkern::torch_binding {

constexpr int64_t kHugePage = 2 << 20;  // bytes, on x86-64 and AArch64

// Asks the system for huge pages, if it grants them on request ("madvise", the usual setting). A
// large tensor is fresh memory from the system, and each of its pages costs a fault when it is
// first written. With pages of 4 KiB these faults can take as long as a cheap convolution. Huge
// pages leave one fault in 512.
inline void prefer_huge_pages(const at::Tensor& t) {
#if defined(__linux__)
  if (!t.is_cpu() || static_cast<int64_t>(t.nbytes()) < kHugePage) return;
  const auto begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + t.nbytes()) / kHugePage * kHugePage;
  if (first >= last) return;
  // If the system refuses, the pages are small; this is not an error.
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

inline at::Tensor fresh_output(at::IntArrayRef size, const at::TensorOptions& options,
                               at::MemoryFormat format) {
  at::Tensor t = at::empty(size, options, format);
  prefer_huge_pages(t);
  return t;
}

}  // namespace convkern::torch_binding
