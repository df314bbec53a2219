// Runs one op call: plans it, allocates the workspace and calls the kernel.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/plan.h"

namespace convkern::bindings {

// A checked call with its operands, dense in the result's memory format but for w, which may have
// any strides; those that the pass does not read are undefined.
struct Call {
  Pass pass;
  Geometry<int64_t> geometry;
  at::Tensor x, w, b, gy;
  Activation activation = Activation::none;
};

// Writes the result of the call to `out`, y, gx or gw.
void execute(const Call& call, at::MemoryFormat format, at::Tensor& out);

// How many of torch's threads take part in a parallel region of this extension.
int threads_at_work();

// The kernels of a device, of which `cuda` is empty in a build without CUDA.
KernelList kernels_of(Device device);

// What the configuration, torch's determinism flag and the processor leave of them.
Constraints constraints_for(Device device, Pass pass);

}  // namespace convkern::bindings
