"""The activations that conv2d applies to its results, by torch's functions. They serve the calls
that convkern hands to torch, and are what its kernels are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convkern import _C
from convkern.choices import Activation

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "sigmoid": F.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


_PARAMETERS = {"clamp": 2, "leaky_relu": 1}  # how many there are


def check_type(activation: Any) -> None:
    """Raises TypeError unless the activation is None or a string."""
    if activation is not None and not isinstance(activation, str):
        raise TypeError(f"conv2d: activation must be None or a str, got activation={activation!r}")


def check_activation(activation: Any) -> None:
    """Raises an error unless there is such an activation, or it is None.

    Raises:
        TypeError: it is neither None nor a string.
        ValueError: there is no such activation.
    """
    check_type(activation)
    if activation is not None:
        _C.check_activation(activation)


def parse(activation: Activation) -> tuple[str, list[float]]:
    """Returns the name and the numbers of an activation: "clamp(-1,1)" is "clamp" and [-1.0, 1.0].

    Raises:
        ValueError: there is no such activation.
    """
    name, _, parameters = activation.removesuffix(")").partition("(")
    numbers = parameters.split(",") if parameters else []
    fits = name in _FUNCTIONS and len(numbers) == _PARAMETERS.get(name, 0)
    # torch.compile cannot trace the check, so that it traces one only where it must fail.
    if not fits or not torch.compiler.is_compiling():
        _C.check_activation(activation)
    return name, [float(number) for number in numbers]


def activated(y: Tensor, activation: Activation | None, residual: Tensor | None = None) -> Tensor:
    """Returns the activation of y, or of y + residual, by torch.

    Raises:
        ValueError: there is no such activation.
    """
    if residual is not None:
        y = y + residual
    if activation is None:
        return y
    name, numbers = parse(activation)
    return _FUNCTIONS[name](y, *numbers)
