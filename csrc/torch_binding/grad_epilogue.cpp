#include "torch_binding/grad_epilogue.h"

#include <ATen/core/dispatch/DispatchKeyExtractor.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>

#include "torch_binding/checks.h"
#include "torch_binding/fresh_memory.h"
#include "torch_binding/executors.h"
#include "torch_binding/library.h"

namespace convkern::torch_binding {
namespace {

// Returns the device whose kernels an op on these tensors would reach directly. Autograd does not
// count as a detour. Returns Undefined if something traces, batches or wraps the tensors.
c10::DispatchKey backend_of(const at::Tensor& gy, const at::Tensor& y) {
  c10::DispatchKeySet keys = gy.key_set();
  if (y.defined()) keys = keys | y.key_set();
  keys = c10::impl::computeDispatchKeySet(keys,
                                          c10::DispatchKeySet(c10::DispatchKeySet::FULL) -
                                              c10::autograd_dispatch_keyset_with_ADInplaceOrView -
                                              c10::DispatchKeySet(c10::DispatchKey::BackendSelect));
  const c10::DispatchKey first = keys.highestPriorityTypeId();
  const bool known = first == c10::DispatchKey::CPU || first == c10::DispatchKey::CUDA;
  return known ? first : c10::DispatchKey::Undefined;
}

// Returns whether the library's own pass may compute the gradient. The tensors must be on the CPU,
// and nothing may differentiate the gradient.
bool is_plain(const at::Tensor& gy, c10::DispatchKey backend) {
  return backend == c10::DispatchKey::CPU && !c10::GradMode::is_enabled() &&
         !gy._fw_grad(/*level=*/0).defined();
}

}  // namespace

EpilogueGradient grad_epilogue(const at::Tensor& gy, const at::Tensor& y, bool bias) {
  const bool relu = y.defined();
  if (!relu && !bias) return {gy, {}};
  const c10::DispatchKey backend = backend_of(gy, y);
  if (backend != c10::DispatchKey::Undefined) {
    check_allocated(gy, "grad_output");
    if (relu) check_allocated(y, "output");
  }
  if (!is_plain(gy, backend) || gy.scalar_type() != at::kFloat || gy.dim() != 4) {
    const at::Tensor masked = relu ? at::threshold_backward(gy, y, 0) : gy;
    return {masked, bias ? masked.sum(at::IntArrayRef{0, 2, 3}) : at::Tensor()};
  }
  RECORD_FUNCTION("convkern::grad_epilogue", c10::ArrayRef<const c10::IValue>{});
  const auto format = (relu ? y : gy).suggest_memory_format();
  const at::Tensor dense = gy.contiguous(format);
  const at::Tensor dense_y = relu ? y.contiguous(format) : at::Tensor();
  EpilogueGradient result{relu ? fresh_output(gy.sizes(), gy.options(), format) : dense, {}};
  if (bias) result.gb = at::empty({gy.size(1)}, gy.options());
  convkern_epilogue_gradient epilogue{};
  epilogue.images = gy.size(0);
  epilogue.channels = gy.size(1);
  epilogue.pixels = gy.size(2) * gy.size(3);
  epilogue.layout = format == at::MemoryFormat::ChannelsLast ? CONVKERN_NHWC : CONVKERN_NCHW;
  epilogue.gy = dense.const_data_ptr<float>();
  if (relu) {
    epilogue.y = dense_y.const_data_ptr<float>();
    epilogue.masked = result.gy.mutable_data_ptr<float>();
  }
  if (bias) epilogue.gb = result.gb.mutable_data_ptr<float>();
  check(convkern_run_epilogue_gradient(&epilogue, TorchExecutor()));
  return result;
}

}  // namespace convkern::torch_binding
