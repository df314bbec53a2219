"""Fusions that change the weight and the bias of a layer: batch norm, products and sums with
constants. The arithmetic is in float64, and its results have the weight's dtype."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from convkern.optimize import fused
from convkern.optimize.graphs import (
    add_constant,
    arguments,
    aten,
    constant,
    is_constant,
    is_tensor,
    replace,
    same_kind,
    val,
)
from convkern.optimize.rewriting import Found, Fusion, field, layer_behind, set_fields

_ELEMENTS_AT_ONCE = 1 << 17  # in float64, of which large arrays would raise the peak of memory


@dataclass(frozen=True)
class Affine:
    """A product and a sum for each channel, computed when called.

    Attributes:
        compute: returns the scale and the shift in float64. Each has one element or one for each
            channel.
        origins: the constants that they are computed from.
        key: equal for equal constants and numbers.
        shifts: whether the shift may be other than 0.
    """

    compute: Callable[[], tuple[Tensor, Tensor]]
    origins: tuple[Tensor, ...]
    key: Hashable
    shifts: bool = True


class BatchNorms(Fusion):
    """Puts a batch norm with running statistics into the layer before it."""

    name = "batch_norm"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        if node.target is not aten.batch_norm.default:
            return False
        found = layer_behind(node.args[0])
        if found is None:
            return False
        norm = statistics(module, node)
        if isinstance(found, str) or isinstance(norm, str):
            return found if isinstance(found, str) else str(norm)
        return _fold(module, node, found, 1, norm)


class Scales(Fusion):
    """Multiplies the weight and bias of a layer by a constant that its result is multiplied or
    divided by: one number, or one for each channel as ConvNeXt's layer scale."""

    name = "scale"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        orders: Any
        if node.target is aten.mul.Tensor:
            orders = (node.args[:2], node.args[1::-1])
        elif node.target is aten.div.Tensor:
            orders = (node.args[:2],)
        else:
            return False
        inverse = node.target is aten.div.Tensor

        def affine(factor: Tensor) -> tuple[Tensor, Tensor]:
            scale = factor.reciprocal() if inverse else factor
            return scale, torch.zeros_like(scale)

        return _with_constant(module, node, orders, affine, inverse, shifts=False)


class Shifts(Fusion):
    """Adds a constant to the bias of a layer that is added to its result or subtracted from it: one
    number, or one for each channel."""

    name = "shift"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        orders: Any
        if node.target is aten.add.Tensor:
            orders = (node.args[:2], node.args[1::-1])
        elif node.target is aten.sub.Tensor:
            orders = (node.args[:2],)
        else:
            return False
        alpha: Any = arguments(node)["alpha"]
        if alpha != 1:
            return False
        sign = -1 if node.target is aten.sub.Tensor else 1

        def affine(summand: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones_like(summand), sign * summand

        return _with_constant(module, node, orders, affine, sign, shifts=True)


class ScaleShifts(Fusion):
    """Turns a batch norm that no layer could take into a product and a sum for each channel."""

    name = "scale_shift"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        if node.target is not aten.batch_norm.default:
            return False
        norm = statistics(module, node)
        if isinstance(norm, str):
            return norm
        x: Any = node.args[0]
        half = val(x).dtype in (torch.bfloat16, torch.float16)
        dtype = torch.float32 if half else val(x).dtype
        channels, device = val(x).shape[1], val(x).device

        def part(place: int) -> Node:
            def compute() -> Tensor:
                return norm.compute()[place].expand(channels).to(device, dtype).contiguous()

            return add_constant(module, node, compute, norm.origins, (norm.key, place, dtype))

        node.args = x, part(0), part(1), None
        node.kwargs, node.target = {}, fused.scale_shift
        return True


def statistics(module: GraphModule, norm: Node) -> Affine | str:
    """Returns what a batch norm with constant statistics computes, or a reason why it has none."""
    given = arguments(norm)
    names = ("running_mean", "running_var", "weight", "bias")
    if given["training"] or given["running_mean"] is None or given["running_var"] is None:
        return "its statistics are those of the input"
    if not all(is_constant(module, given[name]) for name in names):
        return "its statistics are not constant"
    mean, var, weight, bias = (constant(module, given[name]) for name in names)
    assert mean is not None
    assert var is not None
    channels = val(given["input"]).shape[1:2]
    if any(t is not None and t.shape != channels for t in (mean, var, weight, bias)):
        return "its statistics are those of other channels"  # torch allows that of empty batches
    eps = given["eps"]

    def compute() -> tuple[Tensor, Tensor]:
        assert mean is not None
        assert var is not None
        scale = (var.double() + eps).rsqrt()
        if weight is not None:
            scale = scale * weight.double()
        shift = -mean.double() * scale
        return scale, shift if bias is None else shift + bias.double()

    origins = tuple(t for t in (mean, var, weight, bias) if t is not None)
    key = ("norm", *(None if t is None else id(t) for t in (mean, var, weight, bias)), eps)
    return Affine(compute, origins, key)


def _with_constant(
    module: GraphModule,
    node: Node,
    orders: Any,
    affine: Callable[[Tensor], tuple[Tensor, Tensor]],
    variant: Hashable,
    *,
    shifts: bool,
) -> bool | str:
    """Folds a product or sum of a layer's result and a constant into the layer. `orders` are the
    pairs of arguments that may be the two."""
    for value, other in orders:
        number = isinstance(other, (int, float)) and not isinstance(other, bool)
        tensor = constant(module, other)
        if not number and tensor is None:
            continue
        found = layer_behind(value)
        if found is None:
            continue
        if isinstance(found, str):
            return found
        channel = found.channel
        if tensor is not None and not _is_per_channel(tensor, val(value), channel):
            return f"{other.name} is not one number for each channel"
        if tensor is not None and not tensor.is_floating_point():
            return f"the dtype of {other.name} is {tensor.dtype}"

        def compute(tensor: Tensor | None = tensor, other: Any = other) -> tuple[Tensor, Tensor]:
            given = (
                torch.tensor([other], dtype=torch.float64) if tensor is None else tensor.reshape(-1)
            )
            return affine(given.double())

        own = () if tensor is None else (tensor,)
        key = (node.target, variant, other if tensor is None else id(tensor))
        return _fold(module, node, found, channel, Affine(compute, own, key, shifts))
    return False


def _is_per_channel(tensor: Tensor, value: Tensor, channel: int) -> bool:
    """Returns whether a tensor that is broadcast to a value differs along the channels only."""
    missing = value.dim() - tensor.dim()
    if missing < 0:
        return False
    sizes = [1] * missing + list(tensor.shape)
    return all(
        size == 1 or (axis == channel and size == value.shape[axis])
        for axis, size in enumerate(sizes)
    )


def _fold(
    module: GraphModule, node: Node, found: Found, channel: int, affine: Affine
) -> bool | str:
    """Puts what a node computes of a layer's result into the layer, and removes the node. `channel`
    is the axis of the node's value that has the channels."""
    layer = found.layer
    weight, bias = field(layer, "weight"), field(layer, "bias")
    w, b = constant(module, weight), constant(module, bias)
    if found.channel != channel:
        return f"it is not about the channels of {layer.name}"
    if w is None or not is_constant(module, bias):
        return f"the weight and bias of {layer.name} are not constant"
    if field(layer, "residual") is not None:
        return f"the residual of {layer.name} comes before"
    value = found.permutes[-1] if found.permutes else layer
    if not is_tensor(node) or not same_kind(node, value):
        return f"it changes the shape or dtype of {value.name}"
    outputs, device = w.shape[0], w.device
    tensors = (w, *(() if b is None else (b,)), *affine.origins)
    key = (id(w), None if b is None else id(b), affine.key)

    def new_weight() -> Tensor:
        result = torch.empty_like(w, memory_format=torch.contiguous_format)
        scale = affine.compute()[0].to(device).expand(outputs)
        rows = max(1, _ELEMENTS_AT_ONCE // max(1, w[:1].numel()))
        for first in range(0, outputs, rows):
            part = slice(first, first + rows)
            factors = scale[part].view(-1, *[1] * (w.dim() - 1))
            result[part] = w[part].double() * factors
        return result

    def new_bias() -> Tensor:
        scale, shift = (t.to(device).expand(outputs) for t in affine.compute())
        return (shift if b is None else b.double() * scale + shift).to(w.dtype)

    first: Node = layer
    set_fields(layer, weight=add_constant(module, first, new_weight, tensors, ("w", key)))
    if b is not None or affine.shifts:
        set_fields(layer, bias=add_constant(module, first, new_bias, tensors, ("b", key)))
    replace(node, value)
    return True
