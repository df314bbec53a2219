#include "bindings/weight_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "bindings/fresh_memory.h"
#include "core/config.h"

namespace convkern::bindings {
namespace {

using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

struct Entry {
  WeakTensor weight;
  const c10::TensorImpl* impl;  // that `weight` refers to, or referred to
  const Kernel* kernel;
  int64_t groups;
  std::vector<int64_t> sizes, strides;
  const void* data;
  int64_t version;
  at::Tensor packed;

  bool is_of(const at::Tensor& w, const Kernel& k, int64_t g) const {
    return impl == w.unsafeGetTensorImpl() && !weight.expired() && kernel == &k && groups == g;
  }
  // The tensor may have been given other data or another shape since.
  bool is_current(const at::Tensor& w) const {
    return version == w._version() && data == w.const_data_ptr() && w.sizes() == sizes &&
           w.strides() == strides;
  }
};

struct Cache {
  std::mutex mutex;
  std::vector<Entry> entries;
};

Cache& cache() {
  static auto* instance = new Cache;  // tensors may outlive static destructors
  return *instance;
}

}  // namespace

at::Tensor cached_weights(const Kernel& kernel, const Problem& problem, const at::Tensor& w,
                          const Executor& executor) {
  if (!config().weight_cache || kernel.packing.pack == nullptr || w.is_inference()) return {};
  // Another tensor that shares the memory may change it without this one's version counter: so does
  // fully_shard, which frees and fills the memory of gathered weights and may get it back in place.
  if (w.storage().use_count() > 1) return {};
  const std::lock_guard<std::mutex> lock(cache().mutex);
  std::vector<Entry>& entries = cache().entries;
  auto entry = std::find_if(entries.begin(), entries.end(),
                            [&](const Entry& e) { return e.is_of(w, kernel, problem.groups); });
  if (entry != entries.end() && entry->is_current(w)) return entry->packed;
  // A new tensor, since another thread may still be reading the old one.
  const at::Tensor dense = w.contiguous();
  const at::Tensor packed =
      at::empty({kernel.packing.bytes(problem)}, w.options().dtype(at::kByte));
  prefer_huge_pages(packed);
  kernel.packing.pack(problem, dense.const_data_ptr(), packed.mutable_data_ptr(), executor);
  Entry current{WeakTensor(w.getIntrusivePtr()),
                w.unsafeGetTensorImpl(),
                &kernel,
                problem.groups,
                w.sizes().vec(),
                w.strides().vec(),
                w.const_data_ptr(),
                w._version(),
                packed};
  if (entry != entries.end()) {
    *entry = std::move(current);
  } else {
    std::erase_if(entries, [](const Entry& e) { return e.weight.expired(); });
    entries.push_back(std::move(current));
  }
  return packed;
}

int64_t weight_cache_bytes() {
  const std::lock_guard<std::mutex> lock(cache().mutex);
  int64_t bytes = 0;
  for (const Entry& entry : cache().entries) {
    if (!entry.weight.expired()) bytes += static_cast<int64_t>(entry.packed.nbytes());
  }
  return bytes;
}

void clear_weight_cache() {
  const std::lock_guard<std::mutex> lock(cache().mutex);
  cache().entries.clear();
}

}  // namespace convkern::bindings
