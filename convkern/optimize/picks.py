"""Channels that are concatenated, shuffled and cut, in one copy from where they were computed."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from convkern.optimize import fused
from convkern.optimize.canonical import FLOATS
from convkern.optimize.graphs import add_constant, arguments, aten, constant, replace, val
from convkern.optimize.outputs import pixel_nodes
from convkern.optimize.rewriting import Fusion, Note, dims_of, field, set_fields

_Picks = tuple[list[Node], list[int]]  # nodes, and channels of their concatenation
_CUTS = frozenset({aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default})


class Channels(Fusion):
    """Copies channels once from where they were computed to where they are read, instead of with
    each concatenation, channel shuffle and cut between; and scales and shifts them in that copy.
    Convolutions take the channels in the order in which they lie in memory."""

    name = "channels"

    def apply(self, module: GraphModule) -> list[Note]:
        self._pixels = pixel_nodes(module.graph.nodes)
        notes = super().apply(module)
        for node in module.graph.nodes:
            if node.target is fused.channels:
                _sort(module, node)
        return notes

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        if node.target is fused.scale_shift:
            return self._scale(node)
        picks = self._picks(node)
        if picks is None:
            return False
        inputs, index = _plain(*picks)
        if _is_whole(inputs, index):
            replace(node, inputs[0])
            return True
        cut = _cut_of(node) is not None
        if cut and not any(user.target is fused.conv2d for user in node.users):
            return False  # a view that no layer reads costs nothing
        node.target, node.args = fused.channels, (inputs, index, None, None, None)
        node.kwargs = {}
        self._pixels.add(node)
        return True

    def _scale(self, node: Node) -> bool:
        """Scales and shifts channels in their copy, if nothing else reads it."""
        source: Any = node.args[0]
        if source.target is not fused.channels or len(source.users) > 1:
            return False
        activation = field(node, "activation")
        if (
            field(source, "scale") is not None
            or val(node).dtype != torch.float32
            or activation not in (None, "relu")
            or source.args[1] != sorted(set(source.args[1]))
        ):
            return False
        inputs, index = source.args[:2]
        node.args = inputs, index, field(node, "scale"), field(node, "shift"), activation
        node.target = fused.channels
        self._pixels.add(node)
        node.graph.erase_node(source)
        return True

    def _picks(self, node: Node) -> _Picks | None:
        """Returns the channels that a node takes, or None if it is nothing of the kind, or if its
        value is no image of floats, such as the result of a comparison."""
        target: Any = node.target
        if not isinstance(val(node), Tensor) or val(node).dtype not in FLOATS:
            return None
        if target is aten.cat.default:
            given = arguments(node)
            tensors: Any = given["tensors"]
            if given["dim"] not in (1, -3) or not any(t in self._pixels for t in tensors):
                return None
            if any(val(t).dim() != 4 or val(t).dtype != val(node).dtype for t in tensors):
                return None
            inputs: list[Node] = []
            index: list[int] = []
            for part in map(self._source, tensors):
                first = _width(inputs)
                inputs += part[0]
                index += [first + channel for channel in part[1]]
            return inputs, index
        shuffled = _shuffle_of(node)
        if shuffled is not None and shuffled[0] in self._pixels:
            x, groups = shuffled
            inputs, index = self._source(x)
            each = len(index) // groups
            return inputs, [index[g * each + i] for i in range(each) for g in range(groups)]
        cut = _cut_of(node)
        if cut is not None and cut[0] in self._pixels:
            x, begin, end = cut
            inputs, index = self._source(x)
            return inputs, index[begin:end]
        return None

    def _source(self, node: Node) -> _Picks:
        """Returns where the channels of a value come from."""
        if node.target is fused.channels and field(node, "scale") is None:
            return list(field(node, "inputs")), list(field(node, "index"))
        if _cut_of(node) is not None:
            picks = self._picks(node)
            if picks is not None:
                return picks
        return [node], list(range(val(node).shape[1]))


def _sort(module: GraphModule, node: Node) -> None:
    """Copies channels in the order of their sources, which keeps neighbours together, if all that
    read them are convolutions, whose weights are then put into that order."""
    inputs, index, scale, shift = (field(node, n) for n in ("inputs", "index", "scale", "shift"))
    order = sorted(range(len(index)), key=index.__getitem__)
    if order == list(range(len(order))) or scale is not None or shift is not None:
        return
    for user in list(node.users):
        weight = constant(module, field(user, "weight")) if user.target is fused.conv2d else None
        if weight is None or field(user, "groups") != 1 or field(user, "residual") is node:
            return
    for user in list(node.users):
        weight = constant(module, field(user, "weight"))
        assert weight is not None

        def compute(weight: Tensor = weight) -> Tensor:
            return weight[:, order].contiguous()

        key = ("order", id(weight), tuple(order))
        set_fields(user, weight=add_constant(module, user, compute, (weight,), key))
    set_fields(node, index=sorted(index))
    if _is_whole(inputs, field(node, "index")):
        replace(node, inputs[0])


def _is_whole(inputs: list[Node], index: list[int]) -> bool:
    """Returns whether channels are those of one image, in their order."""
    return len(inputs) == 1 and index == list(range(_width(inputs)))


def _width(inputs: list[Node]) -> int:
    return sum(int(val(x).shape[1]) for x in inputs)


def _plain(inputs: list[Node], index: list[int]) -> _Picks:
    """Returns the same channels of inputs that are different, and are all read."""
    widths = [val(x).shape[1] for x in inputs]
    owner = [(x, c) for x, width in zip(inputs, widths, strict=True) for c in range(width)]
    picked = [owner[i] for i in index]
    used = list(dict.fromkeys(x for x, _ in picked))
    first = {x: _width(used[:place]) for place, x in enumerate(used)}
    return used, [first[x] + c for x, c in picked]


def _shuffle_of(node: Node) -> tuple[Node, int] | None:
    """Returns the image whose channels a node shuffles as ShuffleNet does, and the number of
    groups: channel i of group g becomes channel i * groups + g."""
    if node.target is aten.channel_shuffle.default:
        given = arguments(node)
        return (given["self"], given["groups"]) if val(given["self"]).dim() == 4 else None
    if node.target is not aten.reshape.default or val(node).dim() != 4:
        return None
    turned: Any = node.args[0]
    if turned.target is not aten.permute.default or dims_of(turned) != [0, 2, 1, 3, 4]:
        return None
    grouped = turned.args[0]
    if grouped.target is not aten.reshape.default or val(grouped.args[0]).shape != val(node).shape:
        return None
    batch, channels, *size = val(node).shape
    groups, each = val(grouped).shape[1:3]
    plain = list(val(grouped).shape) == [batch, groups, each, *size]
    return (grouped.args[0], groups) if plain and 0 < groups * each == channels else None


def _cut_of(node: Node) -> tuple[Node, int, int] | None:
    """Returns the image of which a node takes neighbouring channels, and these channels."""
    if not isinstance(val(node), Tensor) or val(node).dim() != 4:
        return None
    if node.target is aten.slice.Tensor:
        given = arguments(node)
        x = given["self"]
        if given["dim"] not in (1, -3) or given["step"] != 1:
            return None
        size = val(x).shape[1]
        begin = slice(given["start"], given["end"]).indices(size)[0]
        return x, begin, begin + val(node).shape[1]
    source: Any = node.args[0] if node.args else None
    if node.target is operator.getitem and source.target in _CUTS:
        if arguments(source)["dim"] not in (1, -3):
            return None
        place: Any = node.args[1]
        widths = [part.shape[1] for part in val(source)]
        begin = sum(widths[: place % len(widths)])
        return source.args[0], begin, begin + widths[place]
    return None


__all__ = ["Channels"]
