// The gradient of the forward pass's epilogue, which is bias and ReLU.
#pragma once

#include <ATen/core/Tensor.h>

namespace convkern::torch_binding {

struct EpilogueGradient {
  at::Tensor gy;  // the gradient that reaches the convolution
  at::Tensor gb;  // the bias gradient, undefined unless wanted
};

// Computes it from the gradient of y. `y` is the output if there was a ReLU, and else undefined. In
// grad mode the result is differentiable. Otherwise plain float32 tensors on the CPU take a single
// pass of the library.
EpilogueGradient grad_epilogue(const at::Tensor& gy, const at::Tensor& y, bool bias);

}  // namespace convkern::torch_binding
