#include "torch_binding/channel_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "torch_binding/batch_norm.h"
#include "torch_binding/checks.h"
#include "torch_binding/executors.h"
#include "torch_binding/fresh_memory.h"
#include "torch_binding/pixel_loops.h"
#include "torch_binding/plain.h"

namespace convkern::torch_binding {
namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

constexpr auto kFormat = at::MemoryFormat::ChannelsLast;
constexpr int64_t kMostParts = 8;  // of an image, whose sums are added in order

struct Gradients {
  Tensor x, scale;
};

// Writes gx over gy if it may.
Gradients gradients(const Tensor& gy, bool reuses, const Tensor& x, const Tensor& scale) {
  const int64_t images = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3);
  const int64_t parts = std::min(kMostParts, pixels);
  Gradients result{reuses ? gy : fresh_output(x.sizes(), x.options(), kFormat),
                   at::empty(scale.sizes(), scale.options(), kFormat)};
  const Tensor memory = at::empty({images * parts * channels}, x.options());
  auto* sums = memory.mutable_data_ptr<float>();
  const auto *g = gy.const_data_ptr<float>(), *in = x.const_data_ptr<float>();
  const auto* numbers = scale.const_data_ptr<float>();
  auto* gx = result.x.mutable_data_ptr<float>();
  in_parallel(TorchExecutor(), images * parts, x.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / parts, part = i % parts;
      const int64_t first = part * pixels / parts, last = (part + 1) * pixels / parts;
      const int64_t at = (image * pixels + first) * channels;
      scale_gradient(g + at, in + at, numbers + image * channels, channels, last - first,
                     sums + i * channels, gx + at);
    }
  });
  auto* gscale = result.scale.mutable_data_ptr<float>();
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t part = 0; part < parts; ++part) {
        sum += sums[(image * parts + part) * channels + c];
      }
      *gscale++ = static_cast<float>(sum);
    }
  }
  return result;
}

struct ChannelProductBackward : Node {
  SavedOperand x_;
  SavedVariable scale_;

  std::string name() const override { return "ChannelProductBackward"; }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    x_.reset();
    scale_.reset_data();
  }
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!grads[0].defined()) return variable_list(2);
    Tensor x = x_.unpack(), scale = scale_.unpack();
    if (c10::GradMode::is_enabled() || !is_plain(grads[0])) {
      return {grads[0] * scale, (grads[0] * x).sum(at::IntArrayRef{2, 3}, /*keepdim=*/true)};
    }
    RECORD_FUNCTION("convkern::channel_product_backward", c10::ArrayRef<const c10::IValue>{});
    const at::AutoDispatchBelowADInplaceOrView below;
    x = x.contiguous(kFormat);  // hooks of saved tensors may return other strides
    scale = scale.contiguous(kFormat);
    const bool reuses = is_owned(grads[0]) && grads[0].is_contiguous(kFormat);
    const Gradients found = gradients(grads[0].contiguous(kFormat), reuses, x, scale);
    return {found.x, found.scale};
  }
};

bool computes(const Tensor& x, const Tensor& scale) {
  return is_plain(x) && is_plain(scale) && x.scalar_type() == at::kFloat &&
         scale.scalar_type() == at::kFloat && x.dim() == 4 && x.numel() > 0 &&
         x.is_contiguous(kFormat) && scale.is_contiguous(kFormat) &&
         scale.sizes() == at::IntArrayRef{x.size(0), x.size(1), 1, 1};
}

}  // namespace

Tensor channel_product(const Tensor& x, const Tensor& scale) {
  if (!computes(x, scale)) return {};
  check_allocated(x, "input");
  check_allocated(scale, "scale");
  RECORD_FUNCTION("convkern::channel_product", c10::ArrayRef<const c10::IValue>{});
  const Tensor y = fresh_output(x.sizes(), x.options(), kFormat);
  const int64_t channels = x.size(1), pixels = x.size(2) * x.size(3);
  const auto *in = x.const_data_ptr<float>(), *numbers = scale.const_data_ptr<float>();
  auto* out = y.mutable_data_ptr<float>();
  in_parallel(TorchExecutor(), x.size(0) * pixels, x.numel(), [&](int64_t begin, int64_t end) {
    scale_pixels(in, numbers, channels, pixels, begin, end, out);
  });
  if (!torch::autograd::compute_requires_grad(x, scale)) return y;
  const auto node = new_node<ChannelProductBackward>();
  node->set_next_edges(torch::autograd::collect_next_edges(x, scale));
  node->x_.save(x);
  node->scale_ = SavedVariable(scale, /*is_output=*/false);
  torch::autograd::set_history(y, node);
  call_creation_hooks(node);
  return y;
}

}  // namespace convkern::torch_binding
