// Autocast of conv2d, as torch does it: the tensors are cast to the dtype of the region. The ops of
// the gradients need no rule, because autograd passes them the cast tensors.
#include <ATen/autocast_mode.h>

#include "torch_binding/op_handles.h"
#include "torch_binding/registration.h"

namespace convkern::torch_binding {
namespace {

using at::Tensor;
using at::autocast::cached_cast;
using c10::SymIntArrayRef;

template <c10::DeviceType device>
Tensor conv2d(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
              SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
              c10::SymInt groups, std::optional<std::string_view> activation,
              const std::optional<Tensor>& residual, std::string_view padding_mode) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::ScalarType dtype = at::autocast::get_lower_precision_fp_from_device_type(device);
  return forward_op().call(cached_cast(dtype, x, device), cached_cast(dtype, w, device),
                           cached_cast(dtype, b, device), stride, padding, dilation,
                           std::move(groups), activation, cached_cast(dtype, residual, device),
                           padding_mode);
}

template <c10::DeviceType device>
void implement(torch::Library& m) {
  m.impl("conv2d", TORCH_FN(conv2d<device>));
}

}  // namespace

void register_autocast() {
  static const Registration cpu(c10::DispatchKey::AutocastCPU, implement<at::kCPU>);
  static const Registration cuda(c10::DispatchKey::AutocastCUDA, implement<at::kCUDA>);
}

}  // namespace convkern::torch_binding
