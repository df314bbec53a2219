// The three ops: schemas, fake implementations (Meta), and implementations for CPU and CUDA
// tensors.
#include <ATen/ops/empty.h>

#include "torch_binding/checks.h"
#include "torch_binding/execute.h"
#include "torch_binding/fresh_memory.h"
#include "torch_binding/registration.h"

namespace convkern::torch_binding {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using Ints = c10::IntArrayRef;
using OptionalFormat = std::optional<at::MemoryFormat>;
using OptionalName = std::optional<std::string_view>;
using Name = std::string_view;

// Returns the format of a gradient: the caller's, or else the one that the kernels write.
at::MemoryFormat gradient_format(OptionalFormat wanted, at::MemoryFormat otherwise) {
  if (!wanted.has_value()) return otherwise;
  TORCH_CHECK(*wanted == at::MemoryFormat::Contiguous || *wanted == at::MemoryFormat::ChannelsLast,
              "conv2d: memory_format must be contiguous_format or channels_last, got ", *wanted);
  return *wanted;
}
at::MemoryFormat gx_format(OptionalFormat wanted, const Tensor& gy, const Tensor& w) {
  return gradient_format(wanted, result_format(gy, w));
}
at::MemoryFormat gw_format(OptionalFormat wanted) {
  return gradient_format(wanted, at::MemoryFormat::Contiguous);
}

// Returns the format to compute gx in, which is its own. A tensor of one channel or one pixel is
// dense in both formats: it is computed in that of gy, which need not be copied then.
at::MemoryFormat computed_format(const Tensor& gx, const Tensor& gy) {
  const auto nchw = at::MemoryFormat::Contiguous, nhwc = at::MemoryFormat::ChannelsLast;
  const auto& chooses = gx.is_contiguous(nchw) && gx.is_contiguous(nhwc) ? gy : gx;
  return chooses.suggest_memory_format() == nhwc ? nhwc : nchw;
}

Tensor conv2d(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Ints stride,
              Ints padding, Ints dilation, int64_t groups, OptionalName activation,
              const std::optional<Tensor>& residual, Name padding_mode) {
  Call call{CONVKERN_FORWARD,
            check_conv2d<int64_t>(x, w, b, {stride, padding, dilation, groups, padding_mode})};
  call.epilogue = parse_activation(activation);
  check_allocated(x, "input");
  check_allocated(w, "weight");
  if (b.has_value()) check_allocated(*b, "bias");
  if (residual.has_value()) {
    check_residual(x, *residual, call.geometry);
    check_allocated(*residual, "residual");
  }
  const Geometry<int64_t>& g = call.geometry;
  const auto format = result_format(x, w);
  Tensor y = fresh_output({g.N, output_channels(g), g.OH(), g.OW()}, x.options(), format);
  call.x = x.contiguous(format);
  call.w = w;
  if (b.has_value()) call.b = b->contiguous();
  if (residual.has_value()) call.residual = residual->contiguous(format);
  execute(call, format, y);
  return y;
}

Tensor conv2d_grad_input(const Tensor& gy, const Tensor& w, Ints input_size, Ints stride,
                         Ints padding, Ints dilation, int64_t groups, OptionalFormat memory_format,
                         Name padding_mode) {
  Call call{CONVKERN_GRAD_INPUT,
            check_grad_input<int64_t>(gy, w, input_size,
                                      {stride, padding, dilation, groups, padding_mode})};
  check_allocated(gy, "grad_output");
  check_allocated(w, "weight");
  Tensor gx = fresh_output(input_size, gy.options(), gx_format(memory_format, gy, w));
  const auto format = computed_format(gx, gy);
  call.gy = gy.contiguous(format);
  call.w = w;
  execute(call, format, gx);
  return gx;
}

Tensor conv2d_grad_weight(const Tensor& gy, const Tensor& x, Ints weight_size, Ints stride,
                          Ints padding, Ints dilation, int64_t groups, OptionalFormat memory_format,
                          Name padding_mode) {
  Call call{CONVKERN_GRAD_WEIGHT,
            check_grad_weight<int64_t>(gy, x, weight_size,
                                       {stride, padding, dilation, groups, padding_mode})};
  check_allocated(gy, "grad_output");
  check_allocated(x, "input");
  const auto format = result_format(gy, x);
  call.gy = gy.contiguous(format);
  call.x = x.contiguous(format);
  Tensor gw = at::empty(weight_size, gy.options(), gw_format(memory_format));
  Tensor contiguous = gw.is_contiguous() ? gw : at::empty(weight_size, gy.options());
  execute(call, format, contiguous);
  return contiguous.is_same(gw) ? gw : gw.copy_(contiguous);
}

Tensor conv2d_meta(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                   SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                   SymInt groups, OptionalName activation, const std::optional<Tensor>& residual,
                   Name padding_mode) {
  const auto g = check_conv2d<SymInt>(x, w, b, {stride, padding, dilation, groups, padding_mode});
  parse_activation(activation);
  if (residual.has_value()) check_residual<SymInt>(x, *residual, g);
  return at::empty_symint({g.N, output_channels(g), g.OH(), g.OW()}, x.options(),
                          result_format(x, w));
}

Tensor conv2d_grad_input_meta(const Tensor& gy, const Tensor& w, SymIntArrayRef input_size,
                              SymIntArrayRef stride, SymIntArrayRef padding,
                              SymIntArrayRef dilation, SymInt groups, OptionalFormat memory_format,
                              Name padding_mode) {
  check_grad_input<SymInt>(gy, w, input_size, {stride, padding, dilation, groups, padding_mode});
  return at::empty_symint(input_size, gy.options(), gx_format(memory_format, gy, w));
}

Tensor conv2d_grad_weight_meta(const Tensor& gy, const Tensor& x, SymIntArrayRef weight_size,
                               SymIntArrayRef stride, SymIntArrayRef padding,
                               SymIntArrayRef dilation, SymInt groups, OptionalFormat memory_format,
                               Name padding_mode) {
  check_grad_weight<SymInt>(gy, x, weight_size, {stride, padding, dilation, groups, padding_mode});
  return at::empty_symint(weight_size, gy.options(), gw_format(memory_format));
}

void define(torch::Library& m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, "
      "SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, str? activation=None, "
      "Tensor? residual=None, str padding_mode=\"zeros\") -> Tensor",
      tags);
  m.def(
      "conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt[] input_size, "
      "SymInt[2] stride=1, SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, "
      "MemoryFormat? memory_format=None, str padding_mode=\"zeros\") -> Tensor",
      tags);
  m.def(
      "conv2d_grad_weight(Tensor grad_output, Tensor input, SymInt[] weight_size, "
      "SymInt[2] stride=1, SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, "
      "MemoryFormat? memory_format=None, str padding_mode=\"zeros\") -> Tensor",
      tags);
}

void implement_meta(torch::Library& m) {
  m.impl("conv2d", conv2d_meta);
  m.impl("conv2d_grad_input", conv2d_grad_input_meta);
  m.impl("conv2d_grad_weight", conv2d_grad_weight_meta);
}

void implement(torch::Library& m) {
  m.impl("conv2d", conv2d);
  m.impl("conv2d_grad_input", conv2d_grad_input);
  m.impl("conv2d_grad_weight", conv2d_grad_weight);
}

}  // namespace

void register_ops() {
  static const Registration definitions(define);
  static const Registration meta(c10::DispatchKey::Meta, implement_meta);
  static const Registration cpu(c10::DispatchKey::CPU, implement);
}

void register_cuda_ops() { static const Registration cuda(c10::DispatchKey::CUDA, implement); }

}  // namespace convkern::torch_binding
