#include "bindings/grad_epilogue.h"

#include <ATen/core/dispatch/DispatchKeyExtractor.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>

#include "bindings/fresh_memory.h"
#include "bindings/torch_executor.h"
#include "cpu/grad_epilogue.h"

namespace convkern::bindings {
namespace {

// Whether ops on these tensors would go straight to the CPU: nothing traces, batches,
// differentiates or wraps them.
bool is_plain(const at::Tensor& gy, const at::Tensor& y) {
  if (c10::GradMode::is_enabled()) return false;
  c10::DispatchKeySet keys = gy.key_set();
  if (y.defined()) keys = keys | y.key_set();
  keys = c10::impl::computeDispatchKeySet(keys,
                                          c10::DispatchKeySet(c10::DispatchKeySet::FULL) -
                                              c10::autograd_dispatch_keyset_with_ADInplaceOrView -
                                              c10::DispatchKeySet(c10::DispatchKey::BackendSelect));
  const bool tangent = gy._fw_grad(/*level=*/0).defined();
  return keys.highestPriorityTypeId() == c10::DispatchKey::CPU && !tangent;
}

}  // namespace

EpilogueGradient grad_epilogue(const at::Tensor& gy, const at::Tensor& y, bool bias) {
  const bool relu = y.defined();
  if (!relu && !bias) return {gy, {}};
  if (!is_plain(gy, y) || gy.scalar_type() != at::kFloat || gy.dim() != 4) {
    const at::Tensor masked = relu ? at::threshold_backward(gy, y, 0) : gy;
    return {masked, bias ? masked.sum(at::IntArrayRef{0, 2, 3}) : at::Tensor()};
  }
  RECORD_FUNCTION("convkern::grad_epilogue", c10::ArrayRef<const c10::IValue>{});
  const auto format = (relu ? y : gy).suggest_memory_format();
  const at::Tensor dense = gy.contiguous(format);
  const at::Tensor dense_y = relu ? y.contiguous(format) : at::Tensor();
  EpilogueGradient result{relu ? fresh_output(gy.sizes(), gy.options(), format) : dense, {}};
  if (bias) result.gb = at::empty({gy.size(1)}, gy.options());
  cpu::GradEpilogue epilogue{};
  epilogue.images = gy.size(0);
  epilogue.channels = gy.size(1);
  epilogue.pixels = gy.size(2) * gy.size(3);
  epilogue.layout = format == at::MemoryFormat::ChannelsLast ? Layout::nhwc : Layout::nchw;
  epilogue.gy = dense.const_data_ptr<float>();
  if (relu) {
    epilogue.y = dense_y.const_data_ptr<float>();
    epilogue.masked = result.gy.mutable_data_ptr<float>();
  }
  if (bias) epilogue.gb = result.gb.mutable_data_ptr<float>();
  epilogue.run(TorchExecutor());
  return result;
}

}  // namespace convkern::bindings
