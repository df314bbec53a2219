// The gradient of the forward pass's epilogue: bias and ReLU.
#pragma once

#include <ATen/core/Tensor.h>

namespace convkern::torch_binding {

struct EpilogueGradient {
  at::Tensor gy;  // that reaches the convolution
  at::Tensor gb;  // undefined unless wanted
};

// From the gradient of y, and y itself after a ReLU (else undefined). Differentiable where grad
// mode is on; otherwise plain float32 tensors on the CPU take a single pass of our own.
EpilogueGradient grad_epilogue(const at::Tensor& gy, const at::Tensor& y, bool bias);

}  // namespace convkern::torch_binding
