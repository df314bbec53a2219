// The three ops: schemas, fakes (Meta) and implementations for CPU and CUDA tensors.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "bindings/checks.h"
#include "bindings/execute.h"
#include "bindings/fresh_memory.h"

namespace convkern::bindings {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using Ints = c10::IntArrayRef;
using OptionalName = std::optional<std::string_view>;

Tensor conv2d(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Ints stride,
              Ints padding, Ints dilation, int64_t groups, OptionalName activation) {
  Call call{Pass::forward, check_conv2d<int64_t>(x, w, b, {stride, padding, dilation, groups})};
  call.activation = parse_activation(activation);
  const Geometry<int64_t>& g = call.geometry;
  const auto format = result_format(x, w);
  Tensor y = fresh_output({g.N, g.O, g.OH(), g.OW()}, x.options(), format);
  call.x = x.contiguous(format);
  call.w = w;
  if (b.has_value()) call.b = b->contiguous();
  execute(call, format, y);
  return y;
}

Tensor conv2d_grad_input(const Tensor& gy, const Tensor& w, Ints input_size, Ints stride,
                         Ints padding, Ints dilation, int64_t groups) {
  Call call{Pass::grad_input,
            check_grad_input<int64_t>(gy, w, input_size, {stride, padding, dilation, groups})};
  const auto format = result_format(gy, w);
  Tensor gx = fresh_output(input_size, gy.options(), format);
  call.gy = gy.contiguous(format);
  call.w = w;
  execute(call, format, gx);
  return gx;
}

Tensor conv2d_grad_weight(const Tensor& gy, const Tensor& x, Ints weight_size, Ints stride,
                          Ints padding, Ints dilation, int64_t groups) {
  Call call{Pass::grad_weight,
            check_grad_weight<int64_t>(gy, x, weight_size, {stride, padding, dilation, groups})};
  const auto format = result_format(gy, x);
  Tensor gw = at::empty(weight_size, gy.options());
  call.gy = gy.contiguous(format);
  call.x = x.contiguous(format);
  execute(call, format, gw);
  return gw;
}

Tensor conv2d_meta(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                   SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                   SymInt groups, OptionalName activation) {
  const auto g = check_conv2d<SymInt>(x, w, b, {stride, padding, dilation, groups});
  parse_activation(activation);
  return at::empty_symint({g.N, g.O, g.OH(), g.OW()}, x.options(), result_format(x, w));
}

Tensor conv2d_grad_input_meta(const Tensor& gy, const Tensor& w, SymIntArrayRef input_size,
                              SymIntArrayRef stride, SymIntArrayRef padding,
                              SymIntArrayRef dilation, SymInt groups) {
  check_grad_input<SymInt>(gy, w, input_size, {stride, padding, dilation, groups});
  return at::empty_symint(input_size, gy.options(), result_format(gy, w));
}

Tensor conv2d_grad_weight_meta(const Tensor& gy, const Tensor& x, SymIntArrayRef weight_size,
                               SymIntArrayRef stride, SymIntArrayRef padding,
                               SymIntArrayRef dilation, SymInt groups) {
  check_grad_weight<SymInt>(gy, x, weight_size, {stride, padding, dilation, groups});
  return at::empty_symint(weight_size, gy.options());
}

}  // namespace

TORCH_LIBRARY(convkern, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, "
      "SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, str? activation=None) "
      "-> Tensor",
      tags);
  m.def(
      "conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt[] input_size, "
      "SymInt[2] stride=1, SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1) -> Tensor",
      tags);
  m.def(
      "conv2d_grad_weight(Tensor grad_output, Tensor input, SymInt[] weight_size, "
      "SymInt[2] stride=1, SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(convkern, Meta, m) {
  m.impl("conv2d", conv2d_meta);
  m.impl("conv2d_grad_input", conv2d_grad_input_meta);
  m.impl("conv2d_grad_weight", conv2d_grad_weight_meta);
}

void register_device(torch::Library& m) {
  m.impl("conv2d", conv2d);
  m.impl("conv2d_grad_input", conv2d_grad_input);
  m.impl("conv2d_grad_weight", conv2d_grad_weight);
}

TORCH_LIBRARY_IMPL(convkern, CPU, m) { register_device(m); }
#ifdef CONVKERN_WITH_CUDA
TORCH_LIBRARY_IMPL(convkern, CUDA, m) { register_device(m); }
#endif

}  // namespace convkern::bindings
