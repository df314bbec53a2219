"""One-dimensional convolutions: images of one row for the kernels of two dimensions."""

# No `from __future__ import annotations` here, because torch.jit.script reads the annotations.
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from convkern.activations import activated
from convkern.choices import Activation, Padding, PaddingMode
from convkern.functional import check_mode, check_types, conv2d
from convkern.modules import Activated, checked, recorded, set_padding, torchs_padding
from convkern.transposed import arguments_of, conv_transpose2d, is_recorded
from convkern.window import check_name, integer, is_torchs, op_padding, pad_by_torch, sizes_of

# torch's own functions: a program may have put others in their place.
torch_conv1d: Callable[..., Tensor] = torch._C._VariableFunctions.conv1d
torch_conv_transpose1d: Callable[..., Tensor] = torch._C._VariableFunctions.conv_transpose1d


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sequence[Sequence[int]] | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    activation: Activation | None = None,
) -> Tensor:
    """1D cross-correlation, a drop-in for :func:`torch.nn.functional.conv1d`.

    It is computed as :func:`convkern.conv2d` of images of one row, so that the length is the
    columns. An input whose channels are adjacent, such as ``x.transpose(1, 2)`` of a contiguous
    (N, L, C), is read in place, and the result is then of that form too, not contiguous.

    Args:
        input: (N, C, L), or (C, L) without a batch.
        weight: (O, C / groups, K).
        bias: (O,), added to every output channel.
        stride, dilation: one int each.
        padding: cells on both sides, one int, or ((left, right),), as for causal convolutions
            ((dilation * (K - 1), 0),); or a name, as in :func:`convkern.conv2d`.
        groups, padding_mode, activation: as in :func:`convkern.conv2d`.

    Returns:
        (N, O, OL), or (O, OL) without a batch, of input's dtype, where OL = floor((L + left + right
        - dilation * (K - 1) - 1) / stride) + 1.

    Dtypes, devices, autocast and derivatives of every order are those of :func:`convkern.conv2d`,
    and so are the errors raised.

    Example:
        >>> x, w = torch.randn(8, 512, 256), torch.randn(512, 1, 4)
        >>> causal = ((3, 0),)
        >>> convkern.conv1d(x, w, padding=causal, groups=512, activation="silu").shape
        torch.Size([8, 512, 256])
    """
    tensors = (input, weight, bias)
    if torch.overrides.has_torch_function(tensors):
        return torch.overrides.handle_torch_function(
            conv1d, tensors, input, weight, bias, stride, padding, dilation, groups,
            padding_mode=padding_mode, activation=activation,
        )  # fmt: skip
    check_types(input, weight, bias, None, activation, "conv1d")
    check_mode(padding_mode)
    groups = integer(groups, "groups", groups, "conv1d")
    window = window_of_row(stride, padding, dilation)
    has_rank = _has_rank(input, weight)
    if not has_rank or input.shape[-2] != weight.shape[1] * groups or None in window:
        if None not in window and (padding_mode != "zeros" or not is_torchs(padding)):
            input, padding = _padded(input, weight, window, padding_mode), 0
        y = torch_conv1d(input, weight, bias, stride, padding, dilation, groups)
        return activated(y, activation)
    steps, pads, spacing = window
    y = conv2d(
        input.unsqueeze(-2), weight.unsqueeze(-2), bias, steps, pads, spacing, groups,
        padding_mode=padding_mode, activation=activation,
    )  # fmt: skip
    return _without_row(y)


def conv_transpose1d(
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
    """Transposed 1D convolution, a drop-in for :func:`torch.nn.functional.conv_transpose1d`. It is
    computed as :func:`convkern.conv_transpose2d` of images of one row, which says more.

    Args:
        input: (N, C, L), or (C, L) without a batch.
        weight: (C, O / groups, K).
        bias: (O,), added to every output channel.
        stride, padding, output_padding, dilation: one int each.
        groups, activation: as in :func:`convkern.conv_transpose2d`.

    Returns:
        (N, O, OL), or (O, OL) without a batch, of input's dtype, where OL = (L - 1) * stride - 2 *
        padding + dilation * (K - 1) + output_padding + 1.

    Example:
        >>> x, w = torch.randn(2, 16, 100), torch.randn(16, 8, 4)
        >>> convkern.conv_transpose1d(x, w, stride=2, padding=1).shape
        torch.Size([2, 8, 200])
    """
    tensors = (input, weight, bias)
    if torch.overrides.has_torch_function(tensors):
        return torch.overrides.handle_torch_function(
            conv_transpose1d, tensors, input, weight, bias, stride, padding, output_padding, groups,
            dilation, activation=activation,
        )  # fmt: skip
    check_types(input, weight, bias, None, activation, "conv_transpose1d")
    groups = integer(groups, "groups", groups, "conv_transpose1d")
    window = _rows(
        "conv_transpose1d", ("stride", 1, stride), ("padding", 0, padding),
        ("output_padding", 0, output_padding), ("dilation", 1, dilation),
    )  # fmt: skip
    has_rank = _has_rank(input, weight)
    if not has_rank or input.shape[-2] != weight.shape[0] or None in window:
        y = torch_conv_transpose1d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
        return activated(y, activation)
    steps, pads, extra, spacing = window
    y = conv_transpose2d(
        input.unsqueeze(-2), weight.unsqueeze(-2), bias, steps, pads, extra, groups, spacing,
        activation=activation,
    )  # fmt: skip
    return _without_row(y)


def _padded(input: Tensor, weight: Tensor, window: Sequence[Any], mode: PaddingMode) -> Tensor:
    """Returns a copy of the sequences with the cells around them, made by torch."""
    stride, padding, dilation = window
    size, kernel = (1, sizes_of(input)[1]), (1, sizes_of(weight)[1])
    pads = op_padding(padding, size, kernel, stride, dilation, "conv1d")
    return pad_by_torch(input.unsqueeze(-2), pads, mode).squeeze(-2)


def _without_row(y: Tensor) -> Tensor:
    """Returns the result without the axis of its one row. Like torch's result, that of a batch is
    no view of another tensor, which could not be changed in place everywhere."""
    if y.dim() == 3:
        return y.squeeze(-2)
    sequences: Tensor = torch.ops.aten._unsafe_view(y, [y.shape[0], y.shape[1], y.shape[3]])
    return sequences


def _has_rank(input: Tensor, weight: Tensor) -> bool:
    """Returns whether the tensors have the axes of a 1D convolution, and the call is not recorded.
    torch says what is wrong with others."""
    return input.dim() in (2, 3) and weight.dim() == 3 and not is_recorded()


def _rows(function: str, *given: tuple[str, int, Any]) -> list[Any]:
    """Returns parameters of a function of one dimension as those of images of one row. Each is
    given by its name, its number for the rows, and its value."""
    return [_row(function, *parameter) for parameter in given]


def window_of_row(stride: Any, padding: Any, dilation: Any) -> list[Any]:
    """Returns the stride, padding and dilation of conv1d as those of images of one row."""
    return _rows(
        "conv1d", ("stride", 1, stride), ("padding", 0, padding), ("dilation", 1, dilation)
    )


def _row(function: str, name: str, of_rows: int, given: Any) -> Any:
    """Returns a parameter of the columns as one of both axes, or the name of a padding as it is.
    Returns None for a sequence that is not of one number, or of one pair."""
    if isinstance(given, str) and name == "padding":
        check_name(given, function)
        return given
    value = given
    if isinstance(given, (list, tuple)):
        if len(given) != 1:
            return None
        value = given[0]
    if not isinstance(value, (list, tuple)):
        return of_rows, integer(value, name, given, function)
    if name != "padding" or len(value) != 2:
        return None
    return (of_rows, of_rows), tuple(integer(n, name, given, function) for n in value)


class Conv1d(Activated, nn.Conv1d):
    """A drop-in for :class:`torch.nn.Conv1d` that runs on convkern's kernels.

    The constructor, initialisation, state_dict and the four padding modes are those of nn.Conv1d.
    Each class therefore loads the other's state. One keyword is added: ``activation``, as in
    :func:`convkern.conv1d`, whose shapes, dtypes, paddings and errors the layer has.

    Example:
        >>> layer = convkern.Conv1d(80, 512, 5, padding="same", activation="relu")
        >>> layer(torch.randn(8, 80, 200)).shape
        torch.Size([8, 512, 200])
    """

    # torch.jit.script sees attributes of the class only if they are listed as constants.
    __constants__ = [*nn.Conv1d.__constants__, "activation"]  # noqa: RUF012  (as torch's are)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | tuple[tuple[int, int]] | Padding = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, torchs_padding(padding), dilation,
            groups, bias, padding_mode, device, dtype,
        )  # fmt: skip
        set_padding(self, padding)
        self.activation = checked(activation)

    def forward(self, input: Tensor) -> Tensor:
        """Computes the layer."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._conv_forward(input, self.weight, self.bias)
        if isinstance(input, Proxy):
            node: Any = recorded(self, Conv1d, nn.Conv1d, input)
            if node is not None:
                return node
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._scripted(input, weight, bias)
        padding: Any = self.padding
        mode: Any = self.padding_mode
        return conv1d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups,
            padding_mode=mode, activation=self.activation,
        )  # fmt: skip

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Computes the layer by torch's function in the subset of Python that TorchScript
        understands."""
        assert self.activation is None, "TorchScript has this layer without an activation"
        if isinstance(self.padding, str):
            assert not self.padding.startswith("same_"), (
                "TorchScript has no padding by ONNX's names"
            )
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(input, self._reversed_padding_repeated_twice, mode=mode)
        y: Tensor = torch.ops.aten.conv1d(
            x, weight, bias, self.stride, [0], self.dilation, self.groups
        )
        return y


class ConvTranspose1d(Activated, nn.ConvTranspose1d):
    """A drop-in for :class:`torch.nn.ConvTranspose1d` that runs on convkern's kernels.

    The constructor, initialisation and state_dict are those of nn.ConvTranspose1d. One keyword is
    added: ``activation``, as in :func:`convkern.conv_transpose1d`, whose shapes, dtypes and errors
    the layer has.

    Example:
        >>> convkern.ConvTranspose1d(16, 8, 4, stride=2, padding=1)(torch.randn(2, 16, 50)).shape
        torch.Size([2, 8, 100])
    """

    # torch.jit.script sees attributes of the class only if they are listed as constants.
    __constants__ = [*nn.ConvTranspose1d.__constants__, "activation"]  # noqa: RUF012  (as torch's are)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] = 0,
        output_padding: int | tuple[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int] = 1,
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
        """Computes the layer. `output_size` is the length of the result, which decides the output
        padding."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            assert self.activation is None, "TorchScript has this layer without an activation"
            extra = self._output_padding(
                input, output_size,
                self.stride, self.padding, self.kernel_size, 1,  # type: ignore[arg-type]
                self.dilation,  # type: ignore[arg-type]
            )  # fmt: skip
            return F.conv_transpose1d(
                input, self.weight, self.bias, self.stride,
                self.padding, extra,  # type: ignore[arg-type]
                self.groups, self.dilation,
            )  # fmt: skip
        if isinstance(input, Proxy):
            options = {"output_size": output_size}
            node: Any = recorded(self, ConvTranspose1d, nn.ConvTranspose1d, input, options)
            if node is not None:
                return node
        return self._computed(input, output_size)

    @torch.jit.unused
    def _computed(self, input: Tensor, output_size: list[int] | None) -> Tensor:
        return conv_transpose1d(input, **arguments_of(self, input, output_size, 1))
