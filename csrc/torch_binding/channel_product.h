// The product of images with one number for each image and channel, as squeeze-and-excitation
// blocks have it (Hu et al., "Squeeze-and-Excitation Networks", 2018), as one differentiable call.
#pragma once

#include <ATen/core/Tensor.h>

namespace convkern::torch_binding {

// Returns x * scale for x (N, C, H, W) and scale (N, C, 1, 1). Its backward pass computes both
// gradients in one pass over gy and x. Returns an undefined tensor where the loops do not compute
// these arguments: they are float32 and channels_last.
at::Tensor channel_product(const at::Tensor& x, const at::Tensor& scale);

}  // namespace convkern::torch_binding
