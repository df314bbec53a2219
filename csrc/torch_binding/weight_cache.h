// Weights as kernels have packed them, kept from call to call.
#pragma once

#include <ATen/core/Tensor.h>

#include "convkern.h"

namespace convkern::torch_binding {

// The packed weights of a forward call, from the cache if `w` is the tensor and version that they
// were made from, else packed now. Undefined where the cache is off, the kernel does not pack, or
// `w` is being trained, has no version (a tensor made in inference mode) or shares its memory with
// another tensor.
// Thread-safe.
at::Tensor cached_weights(const convkern_plan& plan, const at::Tensor& w,
                          const convkern_executor* executor);

// Whether weights are kept; they are all forgotten when that ends.
bool weight_cache();
void set_weight_cache(bool keep);

// Bytes that the cache holds.
int64_t weight_cache_bytes();

}  // namespace convkern::torch_binding
