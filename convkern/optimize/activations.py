"""The activations that operators of torch compute, by their names in conv2d."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from convkern.activations import check_activation, parse
from convkern.optimize.graphs import arguments, aten


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
        return if_valid(f"leaky_relu({float(given['negative_slope'])!r})")
    low, high = (given.get(name) for name in _WITH_NUMBERS[target])
    return if_valid(clamp(low, high)) if _is_number(low) and _is_number(high) else None


def operator_of(activation: str) -> tuple[Any, list[float], dict[str, str]]:
    """Returns the operator of torch that computes an activation, with the arguments that follow
    its first, by place and by name: what :func:`activation_of` reads."""
    name, numbers = parse(activation)
    if name in ("gelu", "gelu_tanh"):
        return (
            aten.gelu.default,
            numbers,
            {"approximate": "tanh" if name == "gelu_tanh" else "none"},
        )
    if name in ("clamp", "leaky_relu"):
        return (aten.hardtanh if name == "clamp" else aten.leaky_relu).default, numbers, {}
    return next(target for target, known in _NAMES.items() if known == name), numbers, {}


def if_valid(activation: str) -> str | None:
    """Returns the activation if conv2d has it: torch also allows bounds that are no interval and
    slopes that are not finite."""
    try:
        check_activation(activation)  # also while torch compiles, where parse() does not
    except ValueError:
        return None
    return activation


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
