// Batch normalisation with its activation and residual as one differentiable call:
//   y = activation(batch_norm(x) + residual)
#pragma once

#include <ATen/core/Tensor.h>

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
  // Let convolutions of y not save y for their backward pass, but compute it again from x. Without
  // a residual only.
  bool recompute;
};

// Returns y, and y again if wanted. Returns none if the passes of the library do not compute these
// arguments, or torch's batch_norm would raise an error: the caller then composes torch's own
// functions. In training the running statistics are updated in place.
std::vector<at::Tensor> batch_norm(const BatchNormArguments& arguments);

// A tensor that is not saved because the node that made it can make it again.
class Recomputed {
 public:
  Recomputed() = default;
  // Finds out whether x is such a tensor, as it was made.
  static Recomputed of(const at::Tensor& x);
  bool known() const { return node_ != nullptr; }
  // Returns the tensor, with its place in the graph. Raises torch's error if the graph was freed.
  at::Tensor get() const;
  // Lets get() raise that error.
  void release() { released_ = true; }

 private:
  NodePtr node_;
  uint32_t output_ = 0;
  bool released_ = false;
};

}  // namespace convkern::torch_binding
