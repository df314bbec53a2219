"""Sizes and receptive fields of a stack of convolutions, and how often the image's edge is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from convkern import output_size
from convkern.functional import torch_conv2d

IMAGE = 28  # rows and columns of a Fashion-MNIST picture


@dataclass(frozen=True)
class Layer:
    """A square convolution in a stack, and its relation to the image.

    Attributes:
        kernel, padding, stride: those of this layer, in pixels of its input.
        size_in, size_out: rows and columns of its input and output.
        field: rows of the image that one of its outputs sees, including padding.
        jump: rows of the image between the fields of neighbouring outputs.
        offset: row of the image where the field of the first output begins, <= 0 with padding.
        channels_in, channels_out: channels of its input and output.
        mode: what its padding holds, as in nn.Conv2d.
    """

    kernel: int
    padding: int
    stride: int
    size_in: int
    size_out: int
    field: int
    jump: int
    offset: int
    channels_in: int = 1
    channels_out: int = 1
    mode: str = "zeros"

    @property
    def multiply_adds(self) -> int:
        """Products in one image's forward pass, including those with padding's zeros."""
        taps = self.kernel**2 * self.channels_in
        return self.size_out**2 * self.channels_out * taps


def layers_of(model: nn.Module, size: int = IMAGE) -> list[Layer]:
    """Returns the convolutions of `model`, in order, on images of `size` x `size` pixels.

    They must follow one another, with square kernels and the same padding and stride in rows and
    columns. Layers between them must keep the size.

    Raises:
        ValueError: a layer is not square.
    """
    found: list[Layer] = []
    field, jump, offset = 1, 1, 0
    for conv in _convolutions(model):
        kernel, padding, stride = (
            _square(conv, name) for name in ("kernel_size", "padding", "stride")
        )
        size_out = output_size(size, kernel=kernel, padding=padding, stride=stride)[0]
        field, offset = field + (kernel - 1) * jump, offset - padding * jump
        jump *= stride
        found.append(
            Layer(
                kernel, padding, stride, size, size_out, field, jump, offset,
                conv.in_channels, conv.out_channels, conv.padding_mode,
            )
        )  # fmt: skip
        size = size_out
    return found


def describe(layers: Sequence[Layer]) -> str:
    """Returns the layers in words, such as "2 layers, kernels 14 and 10, padding 1, reflect"."""
    count = f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'}"
    parts = [_each("kernel", [layer.kernel for layer in layers])]
    paddings, strides = ([getattr(x, name) for x in layers] for name in ("padding", "stride"))
    parts.append(_each("padding", paddings) if any(paddings) else "no padding")
    modes = {layer.mode for layer in layers if layer.padding and layer.mode != "zeros"}
    parts += sorted(modes)
    if set(strides) != {1}:
        parts.append(_each("stride", strides))
    return ", ".join([count, *parts])


def multiply_adds(model: nn.Module, size: int = IMAGE) -> int:
    """Returns the products in one image's forward pass, for convolutions and linear layers."""
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return sum(layer.multiply_adds for layer in layers_of(model, size)) + linear


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def reads(layers: Sequence[Layer]) -> Tensor:
    """Counts the paths by which each pixel of the image reaches the outputs of the last layer.

    Returns:
        float64, (size, size): the gradient of the sum of the outputs if all weights are 1.
    """
    size = layers[0].size_in
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    y: Tensor = image
    for layer in layers:
        ones = torch.ones(1, 1, layer.kernel, layer.kernel, dtype=torch.float64)
        if layer.mode == "zeros":
            y = torch_conv2d(y, ones, stride=layer.stride, padding=layer.padding)
        else:  # pixels of the image are read again in the padding
            y = torch_conv2d(pad(y, (layer.padding,) * 4, layer.mode), ones, stride=layer.stride)
    (gradient,) = torch.autograd.grad(y.sum(), image)
    return gradient[0, 0]


def corner_share(layers: Sequence[Layer]) -> float:
    """Returns how often the corner is read, relative to the pixel that is read most."""
    counts = reads(layers)
    return float(counts[0, 0] / counts.max())


def _each(name: str, values: Sequence[int]) -> str:
    """Returns one value if all are the same, and each value otherwise."""
    if len(set(values)) == 1:
        return f"{name} {values[0]}"
    return f"{name}s {', '.join(map(str, values[:-1]))} and {values[-1]}"


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def _square(conv: nn.Conv2d, name: str) -> int:
    value: tuple[int, ...] | str = getattr(conv, name)
    if isinstance(value, str) or len(set(value)) != 1:
        raise ValueError(f"{name} must be the same in rows and columns, got {value}")
    return value[0]
