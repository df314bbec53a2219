"""Activations by name, such as "relu", "gelu_tanh" or "leaky_relu(0.01)"."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from convkern.optimize.graphs import arguments, aten

# The functions of names without numbers.
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": lambda x: x.sigmoid(),
    "hardsigmoid": F.hardsigmoid,
}
# How many numbers the other names have.
_NUMBERS = {"leaky_relu": 1, "clamp": 2}


@lru_cache(maxsize=256)
def parse(activation: str) -> tuple[str, tuple[float, ...]]:
    """Returns the name and the numbers of an activation. "clamp(-1.0,1.0)" is "clamp" and
    (-1.0, 1.0). A bound that does not exist is infinite.

    Raises:
        ValueError: there is no such activation.
    """
    if activation in _PLAIN:
        return activation, ()
    name, bracket, rest = activation.partition("(")
    if bracket and rest.endswith(")") and name in _NUMBERS:
        try:
            numbers = tuple(float(text) for text in rest[:-1].split(","))
        except ValueError:
            numbers = ()
        if len(numbers) == _NUMBERS[name]:
            return name, numbers
    raise ValueError(
        f"activation must be one of {', '.join(_PLAIN)}, leaky_relu(slope) or clamp(low,high), "
        f"got {activation!r}"
    )


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Returns the activation of a tensor, or the tensor itself if the activation is None."""
    if activation is None:
        return x
    name, numbers = parse(activation)
    if name == "leaky_relu":
        return F.leaky_relu(x, numbers[0])
    if name == "clamp":
        low, high = numbers
        return x.clamp(None if low == -math.inf else low, None if high == math.inf else high)
    return _PLAIN[name](x)


def activation_of(node: Node) -> str | None:
    """Returns the name of the activation that a node of the graph computes of its first argument,
    or None if it computes anything else."""
    target: Any = node.target
    if target in _NAMES:
        return _NAMES[target]
    if target not in _WITH_NUMBERS:
        return None
    given = arguments(node)
    if target is aten.gelu.default:
        return "gelu_tanh" if given["approximate"] == "tanh" else "gelu"
    if target is aten.leaky_relu.default:
        return f"leaky_relu({float(given['negative_slope'])!r})"
    low, high = (given.get(name) for name in _WITH_NUMBERS[target])
    return clamp(low, high) if _is_number(low) and _is_number(high) else None


def clamp(low: float | None, high: float | None) -> str:
    """Returns the name of the activation that limits its values to [low, high]."""
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    if low == 0 and high in (6, math.inf):
        return "relu" if high == math.inf else "relu6"
    return f"clamp({low!r},{high!r})"


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


_NAMES = {
    aten.relu.default: "relu",
    aten.relu6.default: "relu6",
    aten.silu.default: "silu",
    aten.hardswish.default: "hardswish",
    aten.sigmoid.default: "sigmoid",
    aten.hardsigmoid.default: "hardsigmoid",
}
# Operators with numbers, and the names of the arguments that are bounds.
_WITH_NUMBERS: dict[Any, tuple[str, ...]] = {
    aten.gelu.default: (),
    aten.leaky_relu.default: (),
    aten.hardtanh.default: ("min_val", "max_val"),
    aten.clamp.default: ("min", "max"),
    aten.clamp_min.default: ("min", ""),
    aten.clamp_max.default: ("", "max"),
}
