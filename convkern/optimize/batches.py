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
from convkern.optimize.rewriting import named_arguments

# Nodes of these targets compute each image of their operands, of so many axes at least, from that
# image alone. All operands but the weights have the batch as their first axis.
_ALWAYS: dict[Any, int] = {
    fused.conv2d: 4, fused.linear: 2, fused.scale_shift: 2, fused.channels: 4,
    aten.conv2d.default: 4, aten.conv_transpose2d.input: 4, aten.linear.default: 2,
    aten.max_pool2d.default: 4, aten.avg_pool2d.default: 4, aten.adaptive_avg_pool2d.default: 4,
    aten.max_pool2d_with_indices.default: 4, aten.adaptive_max_pool2d.default: 4,
    aten.upsample_nearest2d.default: 4, aten.upsample_nearest2d.vec: 4,
    aten.upsample_bilinear2d.default: 4, aten.upsample_bilinear2d.vec: 4,
    aten.pixel_shuffle.default: 4, aten.group_norm.default: 2, aten.instance_norm.default: 3,
    aten.scaled_dot_product_attention.default: 3, operator.getitem: 0,
}  # fmt: skip
_WEIGHTS = frozenset({"weight", "bias", "scale", "shift", "running_mean", "running_var"})
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
    token of a vision transformer. Concatenations and pointwise nodes read it, and no others."""
    value = constant(module, node)
    if value is None or value.dim() == 0 or value.shape[0] != batch or value.stride(0) != 0:
        return False
    if len([n for n in module.graph.nodes if n.op == "get_attr" and n.target == node.target]) > 1:
        return False
    return all(
        (user.target is aten.cat.default or _is_pointwise(user)) and val(user).dim() == value.dim()
        for user in node.users
    )


def _is_pointwise(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def _is_separable(node: Node, batched: set[Node], batch: int) -> bool:
    """Returns whether a node that reads the batch computes each image on its own."""
    target: Any = node.target
    tensors = val(node) if isinstance(val(node), (list, tuple)) else [val(node)]
    if not all(isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] == batch for t in tensors):
        return False
    x: Any = node.args[0]
    if target in _ALWAYS:
        return _reads_batch(node, batched, _ALWAYS[target])
    if target in _BY_AXIS:
        axes = arguments(node)[_BY_AXIS[target]]
        axes = axes if isinstance(axes, (list, tuple)) else [axes]
        read = node.all_input_nodes
        others = bool(axes) and all(a % val(read[0]).dim() != 0 for a in axes)
        return others and all(argument in batched for argument in read)
    if target in _SIZES:
        if target is aten.expand.default and val(x).dim() != val(node).dim():
            return False
        return x in batched and bool(val(x).shape[0] == batch)
    rank = val(node).dim() if isinstance(val(node), Tensor) else 0
    sizes: Any = node.args[1] if len(node.args) > 1 else None
    if target is aten.permute.default:
        return bool(sizes[0] in (0, -rank))
    if target is aten.layer_norm.default:
        return bool(len(sizes) < rank)
    if target in (aten.pad.default, aten.constant_pad_nd.default):
        return bool(len(sizes) < 2 * rank)
    if _is_pointwise(node):
        return all(_is_broadcast(a, a in batched, val(node).dim()) for a in node.all_input_nodes)
    return False


def _reads_batch(node: Node, batched: set[Node], rank: int) -> bool:
    """Returns whether the weights among a node's operands do not depend on the batch, and all other
    operands have it as the first of at least so many axes."""
    for name, value in named_arguments(node).items():
        read: list[Node] = []
        map_arg(value, read.append)
        for operand in read:
            if (operand in batched) == (name in _WEIGHTS):
                return False
            if (
                operand in batched
                and isinstance(val(operand), Tensor)
                and val(operand).dim() < rank
            ):
                return False
    return True


def _is_broadcast(argument: Node, batched: bool, rank: int) -> bool:
    """Returns whether an operand of a pointwise node has the batch as the first axis of the
    result, or is the same for all images."""
    value = val(argument)
    if batched:
        return bool(value.dim() == rank)
    return bool(value.dim() < rank or value.shape[0] == 1)


def set_batch(module: GraphModule, old: int, new: int) -> None:
    """Changes the size of the batch of a graph that is :func:`separable`, in place."""
    repeated = {n for n in module.graph.find_nodes(op="get_attr") if _is_repeated(module, n, old)}
    with fake_mode(module), torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "placeholder":
                node.meta["val"] = torch.cat([val(node)[:1]] * new)
            elif node in repeated:
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
