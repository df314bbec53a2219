// Which tensors the passes around convolutions may read and write directly.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/DispatchKeyExtractor.h>

#include "torch_binding/torch_versions.h"

namespace convkern::torch_binding {

// Returns whether an op on the tensor would reach the CPU's kernels directly: nothing traces,
// batches or wraps it. Autograd and autocast, which has no rule for what is computed here, do not
// count.
inline bool is_plain(const at::Tensor& t) {
  const auto aside = c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                     c10::autocast_dispatch_keyset |
                     c10::DispatchKeySet(c10::DispatchKey::BackendSelect);
  const auto keys = c10::impl::computeDispatchKeySet(
      t.key_set(), c10::DispatchKeySet(c10::DispatchKeySet::FULL) - aside);
  return keys.highestPriorityTypeId() == c10::DispatchKey::CPU && t.layout() == at::kStrided &&
         !has_tangent(t);
}

// Returns whether nobody else holds the tensor or its memory, so that a function that was given it
// may overwrite it. autograd asks the same before it adds up gradients in place.
inline bool is_owned(const at::Tensor& t) {
  return t.use_count() == 1 && t.has_storage() && t.storage().use_count() == 1;
}

}  // namespace convkern::torch_binding
