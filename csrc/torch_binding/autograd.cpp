// Autograd for the three ops, of every order, in reverse and forward mode.
//
// Convolution is bilinear. With y = F(x, w), gx = I(gy, w) and gw = W(gy, x), each derivative of F,
// I or W is again one of these three ops. The formulas call each other through the dispatcher, and
// so give derivatives of every order.
//
// The ops are registered on the Autograd key with their own nodes, as torch generates for its ops.
// torch::autograd::Function and torch.library.register_autograd would not do: they refuse
// functorch's transforms and have no forward mode, and the latter enters Python in every call.
#include <ATen/TensorOperators.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "torch_binding/activations.h"
#include "torch_binding/batch_norm.h"
#include "torch_binding/checks.h"
#include "torch_binding/grad_epilogue.h"
#include "torch_binding/op_handles.h"
#include "torch_binding/registration.h"
#include "torch_binding/torch_versions.h"

namespace convkern::torch_binding {
namespace {

using at::Tensor;
using c10::DispatchKeySet;
using c10::SymInt;
using c10::SymIntArrayRef;
using OptionalFormat = std::optional<at::MemoryFormat>;
using OptionalTensor = std::optional<Tensor>;
using OptionalName = std::optional<std::string_view>;
using SymInts = std::vector<SymInt>;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// The parameters that the three ops share, with functions that call the ops.
struct Window {
  SymIntArrayRef stride, padding, dilation;
  const SymInt& groups;
  std::string_view padding_mode;

  Tensor conv2d(const Tensor& x, const Tensor& w) const {
    return forward_op().call(x, w, std::nullopt, stride, padding, dilation, groups, std::nullopt,
                             std::nullopt, padding_mode);
  }
  Tensor grad_input(const Tensor& gy, const Tensor& w, SymIntArrayRef input_size,
                    at::MemoryFormat format) const {
    return grad_input_op().call(gy, w, input_size, stride, padding, dilation, groups, format,
                                padding_mode);
  }
  Tensor grad_weight(const Tensor& gy, const Tensor& x, SymIntArrayRef weight_size,
                     at::MemoryFormat format) const {
    return grad_weight_op().call(gy, x, weight_size, stride, padding, dilation, groups, format,
                                 padding_mode);
  }
};

// A node that saves the two operands, a and b, of the bilinear op. It saves an operand only if the
// other operand's gradient is wanted.
struct BilinearNode : Node {
  const SymInts stride, padding, dilation;
  const SymInt groups;
  const std::string padding_mode;
  // Refers to the node's own copies.
  const Window window{stride, padding, dilation, groups, padding_mode};
  const SymInts a_size, b_size;
  const at::MemoryFormat b_format;
  SavedOperand a_;
  SavedVariable b_;

  BilinearNode(const Window& window, const Tensor& a, const Tensor& b)
      : stride(window.stride.vec()),
        padding(window.padding.vec()),
        dilation(window.dilation.vec()),
        groups(window.groups),
        padding_mode(window.padding_mode),
        a_size(a.sym_sizes().vec()),
        b_size(b.sym_sizes().vec()),
        b_format(b.suggest_memory_format()) {}
  void save(const Tensor& a, const Tensor& b) {
    if (should_compute_output(1)) a_.save(a);
    if (should_compute_output(0)) b_ = SavedVariable(b, /*is_output=*/false);
  }
  virtual void save_result(const Tensor&) {}
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    a_.reset();
    b_.reset_data();
  }
};

// Returns whether this backward pass accumulates all gradients in leaves and returns none.
bool only_accumulates() {
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
  return wanted != nullptr && wanted->empty();
}

struct Conv2dBackward : BilinearNode {  // a = x, b = w
  bool relu = false;
  SavedVariable y_;
  const at::MemoryFormat format;  // torch gives both gradients this format, see apply()

  Conv2dBackward(const Window& window, const Tensor& x, const Tensor& w)
      : BilinearNode(window, x, w), format(result_format(x, w)) {}
  std::string name() const override { return "Conv2dBackward"; }
  void save_result(const Tensor& y) override {
    if (relu) y_ = SavedVariable(y, /*is_output=*/true);
  }
  void release_variables() override {
    BilinearNode::release_variables();
    const std::lock_guard<std::mutex> lock(mutex_);
    y_.reset_data();
  }
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(4);  // of x, w, b and the residual
    if (!grads[0].defined()) return result;
    const Tensor y = relu ? y_.unpack(getptr()) : Tensor();
    const auto [gy, gb] = grad_epilogue(grads[0], y, task_should_compute_output(2));
    result[2] = gb;
    if (task_should_compute_output(3)) result[3] = gy;
    // If the input has no channels, the output has none either, and the bias does not reach it.
    if (gb.defined() && a_size[1].maybe_as_int() == 0) {
      result[2] = at::zeros_symint({b_size[0]}, gy.options());
    }
    if (task_should_compute_output(0)) {
      result[0] = window.grad_input(gy, b_.unpack(), a_size, format);
    }
    if (task_should_compute_output(1)) {
      // A leaf accumulates in the weight's own format and would copy a gradient in any other
      // format.
      const at::MemoryFormat gw_format = only_accumulates() ? b_format : format;
      result[1] = window.grad_weight(gy, a_.unpack(), b_size, gw_format);
    }
    return result;
  }
};

struct Conv2dGradInputBackward : BilinearNode {  // a = gy, b = w
  using BilinearNode::BilinearNode;
  std::string name() const override { return "Conv2dGradInputBackward"; }
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(2);
    const Tensor& ggx = grads[0];
    if (!ggx.defined()) return result;
    if (task_should_compute_output(0)) result[0] = window.conv2d(ggx, b_.unpack());
    if (task_should_compute_output(1)) {
      result[1] = window.grad_weight(a_.unpack(), ggx, b_size, b_format);
    }
    return result;
  }
};

struct Conv2dGradWeightBackward : BilinearNode {  // a = gy, b = x
  using BilinearNode::BilinearNode;
  std::string name() const override { return "Conv2dGradWeightBackward"; }
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(2);
    const Tensor& ggw = grads[0];
    if (!ggw.defined()) return result;
    if (task_should_compute_output(0)) result[0] = window.conv2d(b_.unpack(), ggw);
    if (task_should_compute_output(1)) {
      result[1] = window.grad_input(a_.unpack(), ggw, b_size, b_format);
    }
    return result;
  }
};

// Returns a node for op(a, b), or null if no gradient can be asked for.
template <class BackwardNode, class... Inputs>
PtrTo<BackwardNode> make_node(const Window& window, const Tensor& a, const Tensor& b,
                              const Inputs&... others) {
  if (!torch::autograd::compute_requires_grad(a, b, others...)) return {};
  auto node = new_node<BackwardNode>(window, a, b);
  node->set_next_edges(torch::autograd::collect_next_edges(a, b, others...));
  node->save(a, b);
  return node;
}

template <class Ptr>
void attach(const Ptr& node, const Tensor& result) {
  if (!node) return;
  torch::autograd::set_history(result, node);
  node->save_result(result);
  call_creation_hooks(node);
}

// Returns the tangent of op(a, b), where `op` is bilinear. It is undefined if neither operand has a
// tangent.
template <class Op>
Tensor bilinear_tangent(const Tensor& a, const Tensor& b, const Op& op) {
  const Tensor &da = a._fw_grad(/*level=*/0), &db = b._fw_grad(/*level=*/0);
  Tensor tangent;
  if (da.defined()) tangent = op(da, b._fw_primal(0));
  if (db.defined()) {
    const Tensor term = op(a._fw_primal(0), db);
    tangent = tangent.defined() ? tangent + term : term;
  }
  return tangent;
}

Tensor conv2d(DispatchKeySet keys, const Tensor& x, const Tensor& w, const OptionalTensor& b,
              SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation, SymInt groups,
              OptionalName activation, const OptionalTensor& residual,
              std::string_view padding_mode) {
  const Window window{stride, padding, dilation, groups, padding_mode};
  const bool tangents = has_tangent(x) || has_tangent(w) || has_tangent(b) || has_tangent(residual);
  // The derivative of ReLU follows from its result. Those of the other activations need their
  // argument, so that torch computes and differentiates them.
  if (activation.has_value() && *activation != "relu" &&
      (tangents || torch::autograd::compute_requires_grad(x, w, b, residual))) {
    const Tensor y = forward_op().call(x, w, b, stride, padding, dilation, groups, std::nullopt,
                                       residual, padding_mode);
    return activated_by_torch(y, parse_activation(*activation));
  }
  const auto node = make_node<Conv2dBackward>(window, x, w, b, residual);
  const Tensor y = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_op().redispatch(keys & c10::after_autograd_keyset, x, w, b, stride, padding,
                                   dilation, groups, activation, residual, padding_mode);
  }();
  if (node) node->relu = activation.has_value();
  attach(node, y);
  if (tangents) {
    Tensor tangent = bilinear_tangent(
        x, w, [&](const Tensor& a, const Tensor& c) { return window.conv2d(a, c); });
    if (has_tangent(b) && x.sym_size(1).maybe_as_int() != 0) {
      const Tensor db = b->_fw_grad(0).view({1, -1, 1, 1});
      tangent = tangent.defined() ? tangent + db : db.expand_as(y);
    }
    if (has_tangent(residual)) {
      const Tensor dz = residual->_fw_grad(0);
      // The result's tangent is a tensor of its own, because it changes with the result in place.
      tangent = tangent.defined() ? tangent + dz : at::clone(dz);
    }
    if (!tangent.defined()) return y;
    if (activation.has_value()) tangent = at::threshold_backward(tangent, y, 0);
    y._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
  }
  return y;
}

template <class BackwardNode>
Tensor gradient(const c10::TypedOperatorHandle<GradientSignature>& op, DispatchKeySet keys,
                const Tensor& a, const Tensor& b, SymIntArrayRef size, const Window& window,
                OptionalFormat format) {
  const auto node = make_node<BackwardNode>(window, a, b);
  const Tensor result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.redispatch(keys & c10::after_autograd_keyset, a, b, size, window.stride,
                         window.padding, window.dilation, window.groups, format,
                         window.padding_mode);
  }();
  attach(node, result);
  const Tensor tangent = bilinear_tangent(a, b, [&](const Tensor& da, const Tensor& db) {
    return op.call(da, db, size, window.stride, window.padding, window.dilation, window.groups,
                   format, window.padding_mode);
  });
  if (tangent.defined()) result._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
  return result;
}

Tensor conv2d_grad_input(DispatchKeySet keys, const Tensor& gy, const Tensor& w,
                         SymIntArrayRef input_size, SymIntArrayRef stride, SymIntArrayRef padding,
                         SymIntArrayRef dilation, SymInt groups, OptionalFormat memory_format,
                         std::string_view padding_mode) {
  return gradient<Conv2dGradInputBackward>(grad_input_op(), keys, gy, w, input_size,
                                           {stride, padding, dilation, groups, padding_mode},
                                           memory_format);
}

Tensor conv2d_grad_weight(DispatchKeySet keys, const Tensor& gy, const Tensor& x,
                          SymIntArrayRef weight_size, SymIntArrayRef stride, SymIntArrayRef padding,
                          SymIntArrayRef dilation, SymInt groups, OptionalFormat memory_format,
                          std::string_view padding_mode) {
  return gradient<Conv2dGradWeightBackward>(grad_weight_op(), keys, gy, x, weight_size,
                                            {stride, padding, dilation, groups, padding_mode},
                                            memory_format);
}

void implement(torch::Library& m) {
  m.impl("conv2d", TORCH_FN(conv2d));
  m.impl("conv2d_grad_input", TORCH_FN(conv2d_grad_input));
  m.impl("conv2d_grad_weight", TORCH_FN(conv2d_grad_weight));
}

}  // namespace

void register_autograd() {
  static const Registration autograd(c10::DispatchKey::Autograd, implement);
}

}  // namespace convkern::torch_binding
