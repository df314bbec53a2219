// Handles the differences between the versions of torch that this binding compiles with. They are
// detected in torch's declarations rather than from its version number.
#pragma once

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace convkern::torch_binding {

// torch owns the nodes of its graph by std::shared_ptr up to 2.12, and by intrusive_ptr since.
using NodePtr = decltype(torch::autograd::Edge::function);
constexpr bool kSharedNodes = std::is_same_v<NodePtr, std::shared_ptr<torch::autograd::Node>>;
template <class BackwardNode>
using PtrTo = std::conditional_t<kSharedNodes, std::shared_ptr<BackwardNode>,
                                 c10::intrusive_ptr<BackwardNode>>;

template <class BackwardNode, class... Arguments>
PtrTo<BackwardNode> new_node(Arguments&&... arguments) {
  if constexpr (kSharedNodes) {
    // torch's deleter does not recurse through long graphs. Argument-dependent lookup finds it.
    return std::shared_ptr<BackwardNode>(new BackwardNode(std::forward<Arguments>(arguments)...),
                                         [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<BackwardNode>(std::forward<Arguments>(arguments)...);
  }
}

// Calls the hooks for new nodes, which torch has since 2.14.
template <class Ptr>
void call_creation_hooks(const Ptr& node) {
  if constexpr (requires { fire_node_creation_hooks(node); }) fire_node_creation_hooks(node);
}

// True if torch gives the handle of a stream without linking with CUDA. The CUDA kernels need the
// handle.
template <class Guard = c10::impl::VirtualGuardImpl>
constexpr bool kHasStreamHandles =
    requires(const Guard& guard, c10::Stream stream) { guard.getStreamNativeHandle(stream); };

// Returns the handle, such as a cudaStream_t, or null if torch does not give it.
template <class Guard>
void* stream_handle(const Guard& guard, c10::Stream stream) {
  if constexpr (kHasStreamHandles<Guard>) {
    return guard.getStreamNativeHandle(stream);
  } else {
    return nullptr;
  }
}

// Returns whether the tensor has a tangent in forward-mode automatic differentiation.
inline bool has_tangent(const at::Tensor& t) { return t._fw_grad(/*level=*/0).defined(); }
inline bool has_tangent(const std::optional<at::Tensor>& t) {
  return t.has_value() && t->defined() && has_tangent(*t);
}

}  // namespace convkern::torch_binding
