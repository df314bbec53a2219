"""convkern.conv_transpose2d and convkern.ConvTranspose2d, by the kernels of the gradient of a
convolution's input."""

# No `from __future__ import annotations` here, because torch.jit.script reads the annotations.
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from convkern.activations import activated
from convkern.choices import Activation, PaddingMode
from convkern.functional import check_types, exporting_to_onnx, has_kernels, meet_dtensor
from convkern.modules import Activated, checked, recorded
from convkern.window import integer, integers

# torch's own function: a program may have put another one in its place.
torch_conv_transpose2d: Callable[..., Tensor] = torch._C._VariableFunctions.conv_transpose2d


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    activation: Activation | None = None,
) -> Tensor:
    """Transposed 2D convolution, a drop-in for :func:`torch.nn.functional.conv_transpose2d`.

    Element (i, j) of the input adds the kernel times its value to the result, with the kernel's
    first tap at (i * stride - padding, j * stride - padding). This is the gradient of the input of
    :func:`convkern.conv2d`, whose kernels compute it.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (C, O / groups, R, S).
        bias: (O,), added to every output channel.
        stride: distance of the kernels of neighbouring elements, one int or (rows, columns).
        padding: rows and columns that are cut off on both sides, one int or (rows, columns).
        output_padding: rows and columns that are added at the bottom and on the right, one int or
            (rows, columns), each less than the stride or the dilation.
        groups: number of independent groups that C and O are split into.
        dilation: spacing of the kernel's taps, one int or (rows, columns).
        activation: None, or what is applied to the result, as in :func:`convkern.conv2d`.

    Returns:
        (N, O, OH, OW), or (O, OH, OW) without a batch, of input's dtype, where OH = (H - 1) *
        stride - 2 * padding + dilation * (R - 1) + output_padding + 1, and OW likewise. It is
        channels_last if input or weight is.

    Dtypes, devices, autocast and derivatives of every order are those of :func:`convkern.conv2d`.
    What that hands to torch, this hands to torch too, and so it does with calls that
    torch.jit.trace or torch.onnx.export records. Bias and activation are torch's, after the kernel:
    in 16 bits the bias is added to the rounded result.

    Raises:
        RuntimeError: sizes, dtypes or devices do not fit each other, or a size is out of range.
        TypeError: an argument has the wrong type.
        ValueError: there is no such activation, or an integer exceeds int64.

    Example:
        >>> x, w = torch.randn(1, 16, 8, 8), torch.randn(16, 8, 4, 4)
        >>> convkern.conv_transpose2d(x, w, stride=2, padding=1).shape
        torch.Size([1, 8, 16, 16])
    """
    tensors = (input, weight, bias)
    if torch.overrides.has_torch_function(tensors):
        return torch.overrides.handle_torch_function(
            conv_transpose2d, tensors, input, weight, bias, stride, padding, output_padding, groups,
            dilation, activation=activation,
        )  # fmt: skip
    check_types(input, weight, bias, None, activation, "conv_transpose2d")
    window = [
        integers(value, name, "conv_transpose2d")
        for value, name in (
            (stride, "stride"), (padding, "padding"), (dilation, "dilation"),
            (output_padding, "output_padding"),
        )
    ]  # fmt: skip
    groups = integer(groups, "groups", groups, "conv_transpose2d")
    size = None
    if not is_recorded():
        input, weight, bias = _autocast(input, weight, bias)
        if _fits(input, weight, bias):
            size = _result_size(input, weight, bias, window, groups)
    if size is None:
        y = torch_conv_transpose2d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
        return activated(y, activation)
    if not torch.compiler.is_compiling():
        meet_dtensor(input)
    *window, extra = window
    x = input if input.dim() == 4 else input.unsqueeze(0)
    # The forward pass that this is the gradient of has more outputs than x if extra rows or columns
    # are a whole step. Those are zeros.
    steps = [e // s for e, s in zip(extra, window[0], strict=True)]
    if any(steps):
        x = F.pad(x, (0, steps[1], 0, steps[0]))
    y = torch.ops.convkern.conv2d_grad_input(x, weight, [x.shape[0], *size], *window, groups)
    if bias is not None:
        column = bias.view(-1, 1, 1)
        # A result of vmap may have no axis for the biases of a batch, and then cannot take them in.
        y = y + column if torch._C._are_functorch_transforms_active() else y.add_(column)
    y = activated(y, activation)
    return y if input.dim() == 4 else y.squeeze(0)


def is_recorded() -> bool:
    """Returns whether the call belongs to torch's own function: a tracer's sizes are tensors, whose
    values it would record, and exporters to ONNX know torch's functions only."""
    traced = not torch.compiler.is_compiling() and torch._C._is_tracing()
    return traced or exporting_to_onnx()


def _autocast(*tensors: Tensor | None) -> list[Any]:
    """Returns the tensors as autocast casts those of torch's function."""
    device = tensors[0].device.type  # type: ignore[union-attr]
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)

    def cast(t: Tensor | None) -> Tensor | None:
        eligible = t is not None and t.is_floating_point() and t.dtype != torch.float64
        return t.to(dtype) if eligible else t  # type: ignore[union-attr]

    return [cast(t) for t in tensors]


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Returns whether the kernels compute these tensors; torch says what is wrong with others."""
    tensors = [t for t in (input, weight, bias) if t is not None]
    same = all(t.dtype == input.dtype and t.device == input.device for t in tensors)
    return same and has_kernels(input, weight, bias)


def _result_size(
    input: Tensor, weight: Tensor, bias: Tensor | None, window: list[list[int]], groups: int
) -> list[int] | None:
    """Returns the channels, rows and columns of the result. Returns None if the arguments break a
    rule, which torch then names, or have no channels, which torch then computes."""
    if input.dim() not in (3, 4) or weight.dim() != 4 or min(weight.shape[1:]) < 1 or groups < 1:
        return None
    if any(len(values) != 2 for values in window):
        return None
    channels = input.shape[-3]
    outputs = weight.shape[1] * groups
    if channels < 1 or channels != weight.shape[0] or channels % groups:
        return None
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != outputs):
        return None
    sizes = []
    axes = zip(*window, input.shape[-2:], weight.shape[2:], strict=True)
    for stride, padding, dilation, extra, size, taps in axes:
        if size < 1 or min(stride, dilation) < 1 or padding < 0:
            return None
        if not 0 <= extra < max(stride, dilation):
            return None
        sizes.append((size - 1) * stride - 2 * padding + dilation * (taps - 1) + extra + 1)
    return [outputs, *sizes] if min(sizes) >= 1 else None


class ConvTranspose2d(Activated, nn.ConvTranspose2d):
    """A drop-in for :class:`torch.nn.ConvTranspose2d` that runs on convkern's kernels.

    The constructor, initialisation and state_dict are those of nn.ConvTranspose2d. Each class
    therefore loads the other's state. One keyword is added: ``activation``, as in
    :func:`convkern.conv_transpose2d`, whose shapes, dtypes and errors the layer has.

    Example:
        >>> up = convkern.ConvTranspose2d(16, 8, 4, stride=2, padding=1, activation="relu")
        >>> up(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 8, 16, 16])
    """

    # torch.jit.script sees attributes of the class only if they are listed as constants.
    __constants__ = [*nn.ConvTranspose2d.__constants__, "activation"]  # noqa: RUF012  (as torch's are)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device, dtype,
        )  # fmt: skip
        self.activation = checked(activation)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Computes the layer. `output_size` are the rows and columns of the result, which decide
        the output padding."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            assert self.activation is None, "TorchScript has this layer without an activation"
            extra = self._output_padding(
                input, output_size,
                self.stride, self.padding, self.kernel_size, 2,  # type: ignore[arg-type]
                self.dilation,  # type: ignore[arg-type]
            )  # fmt: skip
            return F.conv_transpose2d(
                input, self.weight, self.bias, self.stride,
                self.padding, extra,  # type: ignore[arg-type]
                self.groups, self.dilation,
            )  # fmt: skip
        if isinstance(input, Proxy):
            options = {"output_size": output_size}
            node: Any = recorded(self, ConvTranspose2d, nn.ConvTranspose2d, input, options)
            if node is not None:
                return node
        return self._computed(input, output_size)

    @torch.jit.unused
    def _computed(self, input: Tensor, output_size: list[int] | None) -> Tensor:
        return conv_transpose2d(input, **arguments_of(self, input, output_size, 2))


def arguments_of(layer: Any, input: Tensor, output_size: list[int] | None, axes: int) -> Any:
    """Returns the arguments of the function for a transposed layer of so many axes, by name."""
    extra = layer._output_padding(
        input, output_size, layer.stride, layer.padding, layer.kernel_size, axes, layer.dilation
    )
    return {
        "weight": layer.weight,
        "bias": layer.bias,
        "stride": layer.stride,
        "padding": layer.padding,
        "output_padding": extra,
        "groups": layer.groups,
        "dilation": layer.dilation,
        "activation": layer.activation,
    }
