"""Operators of torch that write their result where they are told to."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from convkern.optimize import fused
from convkern.optimize.graphs import arguments, aten, val

# The dimension along which threads can share the result of an operator that is not pointwise.
_SPLITS: dict[Any, int] = {aten.cat.default: 2, aten.mean.dim: 1, aten.avg_pool2d.default: 1}
# The arguments `dim` with which they can.
_AXES: dict[Any, Any] = {
    aten.cat.default: (1, -3),
    aten.mean.dim: ([2, 3], [-2, -1], [-1, -2]),
}
# Operators whose result has its channels adjacent if those of their first argument are.
_KEEPS_LAYOUT = frozenset({aten.max_pool2d.default, aten.chunk.default, operator.getitem, *_SPLITS})


@dataclass(frozen=True)
class PlannedOp:
    """An operator with a place for its result.

    Attributes:
        op: the variant of the operator that takes the result as its last argument, ``out``.
        like: a tensor without data that has the sizes and strides of the result.
        split: the dimension along which threads can share the result.
    """

    op: OpOverload
    like: Tensor
    split: int


def pixel_nodes(nodes: Iterable[Node]) -> set[Node]:
    """Returns the nodes whose values are images with adjacent channels: those of convolutions, and
    of operators that keep the layout of such an image."""
    pixels: set[Node] = set()
    for node in nodes:
        value = val(node)
        if node.target in (fused.conv2d, fused.scale_shift, fused.channels):
            if value.dim() == 4:
                pixels.add(node)
            continue
        tensors = _tensors(node)
        keeps = _is_pointwise(node) or node.target in _KEEPS_LAYOUT
        if tensors and tensors[0] in pixels and keeps:
            pixels.add(node)
    return pixels


def planned_ops(nodes: list[Node]) -> dict[Node, PlannedOp]:
    """Returns the nodes whose operators can write to a given place. These are pointwise operators,
    means, average pools and concatenations of images whose channels are adjacent in memory."""
    planned = {}
    for node in pixel_nodes(nodes):
        value, target = val(node), node.target
        out = _out_variant(target)
        if out is None or not isinstance(value, Tensor) or value.dim() != 4:
            continue
        if target in _AXES and arguments(node)["dim"] not in _AXES[target]:
            continue
        if any(val(t).dtype != value.dtype for t in _tensors(node)):
            continue
        like = torch.empty(
            value.shape, dtype=value.dtype, device="meta", memory_format=torch.channels_last
        )
        split = 2 if _is_pointwise(node) else _SPLITS[target]
        planned[node] = PlannedOp(out, like, split)
    return planned


def _is_pointwise(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def _tensors(node: Node) -> list[Node]:
    """Returns the tensors that a node reads; of a list, the nodes in it."""
    return [n for n in node.all_input_nodes if isinstance(val(n), (Tensor, list, tuple))]


def _out_variant(target: Any) -> OpOverload | None:
    """Returns the variant of an operator that takes the same arguments and `out`."""
    if not isinstance(target, OpOverload) or len(target._schema.returns) != 1:
        return None
    names = [a.name for a in target._schema.arguments]
    packet = target.overloadpacket
    for name in packet.overloads():
        other: OpOverload = getattr(packet, name)
        given = other._schema.arguments
        same = [a.name for a in given[:-1]] == names and [str(a.type) for a in given[:-1]] == [
            str(a.type) for a in target._schema.arguments
        ]
        if same and given[-1].is_out:
            return other
    return None
