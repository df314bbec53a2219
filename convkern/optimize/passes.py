"""Passes over images that convkern computes itself: what stands between convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from convkern import _C
from convkern.optimize import fused
from convkern.optimize.canonical import two
from convkern.optimize.graphs import arguments, aten, constant, val
from convkern.optimize.outputs import pixel_nodes
from convkern.optimize.rewriting import field


@dataclass(frozen=True)
class Pass:
    """A pass of a program (csrc/torch_binding/passes.h).

    Attributes:
        name: what it is called for people.
        inputs: the nodes whose values it reads.
        make: makes it.
    """

    name: str
    inputs: list[Node]
    make: Callable[[], _C.Pass]


def passes(module: GraphModule) -> dict[Node, Pass]:
    """Returns the nodes of a fused graph that are computed by passes: picked channels, and, of
    images in float32 whose channels are adjacent, products with a number for each channel, means
    and maxima over windows."""
    pixels = pixel_nodes(module.graph.nodes)
    found = {node: _pass_of(module, node, pixels) for node in module.graph.nodes}
    return {node: pass_ for node, pass_ in found.items() if pass_ is not None}


def _pass_of(module: GraphModule, node: Node, pixels: set[Node]) -> Pass | None:
    target: Any = node.target
    if target is fused.channels:
        return _channels(module, node)
    value = val(node)
    if not isinstance(value, Tensor) or value.dim() != 4 or value.dtype != torch.float32:
        return None
    if target is aten.mean.dim and node.args[0] in pixels:
        plain = node.args[1:] == ([2, 3], True) and not node.kwargs
        return Pass("mean", [_first(node)], _C.mean_of_pixels) if plain else None
    if target is aten.max_pool2d.default and node.args[0] in pixels:
        given = arguments(node)
        size = two(given["kernel_size"])
        window = [size, two(given["stride"] or size), two(given["padding"]), two(given["dilation"])]
        return Pass("max_pool2d", [_first(node)], lambda: _C.max_of_windows(*window))
    if target is aten.mul.Tensor:
        for x, scale in (node.args[:2], node.args[1::-1]):
            if x in pixels and _is_scale(scale, x):
                return Pass("scale", [x, scale], _C.scale_channels)  # type: ignore[list-item]
    return None


def _first(node: Node) -> Node:
    x: Any = node.args[0]
    return x  # type: ignore[no-any-return]


def _channels(module: GraphModule, node: Node) -> Pass:
    inputs, index = field(node, "inputs"), field(node, "index")
    scale, shift = (
        None if field(node, name) is None else constant(module, field(node, name))
        for name in ("scale", "shift")
    )
    widths = [val(x).shape[1] for x in inputs]
    relu = field(node, "activation") == "relu"
    return Pass(
        "channels", list(inputs), lambda: _C.pick_channels(widths, index, scale, shift, relu)
    )


def _is_scale(scale: Any, x: Any) -> bool:
    """Returns whether a value has one number for each image and channel of x."""
    if not isinstance(scale, Node) or not isinstance(val(scale), Tensor):
        return False
    sizes = val(x).shape
    fits = tuple(val(scale).shape) == (sizes[0], sizes[1], 1, 1)
    return fits and val(scale).dtype == val(x).dtype and tuple(sizes[2:]) != (1, 1)
