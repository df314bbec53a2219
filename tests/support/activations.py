"""The activations of conv2d, each with parameters as tests give them."""

from __future__ import annotations

BOUNDS = ["relu", "relu6", "clamp(-0.5,0.75)"]  # these only bound their argument
ACTIVATIONS = [
    *BOUNDS, "leaky_relu(0.1)", "hardsigmoid", "hardswish", "sigmoid", "silu", "gelu", "gelu_tanh"
]  # fmt: skip
