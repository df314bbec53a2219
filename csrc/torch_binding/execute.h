// Runs one op call: plans it, allocates the workspace and calls the kernel.
#pragma once

#include <ATen/core/Tensor.h>

#include "convkern.h"
#include "core/geometry.h"

namespace convkern::torch_binding {

// A checked call with its operands, dense in the result's memory format but for w, which may have
// any strides; those that the pass does not read are undefined.
struct Call {
  convkern_pass pass;
  Geometry<int64_t> geometry;
  at::Tensor x, w, b, gy, residual;
  convkern_problem epilogue{};  // of which only the activation is set
};

// Returns the library's name for a tensor's dtype. Raises NotImplementedError where it has none.
convkern_dtype dtype_of(const at::Tensor& t);

// Writes the result of the call to `out`, y, gx or gw.
void execute(const Call& call, at::MemoryFormat format, at::Tensor& out);

// A problem that execute() ran, and the name of the kernel that ran it.
struct Execution {
  convkern_problem problem{};
  const char* kernel = nullptr;  // null if there is none
};

// Returns this thread's last execution since this function's last call.
Execution take_last_execution();

// Returns a request for `threads` threads of the device, with what torch's settings allow there.
convkern_request request_for(convkern_device device, int threads);

}  // namespace convkern::torch_binding
