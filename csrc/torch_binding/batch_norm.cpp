#include "torch_binding/batch_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/alias.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd.h>

#include "torch_binding/activations.h"
#include "torch_binding/checks.h"
#include "torch_binding/execute.h"
#include "torch_binding/executors.h"
#include "torch_binding/fresh_memory.h"
#include "torch_binding/library.h"
#include "torch_binding/plain.h"

namespace convkern::torch_binding {
namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Returns the memory of a tensor that may be absent. FSDP frees parameters between their uses.
const void* data_or_null(const Tensor& t, const char* name) {
  if (!t.defined()) return nullptr;
  check_allocated(t, name, "batch_norm");
  return t.const_data_ptr();
}
void* mutable_data_or_null(const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }

at::MemoryFormat format_of(const Tensor& x) { return x.suggest_memory_format(); }

// Returns the problem's sizes and kind; its pointers are null.
convkern_batch_norm norm_of(const Tensor& x, const convkern_problem& activation) {
  convkern_batch_norm norm{};
  norm.images = x.size(0);
  norm.channels = x.size(1);
  norm.pixels = x.size(2) * x.size(3);
  norm.layout = format_of(x) == at::MemoryFormat::ChannelsLast ? CONVKERN_NHWC : CONVKERN_NCHW;
  norm.dtype = dtype_of(x);
  norm.activation = activation.activation;
  std::copy(std::begin(activation.activation_parameters),
            std::end(activation.activation_parameters), norm.activation_parameters);
  norm.isa = convkern_batch_norm_isa();
  return norm;
}

// Returns the dtype of the numbers of channels.
at::ScalarType numbers_dtype(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor numbers_of_channels(const Tensor& x) {
  return at::empty({x.size(1)}, x.options().dtype(numbers_dtype(x)).memory_format(std::nullopt));
}

bool is_known_dtype(const Tensor& x) {
  const auto dtype = x.scalar_type();
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 ||
         dtype == at::kHalf;
}

// Returns whether a tensor of channels is absent, or the passes can read it.
bool fits_channels(const Tensor& t, const Tensor& x) {
  if (!t.defined()) return true;
  return is_plain(t) && t.dim() == 1 && t.size(0) == x.size(1) && t.is_contiguous() &&
         t.scalar_type() == numbers_dtype(x);
}

bool computes(const BatchNormArguments& a, const convkern_problem& activation) {
  const Tensor& x = a.x;
  if (!is_plain(x) || x.dim() != 4 || x.numel() == 0 || !is_known_dtype(x)) return false;
  if (!x.is_contiguous(format_of(x))) return false;
  for (const Tensor& t : {a.running_mean, a.running_var, a.weight, a.bias}) {
    if (!fits_channels(t, x)) return false;
  }
  if (a.residual.defined() && (!is_plain(a.residual) || a.residual.sizes() != x.sizes() ||
                               a.residual.scalar_type() != x.scalar_type())) {
    return false;
  }
  const bool valid = a.training ? x.numel() != x.size(1) && a.eps > 0
                                : a.running_mean.defined() && a.running_var.defined();
  if (!valid) return false;  // torch raises an error
  return convkern_batch_norm_has(activation.activation, a.residual.defined()) != 0;
}

// Returns whether a gradient is one number for each image and channel, expanded to all pixels, as
// that of a sum over the pixels is.
bool is_same_in_pixels(const Tensor& g) {
  return g.defined() && g.dim() == 4 && g.stride(2) == 0 && g.stride(3) == 0 &&
         g.size(2) * g.size(3) > 1;
}

struct BatchNormNode : Node {
  convkern_batch_norm norm;  // sizes and kind
  convkern_problem activation;
  bool recomputes = false;
  uint32_t version = 0;  // of the result when it was made
  SavedVariable x_, weight_, bias_;
  Tensor mean, invstd, kept;

  std::string name() const override { return "BatchNormActivationBackward"; }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    x_.reset_data();
    weight_.reset_data();
    bias_.reset_data();
    unpacked_ = {};
    kept.reset();
  }

  struct Operands {
    Tensor x, weight, bias;
  };
  // What recomputed() unpacked, for the backward pass: torch.utils.checkpoint unpacks only once.
  Operands unpacked_;

  Operands unpacked() {
    if (unpacked_.x.defined()) return unpacked_;
    // Hooks of saved tensors may return other strides.
    const auto dense = [](const SavedVariable& saved, at::MemoryFormat format) {
      const Tensor t = saved.unpack();
      return t.defined() ? t.contiguous(format) : t;
    };
    constexpr auto kFlat = at::MemoryFormat::Contiguous;
    return {dense(x_, norm.layout == CONVKERN_NHWC ? at::MemoryFormat::ChannelsLast : kFlat),
            dense(weight_, kFlat), dense(bias_, kFlat)};
  }

  // Fills in what both passes read.
  convkern_batch_norm with_operands(const Tensor& x, const Tensor& weight, const Tensor& bias) {
    convkern_batch_norm n = norm;
    n.x = data_or_null(x, "input");
    n.weight = data_or_null(weight, "weight");
    n.bias = data_or_null(bias, "bias");
    n.mean = mean.mutable_data_ptr();
    n.invstd = invstd.mutable_data_ptr();
    n.kept = static_cast<uint16_t*>(mutable_data_or_null(kept));
    return n;
  }

  Tensor recomputed() {
    const std::lock_guard<std::mutex> lock(mutex_);
    RECORD_FUNCTION("convkern::batch_norm", c10::ArrayRef<const c10::IValue>{});
    unpacked_ = unpacked();
    const auto& [x, weight, bias] = unpacked_;
    const at::AutoDispatchBelowADInplaceOrView below;
    const Tensor y = fresh_output(x.sizes(), x.options(), format_of(x));
    convkern_batch_norm n = with_operands(x, weight, bias);
    n.given_statistics = 1;
    n.y = y.mutable_data_ptr();
    check(convkern_batch_norm_forward(&n, TorchExecutor()));
    return y;
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(4);  // of x, weight, bias and the residual
    if (grads.size() > 1 && (!grads[0].defined() || is_same_in_pixels(grads[0]))) {
      std::swap(grads[0], grads[1]);
    }
    if (!grads[0].defined()) std::swap(grads[0], grads.back());
    if (!grads[0].defined()) return result;
    const auto [x, weight, bias] = unpacked();
    unpacked_ = {};
    const bool two = grads.size() > 1 && grads[1].defined();
    if (c10::GradMode::is_enabled() || !is_plain(grads[0]) || (two && !is_plain(grads[1]))) {
      return by_formula(two ? grads[0] + grads[1] : grads[0], x, weight, bias);
    }
    RECORD_FUNCTION("convkern::batch_norm_backward", c10::ArrayRef<const c10::IValue>{});
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto format = format_of(x);
    // A gradient that nobody else holds is overwritten, as autograd does when it adds up gradients.
    const bool reuses = is_owned(grads[0]) && grads[0].is_contiguous(format);
    const Tensor gy = grads[0].contiguous(format);
    convkern_batch_norm n = with_operands(x, weight, bias);
    n.gy[0] = data_or_null(gy, "the gradient");
    Tensor second;
    if (two && !kept.defined() && is_same_in_pixels(grads[1])) {
      second = grads[1].select(3, 0).select(2, 0).to(mean.scalar_type()).contiguous();
      n.gy_images = data_or_null(second, "the gradient");
    } else if (two) {
      second = grads[1].contiguous(format);
      n.gy[1] = data_or_null(second, "the gradient");
    }
    const bool wants_residual = task_should_compute_output(3);
    const bool writes_residual = wants_residual && (two || norm.activation != 0);
    if (wants_residual) {
      result[3] = writes_residual ? fresh_output(x.sizes(), x.options(), format) : gy;
    }
    if (writes_residual) n.gresidual = result[3].mutable_data_ptr();
    if (task_should_compute_output(0)) {
      const bool in_place = reuses && !(wants_residual && !writes_residual);
      result[0] = in_place ? gy : fresh_output(x.sizes(), x.options(), format);
      n.gx = result[0].mutable_data_ptr();
    }
    for (const int i : {1, 2}) {
      if (task_should_compute_output(i)) result[i] = numbers_of_channels(x);
    }
    n.gweight = mutable_data_or_null(result[1]);
    n.gbias = mutable_data_or_null(result[2]);
    check(convkern_batch_norm_backward(&n, TorchExecutor()));
    return result;
  }

  // Returns the gradients by torch's operators, which are differentiable.
  variable_list by_formula(const Tensor& gy, const Tensor& x_given, const Tensor& weight_given,
                           const Tensor& bias_given) {
    const auto column = [](const Tensor& t) { return t.view({1, -1, 1, 1}); };
    Tensor x, weight, bias, u;
    {
      const at::AutoGradMode enabled(true);
      // The operands may depend on each other. Derivatives with respect to these end here.
      x = at::alias(x_given);
      if (weight_given.defined()) weight = at::alias(weight_given);
      if (bias_given.defined()) bias = at::alias(bias_given);
      const Tensor wide = mean.scalar_type() == x.scalar_type() ? x : x.to(mean.scalar_type());
      if (norm.given_statistics != 0) {
        u = (wide - column(mean)) * column(invstd);
      } else {
        const Tensor d = wide - wide.mean(at::IntArrayRef{0, 2, 3}, /*keepdim=*/true);
        const Tensor variance = (d * d).mean(at::IntArrayRef{0, 2, 3}, /*keepdim=*/true);
        u = d * at::rsqrt(variance + norm.eps);
      }
      if (weight.defined()) u = u * column(weight);
      if (bias.defined()) u = u + column(bias);
      u = u.to(x.scalar_type());
      if (!kept.defined()) u = activated_by_torch(u, activation);
    }
    const Tensor g = kept.defined() ? gy * kept_as_numbers(x, weight, bias) : gy;
    variable_list wanted, result(4);
    std::vector<int> places;
    const Tensor* const operands[] = {&x, &weight, &bias};
    for (int i = 0; i < 3; ++i) {
      if (!task_should_compute_output(i)) continue;
      wanted.push_back(*operands[i]);
      places.push_back(i);
    }
    if (!wanted.empty()) {
      const bool differentiable = c10::GradMode::is_enabled();
      const variable_list found = torch::autograd::grad({u}, wanted, {g}, true, differentiable);
      for (size_t i = 0; i < found.size(); ++i) result[places[i]] = found[i];
    }
    if (task_should_compute_output(3)) result[3] = g;
    return result;
  }

  // Returns 1 where the activation passes gradients on, and else 0.
  Tensor kept_as_numbers(const Tensor& x, const Tensor& weight, const Tensor& bias) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Tensor ones = at::ones_like(x), mask = at::empty_like(x);
    convkern_batch_norm n = with_operands(x, weight, bias);
    n.gy[0] = ones.const_data_ptr();
    n.gresidual = mask.mutable_data_ptr();
    check(convkern_batch_norm_backward(&n, TorchExecutor()));
    return mask;
  }
};

// Returns the statistics that the layer has kept, as the passes read them. They are copies: the
// layer may change its own before the backward pass.
std::pair<Tensor, Tensor> kept_statistics(const BatchNormArguments& a) {
  const at::AutoDispatchBelowADInplaceOrView below;
  return {at::clone(a.running_mean), at::rsqrt(a.running_var.detach() + a.eps)};
}

}  // namespace

std::vector<Tensor> batch_norm(const BatchNormArguments& a) {
  const convkern_problem activation = parse_activation(a.activation);
  if (!computes(a, activation)) return {};
  const Tensor& x = a.x;
  const auto format = format_of(x);
  const Tensor residual = a.residual.defined() ? a.residual.contiguous(format) : Tensor();
  RECORD_FUNCTION("convkern::batch_norm", c10::ArrayRef<const c10::IValue>{});
  const auto node = new_node<BatchNormNode>();
  node->norm = norm_of(x, activation);
  node->activation = activation;
  if (a.running_mean.defined()) check_allocated(a.running_mean, "running_mean", "batch_norm");
  if (a.running_var.defined()) check_allocated(a.running_var, "running_var", "batch_norm");
  node->norm.given_statistics = !a.training;
  node->norm.eps = a.eps;
  if (a.training) {
    node->mean = numbers_of_channels(x);
    node->invstd = numbers_of_channels(x);
  } else {
    std::tie(node->mean, node->invstd) = kept_statistics(a);
  }
  const bool differentiable = torch::autograd::compute_requires_grad(x, a.weight, a.bias, residual);
  if (differentiable && residual.defined() && activation.activation != 0) {
    node->kept = at::empty({convkern_batch_norm_kept_bytes(&node->norm)},
                           x.options().dtype(at::kByte).memory_format(std::nullopt));
  }
  const Tensor y = fresh_output(x.sizes(), x.options(), format);
  convkern_batch_norm n = node->with_operands(x, a.weight, a.bias);
  n.residual = data_or_null(residual, "residual");
  n.y = y.mutable_data_ptr();
  if (a.training) {
    n.momentum = a.momentum;
    n.running_mean = mutable_data_or_null(a.running_mean);
    n.running_var = mutable_data_or_null(a.running_var);
  }
  check(convkern_batch_norm_forward(&n, TorchExecutor()));
  if (a.training) {
    for (const Tensor& running : {a.running_mean, a.running_var}) {
      if (running.defined()) running.unsafeGetTensorImpl()->bump_version();
    }
  }
  std::vector<Tensor> results = {y};
  if (a.twice) results.push_back(differentiable ? y.detach() : y);
  if (!differentiable) return results;
  node->set_next_edges(torch::autograd::collect_next_edges(x, a.weight, a.bias, residual));
  node->x_ = SavedVariable(x, /*is_output=*/false);
  if (a.weight.defined()) node->weight_ = SavedVariable(a.weight, /*is_output=*/false);
  if (a.bias.defined()) node->bias_ = SavedVariable(a.bias, /*is_output=*/false);
  node->recomputes = a.recompute && !residual.defined();
  node->version = y._version();
  for (const Tensor& result : results) torch::autograd::set_history(result, node);
  call_creation_hooks(node);
  return results;
}

void SavedOperand::save(const Tensor& x) {
  const auto& function = x.grad_fn();
  auto* node = function ? dynamic_cast<BatchNormNode*>(function.get()) : nullptr;
  if (node != nullptr && node->recomputes && x._version() == node->version) {
    node_ = function;
    output_ = x.output_nr();
  } else {
    saved_ = SavedVariable(x, /*is_output=*/false);
  }
}

Tensor SavedOperand::unpack() const {
  if (!node_) return saved_.unpack();
  TORCH_CHECK(!released_, torch::autograd::ERR_BACKWARD_TWICE);
  Tensor x = static_cast<BatchNormNode&>(*node_).recomputed();
  torch::autograd::impl::set_gradient_edge(x, {node_, output_});
  return x;
}

void SavedOperand::reset() {
  saved_.reset_data();
  released_ = true;
}

}  // namespace convkern::torch_binding
