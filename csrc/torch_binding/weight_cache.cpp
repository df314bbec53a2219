#include "torch_binding/weight_cache.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "torch_binding/fresh_memory.h"
#include "torch_binding/library.h"

namespace convkern::torch_binding {
namespace {

using Lock = std::lock_guard<LibraryMutex>;
using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

LibraryMutex mutex;
std::atomic<bool> enabled{false};

const c10::VariableVersion& counter_of(const at::Tensor& w) {
  return w.unsafeGetTensorImpl()->version_counter();
}

// Returns whether both handles refer to the same counter. Handles cannot be compared, but a handle
// holds the counter's pointer and nothing else. The assertion checks that its size is that of a
// pointer.
bool same_counter(const c10::VariableVersion& a, const c10::VariableVersion& b) {
  static_assert(sizeof(c10::VariableVersion) == sizeof(void*));
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

// One weight with its packed form. A weight is identified by its storage and its version counter.
// The entry holds a reference to both, so that a new storage or counter cannot get their addresses
// while the entry exists. The address of a tensor or of its numbers cannot identify it, because
// freed memory is used again. A weak pointer to the tensor would keep torch.utils.swap_tensors from
// exchanging it.
struct Entry {
  WeakStorage storage;
  c10::VariableVersion counter;
  uint32_t version;
  const void* kernel;
  int64_t groups;
  std::vector<int64_t> sizes, strides;
  const void* data;
  at::Tensor packed;

  Entry(const at::Tensor& w, const convkern_plan& plan)
      : storage(w.storage().getWeakStorageImpl()),
        counter(counter_of(w)),
        version(counter.current_version()),
        kernel(plan.kernel),
        groups(plan.problem.groups),
        sizes(w.sizes().vec()),
        strides(w.strides().vec()),
        data(w.const_data_ptr()) {}

  bool is_of(const at::Tensor& w) const {
    return storage._unsafe_get_target() == w.storage().unsafeGetStorageImpl();
  }
  bool is_of(const at::Tensor& w, const convkern_plan& plan) const {
    return is_of(w) && kernel == plan.kernel && groups == plan.problem.groups;
  }
  // The storage may have got other numbers, another shape or another tensor since it was packed.
  bool is_current(const at::Tensor& w) const {
    return same_counter(counter, counter_of(w)) && version == counter.current_version() &&
           data == w.const_data_ptr() && w.sizes() == sizes && w.strides() == strides;
  }
};

// Access needs the mutex.
std::vector<Entry>& entries() {
  static auto* instance = new std::vector<Entry>;  // leaked: tensors may outlive static destructors
  return *instance;
}

// Removes the entries for which `is_dropped` is true and returns them. The caller frees them after
// the lock is released.
template <class Condition>
std::vector<Entry> take(const Condition& is_dropped) {
  const Lock lock(mutex);
  const auto kept = std::partition(entries().begin(), entries().end(),
                                   [&](const Entry& entry) { return !is_dropped(entry); });
  std::vector<Entry> taken(std::make_move_iterator(kept), std::make_move_iterator(entries().end()));
  entries().erase(kept, entries().end());
  return taken;
}

}  // namespace

at::Tensor cached_weights(const convkern_plan& plan, const at::Tensor& w,
                          const convkern_executor* executor) {
  if (!enabled || plan.packed_bytes == 0 || w.is_inference()) return {};
  // Do not cache a weight that shares its memory. The other tensor may change the memory without
  // changing this version counter. fully_shard does so: it frees and fills the memory of gathered
  // weights, and may get the same memory again.
  if (w.storage().use_count() > 1) return {};
  // Do not cache a weight that is being trained, because fused optimizers change it without
  // counting.
  if (w.requires_grad() && c10::GradMode::is_enabled()) {
    take([&](const Entry& entry) { return entry.is_of(w); });
    return {};
  }
  {
    const Lock lock(mutex);
    for (const Entry& entry : entries()) {
      if (!entry.is_of(w, plan)) continue;
      if (entry.is_current(w)) return entry.packed;
      break;
    }
  }
  // Pack without the lock, because packing takes long and runs on other threads. Two threads may
  // therefore pack the same weight. Pack into new memory, because another thread may still be
  // reading the old.
  Entry current(w, plan);
  const at::Tensor dense = w.contiguous();
  current.packed = at::empty({plan.packed_bytes}, w.options().dtype(at::kByte));
  prefer_huge_pages(current.packed);
  check(convkern_pack_weights(&plan, dense.const_data_ptr(), current.packed.mutable_data_ptr(),
                              executor));
  const at::Tensor packed = current.packed;
  take([&](const Entry& entry) { return entry.storage.expired() || entry.is_of(w, plan); });
  const Lock lock(mutex);
  if (enabled) entries().push_back(std::move(current));  // may be off by now
  return packed;
}

int64_t weight_cache_bytes() {
  take([](const Entry& entry) { return entry.storage.expired(); });
  const Lock lock(mutex);
  int64_t bytes = 0;
  for (const Entry& entry : entries()) bytes += static_cast<int64_t>(entry.packed.nbytes());
  return bytes;
}

bool weight_cache() { return enabled; }

void set_weight_cache(bool keep) {
  enabled = keep;
  if (!keep) take([](const Entry&) { return true; });
}

}  // namespace convkern::torch_binding
