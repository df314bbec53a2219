"""One form for each operation: layers, means and averages, changes of shape and of axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from convkern.optimize import fused
from convkern.optimize.graphs import (
    add_constant,
    arguments,
    aten,
    emit,
    is_constant,
    replace,
    val,
)
from convkern.optimize.rewriting import Fusion, dims_of
from convkern.window import op_padding, with_pad_in_front

FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_RESHAPES = frozenset({
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints,
    aten.unflatten.int, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims,
})  # fmt: skip
_PERMUTES = frozenset({aten.permute.default, aten.transpose.int, aten.t.default,
                       aten.movedim.int, aten.swapaxes.default})  # fmt: skip


def _without_pad(image: Node, padding: list[int], mode: str) -> tuple[Any, list[int], str]:
    """Returns what a convolution reads if it takes in a pad of its input, and its padding then."""
    if image.target is aten.pad.default:
        given = arguments(image)
        pad = given["pad"], given["mode"], given["value"]
        taken = with_pad_in_front(padding, mode, *pad)
        if taken is not None and val(image).dim() == 4:
            return given["self"], *taken
    return image, padding, mode


class Layers(Fusion):
    """Gives all convolutions, torch's and convkern's, and all linear layers one form."""

    name = "layers"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        target: Any = node.target
        if target is aten.linear.default:
            return self._linear(module, node)
        if target not in (
            aten.conv2d.default, aten.conv2d.padding, torch.ops.convkern.conv2d.default
        ):  # fmt: skip
            return False
        given = arguments(node)
        x, weight = val(given["input"]), val(given["weight"])
        if x.dim() != 4:
            return "the image has no batch axis"
        if x.dtype not in FLOATS:
            return f"its dtype is {x.dtype}"
        if not all(is_constant(module, given[name]) for name in ("weight", "bias")):
            return "its weights are computed"
        stride, dilation = two(given["stride"]), two(given["dilation"])
        if given.get("residual") is not None:
            return "it has a residual of its own"
        padding = given["padding"]
        if isinstance(padding, str):
            padding = op_padding(padding, x.shape[2:], weight.shape[2:], stride, dilation)
        elif len(padding) < 4:
            padding = two(padding)
        image, padding, mode = _without_pad(
            given["input"], padding, given.get("padding_mode", "zeros")
        )
        node.target = fused.conv2d
        node.args = (
            image, given["weight"], given["bias"], stride, padding, dilation, given["groups"], mode,
            given.get("activation"), None,
        )  # fmt: skip
        node.kwargs = {}
        return True

    def _linear(self, module: GraphModule, node: Node) -> bool | str:
        given = arguments(node)
        if not all(is_constant(module, given[name]) for name in ("weight", "bias")):
            return "its weights are computed"
        if val(given["weight"]).dim() != 2:
            return "its weight is a vector"
        if val(given["weight"]).shape[0] == 0:
            return "it has no outputs"
        if val(node).dtype not in FLOATS:
            return f"its dtype is {val(node).dtype}"
        node.target = fused.linear
        node.args = (given["input"], given["weight"], given["bias"], None, None)
        node.kwargs = {}
        return True


class Means(Fusion):
    """Gives means over whole images one form, aten.mean.dim over axes 2 and 3 that keeps them."""

    name = "means"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        x = node.args[0] if node.args else None
        if not isinstance(x, Node) or not isinstance(val(x), Tensor) or val(x).dim() != 4:
            return False
        if not self._is_mean(node, tuple(val(x).shape[2:])):
            return False
        if node.target is aten.mean.dim and node.args[1:] == ([2, 3], True) and not node.kwargs:
            return False
        mean = emit(module, node, aten.mean.dim, x, [2, 3], True)
        if val(node).dim() == 2:
            mean = emit(module, node, aten.reshape.default, mean, list(val(node).shape))
        replace(node, mean)
        return True

    def _is_mean(self, node: Node, size: tuple[int, ...]) -> bool:
        if node.target is aten.adaptive_avg_pool2d.default:
            return two(node.args[1]) == [1, 1]
        if node.target is aten.mean.dim:
            given = arguments(node)
            dims = given["dim"] or []
            return given["dtype"] is None and sorted(d % 4 for d in dims) == [2, 3]
        if node.target is aten.avg_pool2d.default:
            given = arguments(node)
            plain = two(given["padding"]) == [0, 0] and given["divisor_override"] is None
            return plain and two(given["kernel_size"]) == list(size)
        return False


class AveragePools(Fusion):
    """Gives average pools without padding the form of a convolution of each channel, whose weights
    are all the same."""

    name = "average_pool"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        if node.target is not aten.avg_pool2d.default or val(node).dim() != 4:
            return False
        given = arguments(node)
        size = two(given["kernel_size"])
        if two(given["padding"]) != [0, 0] or given["ceil_mode"]:
            return "its windows may reach beyond the image"
        if val(node).dtype not in (torch.float32, torch.float64):
            return f"its weights would be rounded to {val(node).dtype}"
        x: Any = given["self"]
        channels, dtype = val(x).shape[1], val(node).dtype
        number = given["divisor_override"] or size[0] * size[1]

        def compute() -> Tensor:
            return torch.full((channels, 1, *size), 1 / number, dtype=dtype)

        key = ("average", channels, *size, number, dtype)
        weight = add_constant(module, node, compute, (), key)
        stride = two(given["stride"] or size)
        node.target = fused.conv2d
        node.args = x, weight, None, stride, [0, 0], [1, 1], channels, "zeros", None, None
        node.kwargs = {}
        return True


class Shapes(Fusion):
    """Gives changes of shape one form, aten.reshape with all sizes, and permutations of axes
    another, aten.permute. Those that undo each other are removed, and so is contiguous() before a
    change of shape."""

    name = "shapes"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        before = node.target, node.args
        if node.target in _RESHAPES:
            x: Any = node.args[0]
            while x.target in (aten.reshape.default, aten.contiguous.default):
                x = x.args[0]
            if val(x).shape == val(node).shape:
                replace(node, x)
                return True
            node.args = (x, list(val(node).shape))
            node.kwargs, node.target = {}, aten.reshape.default
        elif node.target in _PERMUTES:
            x = node.args[0]
            dims = self._dims(node, val(x).dim())
            while x.target is aten.permute.default:
                dims, x = [dims_of(x)[d] for d in dims], x.args[0]
            if dims == sorted(dims):
                replace(node, x)
                return True
            node.args = x, dims
            node.kwargs, node.target = {}, aten.permute.default
        return before != (node.target, node.args)

    def _dims(self, node: Node, count: int) -> list[int]:
        if node.target is aten.permute.default:
            return dims_of(node)
        dims = list(range(count))
        if node.target is aten.t.default:
            return dims[::-1]
        a, b = (int(d) % count for d in node.args[1:3])  # type: ignore[arg-type]
        if node.target is aten.movedim.int:
            dims.insert(b, dims.pop(a))
        else:
            dims[a], dims[b] = dims[b], dims[a]
        return dims


class Silu(Fusion):
    """Recognises x * sigmoid(x) as silu."""

    name = "silu"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        if node.target is not aten.mul.Tensor:
            return False
        for x, s in (node.args[:2], node.args[1::-1]):
            if not isinstance(x, Node) or not isinstance(s, Node):
                continue
            if s.target is aten.sigmoid.default and s.args[0] is x:
                if val(s).dtype != val(x).dtype:
                    return False  # the sigmoid of integers, of which there is no silu
                if len(s.users) > 1:
                    return f"{s.name} has {len(s.users)} users"
                node.target, node.args = aten.silu.default, (x,)
                module.graph.erase_node(s)
                return True
        return False


def two(value: Any) -> list[int]:
    """Returns one number or two as two numbers."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * 2 if len(values) == 1 else values
