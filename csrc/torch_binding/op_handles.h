// Typed handles of the three ops. They call through the dispatcher without boxing arguments.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/MemoryFormat.h>

namespace convkern::torch_binding {

using ForwardSignature = at::Tensor(const at::Tensor&, const at::Tensor&,
                                    const std::optional<at::Tensor>&, c10::SymIntArrayRef,
                                    c10::SymIntArrayRef, c10::SymIntArrayRef, c10::SymInt,
                                    std::optional<std::string_view>,
                                    const std::optional<at::Tensor>&, std::string_view);
using GradientSignature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymIntArrayRef,
                                     c10::SymIntArrayRef, c10::SymIntArrayRef, c10::SymIntArrayRef,
                                     c10::SymInt, std::optional<at::MemoryFormat>,
                                     std::string_view);

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline const auto& forward_op() {
  static const auto op = find_op<ForwardSignature>("convkern::conv2d");
  return op;
}
inline const auto& grad_input_op() {
  static const auto op = find_op<GradientSignature>("convkern::conv2d_grad_input");
  return op;
}
inline const auto& grad_weight_op() {
  static const auto op = find_op<GradientSignature>("convkern::conv2d_grad_weight");
  return op;
}

}  // namespace convkern::torch_binding
