// Batch normalisation with its activation and residual as one differentiable call:
//   y = activation(batch_norm(x) + residual)
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <optional>
#include <string_view>
#include <vector>

#include "torch_binding/torch_versions.h"

namespace convkern::torch_binding {

struct BatchNormArguments {
  at::Tensor x;  // (N, C, H, W)
  // (C,), or undefined
  at::Tensor running_mean, running_var, weight, bias;
  at::Tensor residual;   // of x's shape, or undefined
  bool training;         // normalise with the statistics of the batch
  double momentum, eps;  // as torch.nn.functional.batch_norm has them
  std::optional<std::string_view> activation;
  // Return y twice, as two tensors of one memory. A caller that uses y in two places gives one to
  // each, and the backward pass adds the two gradients where it loads them.
  bool twice;
  // Let a SavedOperand not save y, but compute it again from x. Without a residual only.
  bool recompute;
};

// Returns y, and y again if wanted. Returns none if the passes of the library do not compute these
// arguments, or torch's batch_norm would raise an error: the caller then composes torch's own
// functions. In training the running statistics are updated in place.
std::vector<at::Tensor> batch_norm(const BatchNormArguments& arguments);

// An operand that a node keeps for its backward pass. It is not saved if it is the result of a
// batch_norm() with `recompute`, as that returned it: the node of the batch norm makes it again.
class SavedOperand {
 public:
  void save(const at::Tensor& x);
  // Returns the operand, with its place in the graph. Raises torch's error if the graph was freed.
  at::Tensor unpack() const;
  // Lets unpack() raise that error.
  void reset();

 private:
  torch::autograd::SavedVariable saved_;
  NodePtr node_;  // that makes the operand again, as this output
  uint32_t output_ = 0;
  bool released_ = false;
};

}  // namespace convkern::torch_binding
