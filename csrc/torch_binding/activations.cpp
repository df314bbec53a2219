#include "torch_binding/activations.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

namespace convkern::torch_binding {

at::Tensor activated_by_torch(const at::Tensor& y, const convkern_problem& problem) {
  const double* parameters = problem.activation_parameters;
  switch (static_cast<convkern_activation>(problem.activation)) {
    case CONVKERN_NO_ACTIVATION:
      return y;
    case CONVKERN_RELU:
      return at::relu(y);
    case CONVKERN_RELU6:
      return at::hardtanh(y, 0, 6);
    case CONVKERN_CLAMP:
      return at::hardtanh(y, parameters[0], parameters[1]);
    case CONVKERN_LEAKY_RELU:
      return at::leaky_relu(y, parameters[0]);
    case CONVKERN_HARDSIGMOID:
      return at::hardsigmoid(y);
    case CONVKERN_HARDSWISH:
      return at::hardswish(y);
    case CONVKERN_SIGMOID:
      return at::sigmoid(y);
    case CONVKERN_SILU:
      return at::silu(y);
    case CONVKERN_GELU:
      return at::gelu(y);
    case CONVKERN_GELU_TANH:
      return at::gelu(y, "tanh");
  }
  return y;
}

}  // namespace convkern::torch_binding
