// The activations as torch's own operators.
#pragma once

#include <ATen/core/Tensor.h>

#include "convkern.h"

namespace convkern::torch_binding {

// Returns torch's result for the activation of a problem. It has derivatives of every order.
at::Tensor activated_by_torch(const at::Tensor& y, const convkern_problem& problem);

}  // namespace convkern::torch_binding
