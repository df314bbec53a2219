"""Graphs that treat the images of a batch alike, so that each image can be computed on its own."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from convkern.optimize import fused
from convkern.optimize.graphs import arguments, aten, constant, fake_mode, val

# Nodes of these targets compute each image of their first argument from that image alone.
_ALWAYS = frozenset({
    fused.conv2d, fused.scaled_conv2d, fused.linear, fused.scale_shift,
    aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default,
    aten.max_pool2d_with_indices.default, aten.adaptive_max_pool2d.default,
    aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec, aten.pixel_shuffle.default, aten.channel_shuffle.default,
    aten.group_norm.default, aten.instance_norm.default,
    aten.scaled_dot_product_attention.default, aten.conv_transpose2d.input, aten.conv2d.default,
    operator.getitem,
})  # fmt: skip
# Nodes of these targets do so unless the argument of this name has the first axis.
_BY_AXIS = {
    aten.cat.default: "dim", aten.chunk.default: "dim", aten.split.Tensor: "dim",
    aten.split_with_sizes.default: "dim", aten.softmax.int: "dim", aten._softmax.default: "dim",
    aten.mean.dim: "dim", aten.sum.dim_IntList: "dim", aten.amax.default: "dim",
    aten.slice.Tensor: "dim", aten.select.int: "dim", aten.roll.default: "dims",
    aten.flip.default: "dims",
}  # fmt: skip
# The arguments of these that hold sizes, of which the first is that of the batch.
_SIZES = {aten.reshape.default: "shape", aten.expand.default: "size"}


def separable(module: GraphModule, batch: int) -> str | None:
    """Returns None if a graph computes each image of a batch on its own, and else the reason why
    that is not certain. The batch is the first axis of all inputs and outputs.

    Args:
        batch: the size of the batch that the graph was traced with, at least 2.
    """
    batched: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = val(node)
            if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != batch:
                return f"input {node.name} has no batch as its first axis"
            batched.add(node)
        elif node.op == "output":
            for output in node.args[0]:
                if isinstance(output, Node) and output not in batched:
                    return f"output {output.name} does not depend on the batch"
        elif node.op == "call_function":
            if not any(argument in batched for argument in node.all_input_nodes):
                continue
            batched |= {a for a in node.all_input_nodes if _is_repeated(module, a, batch)}
            if not _is_separable(node, batched, batch):
                return f"{node.name} may mix the images of a batch"
            batched.add(node)
    return None


def _is_repeated(module: GraphModule, node: Node, batch: int) -> bool:
    """Returns whether a node is a constant that repeats one value for each image, such as the class
    token of a vision transformer."""
    value = constant(module, node)
    return (
        value is not None and value.dim() > 0 and value.shape[0] == batch and (value.stride(0) == 0)
    )


def _is_separable(node: Node, batched: set[Node], batch: int) -> bool:
    """Returns whether a node that reads the batch computes each image on its own."""
    target: Any = node.target
    tensors = val(node) if isinstance(val(node), (list, tuple)) else [val(node)]
    if not all(isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] == batch for t in tensors):
        return False
    x: Any = node.args[0]
    if target in _ALWAYS:
        return x in batched
    if target in _BY_AXIS:
        axes = arguments(node)[_BY_AXIS[target]]
        axes = axes if isinstance(axes, (list, tuple)) else [axes]
        read = node.all_input_nodes
        others = bool(axes) and all(a % val(read[0]).dim() != 0 for a in axes)
        return others and all(argument in batched for argument in read)
    if target in _SIZES:
        return x in batched and bool(val(x).shape[0] == batch)
    rank = val(node).dim() if isinstance(val(node), Tensor) else 0
    sizes: Any = node.args[1] if len(node.args) > 1 else None
    if target is aten.permute.default:
        return bool(sizes[0] in (0, -rank))
    if target is aten.layer_norm.default:
        return bool(len(sizes) < rank)
    if target in (aten.pad.default, aten.constant_pad_nd.default):
        return bool(len(sizes) < 2 * rank)
    if isinstance(target, OpOverload) and torch.Tag.pointwise in target.tags:
        return all(_is_broadcast(a, a in batched, val(node).dim()) for a in node.all_input_nodes)
    return False


def _is_broadcast(argument: Node, batched: bool, rank: int) -> bool:
    """Returns whether an operand of a pointwise node has the batch as the first axis of the
    result, or is the same for all images."""
    value = val(argument)
    if batched:
        return bool(value.dim() == rank)
    return bool(value.dim() < rank or value.shape[0] == 1)


def set_batch(module: GraphModule, old: int, new: int) -> None:
    """Changes the size of the batch of a graph that is :func:`separable`, in place."""
    with fake_mode(module), torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "placeholder":
                node.meta["val"] = torch.cat([val(node)[:1]] * new)
            elif node.op == "get_attr" and _is_repeated(module, node, old):
                with unset_fake_temporarily():
                    one = getattr(module, str(node.target))[:1]
                    setattr(module, str(node.target), one.expand(new, *one.shape[1:]))
                node.meta["val"] = val(node)[:1].expand(new, *val(node).shape[1:])
            elif node.op == "call_function":
                if node.target in _SIZES and node.args[1][0] == old:
                    node.args = (node.args[0], [new, *node.args[1][1:]], *node.args[2:])
                node.meta["val"] = node.target(
                    *map_arg(node.args, val), **map_arg(node.kwargs, val)
                )
