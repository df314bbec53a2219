// Weights as kernels have packed them, kept from call to call.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/kernel.h"

namespace convkern::bindings {

// The packed weights of a forward call, from the cache if `w` is the tensor and version that they
// were made from, else packed now. Undefined where the cache is off, the kernel does not pack, or
// `w` has no version (a tensor made in inference mode) or shares its memory with another tensor.
// Thread-safe.
at::Tensor cached_weights(const Kernel& kernel, const Problem& problem, const at::Tensor& w,
                          const Executor& executor);

// Bytes that the cache holds.
int64_t weight_cache_bytes();

// Forgets all weights.
void clear_weight_cache();

}  // namespace convkern::bindings
