// Keeps weights in the form into which kernels have packed them, from call to call.
#pragma once

#include <ATen/core/Tensor.h>

#include "convkern.h"

namespace convkern::torch_binding {

// Returns the packed weights of a forward call. They come from the cache if they were made from
// this tensor and this version, and are packed now otherwise. The result is undefined if the cache
// is off, if the kernel does not pack, or if `w` cannot be cached. That is the case if it is being
// trained, has no version (made in inference mode), or shares its memory with another tensor.
// Thread-safe.
at::Tensor cached_weights(const convkern_plan& plan, const at::Tensor& w,
                          const convkern_executor* executor);

// These get and set whether packed weights are kept. Setting it to false forgets all of them.
bool weight_cache();
void set_weight_cache(bool keep);

// Returns the bytes that the cache holds.
int64_t weight_cache_bytes();

}  // namespace convkern::torch_binding
