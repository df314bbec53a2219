"""The activations that conv2d applies to its results, by torch's functions. They serve the calls
that convkern hands to torch, and are what its kernels are compared with."""

from __future__ import annotations

from collections.abc import Callable

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


def activated(y: Tensor, activation: Activation | None) -> Tensor:
    """Returns the activation of y, by torch.

    Raises:
        ValueError: there is no such activation.
    """
    if activation is None:
        return y
    name, _, parameters = activation.partition("(")
    if name not in _FUNCTIONS or bool(parameters) != (name in ("clamp", "leaky_relu")):
        _C.check_activation(activation)  # raises what is wrong
    numbers = [float(number) for number in parameters.rstrip(")").split(",") if number]
    return _FUNCTIONS[name](y, *numbers)
