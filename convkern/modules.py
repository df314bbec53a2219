"""convkern.Conv2d and convkern.Linear (the module forms), and a lazy variant."""

# No `from __future__ import annotations` here, because torch.jit.script reads the annotations.
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy, Tracer

from convkern.activations import check_activation
from convkern.choices import Activation, Padding, PaddingMode, Sides
from convkern.functional import conv2d, linear
from convkern.window import is_torchs, paddings, sides_of


class Activated:
    """What layers with an activation share."""

    activation: Activation | None = None  # a class attribute serves a converted layer too

    def extra_repr(self) -> str:
        text: str = super().extra_repr()  # type: ignore[misc]
        return f"{text}, activation={self.activation!r}" if self.activation else text


def torchs_padding(padding: Any) -> Any:
    """Returns the padding for the constructor of torch's layer, or 0 where it knows no such
    padding, which set_padding() then sets."""
    return padding if is_torchs(padding) else 0


def set_padding(layer: Any, padding: Any) -> None:
    """Sets a padding that the constructor of torch's layer does not take: different numbers for the
    sides of an axis, or a name of ONNX's, whose numbers depend on the input."""
    if is_torchs(padding):
        return
    layer.padding = padding
    if not isinstance(padding, str):
        axes = len(layer.kernel_size)
        if len(padding) != axes:
            forms = "((left, right),)" if axes == 1 else "((top, bottom), (left, right))"
            raise TypeError(f"conv{axes}d: padding must be {forms}, got padding={padding!r}")
        both = [0] * (2 - axes) + [*padding]  # a layer of one dimension has one row
        layer.padding = sides_of(paddings(both, f"conv{axes}d"))[2 - axes :]
        # torch's functions of padding take the last axis first.
        layer._reversed_padding_repeated_twice = tuple(
            n for side in layer.padding[::-1] for n in side
        )


class Conv2d(Activated, nn.Conv2d):
    """A drop-in for :class:`torch.nn.Conv2d` that runs on convkern's kernels.

    The constructor, initialisation, state_dict and the four padding modes are those of nn.Conv2d.
    Each class therefore loads the other's state. One keyword is added: ``activation="relu"``
    applies max(0, y) in the same pass, and so do the other activations of :func:`convkern.conv2d`.
    ``padding`` may also be ((top, bottom), (left, right)), ``"same_upper"`` or ``"same_lower"``.

    Shapes, dtypes and errors are those of :func:`convkern.conv2d`.

    Example:
        >>> layer = convkern.Conv2d(3, 8, 3, stride=2, padding="same_upper", padding_mode="reflect")
        >>> layer(torch.randn(1, 3, 225, 224)).shape
        torch.Size([1, 8, 113, 112])
    """

    # torch.jit.script sees attributes of the class only if they are listed as constants.
    __constants__ = [*nn.Conv2d.__constants__, "activation"]  # noqa: RUF012  (as torch's are)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Sides | Padding = 0,
        dilation: int | tuple[int, int] = 1,
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
            node = recorded(self, Conv2d, nn.Conv2d, input)
            if node is not None:
                return node
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._scripted(input, weight, bias)
        padding: Any = self.padding
        mode: Any = self.padding_mode
        return conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups,
            padding_mode=mode, activation=self.activation,
        )  # fmt: skip

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Calls the op in the subset of Python that TorchScript understands."""
        if isinstance(self.padding, str):
            assert not self.padding.startswith("same_"), (
                "TorchScript has no padding by ONNX's names"
            )
        x = input if input.dim() == 4 else input.unsqueeze(0)
        sides = self._reversed_padding_repeated_twice  # left, right, top and bottom
        if x.is_floating_point():
            y: Tensor = torch.ops.convkern.conv2d(
                x, weight, bias, self.stride, [sides[2], sides[3], sides[0], sides[1]],
                self.dilation, self.groups, self.activation, None, self.padding_mode,
            )  # fmt: skip
        else:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, sides, mode=mode)
            # Call torch's op by its own name, because a program may have put another function in
            # the place of F.conv2d.
            y = torch.ops.aten.conv2d(
                x, weight, bias, self.stride, [0, 0], self.dilation, self.groups
            )
            if self.activation is not None:
                assert self.activation == "relu", "integers have no activation but ReLU"
                y = F.relu(y)
        return y if input.dim() == 4 else y.squeeze(0)


class LazyConv2d(nn.LazyConv2d):
    """A drop-in for :class:`torch.nn.LazyConv2d`. The first input gives the number of input
    channels, and the layer then becomes a :class:`convkern.Conv2d`.

    It takes nn.LazyConv2d's arguments and ``activation``.
    """

    cls_to_become = Conv2d  # type: ignore[assignment]

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Sides | Padding = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            out_channels,
            kernel_size,
            stride,
            torchs_padding(padding),  # by name too, which torch forgets
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        set_padding(self, padding)
        self.activation = checked(activation)


class Linear(nn.Linear):
    """A drop-in for :class:`torch.nn.Linear` that runs on convkern's kernels.

    The constructor, initialisation and state_dict are those of nn.Linear. Shapes, dtypes and errors
    are those of :func:`convkern.linear`, which leaves to torch what torch does faster.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Computes the layer."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return torch.ops.aten.linear(input, self.weight, self.bias)  # type: ignore[no-any-return]
        if isinstance(input, Proxy):
            node = recorded(self, Linear, nn.Linear, input)
            if node is not None:
                return node
        return linear(input, self.weight, self.bias)


def recorded(
    layer: nn.Module,
    ours: type,
    theirs: type,
    input: Proxy,
    options: dict[str, Any] | None = None,
) -> Any:
    """Returns the node of a torch.fx graph that calls a layer of the class `ours`, or None.

    There is a node if the tracer would make one for torch's class, `theirs`. Tracers recognise
    torch's layers by the name of their package, so this asks about a layer of torch's class with
    the attributes of this layer. There is none if the layer itself is being traced rather than a
    model around it. There is none for a layer with hooks either: the hooks are being traced
    already, and the node would call them again.
    """
    tracer = input.tracer
    if type(layer) is not ours or not isinstance(tracer, Tracer) or tracer.root is layer:
        return None
    if layer._forward_pre_hooks or layer._forward_hooks:
        return None
    name = tracer.path_of_module(layer)
    plain: nn.Module = nn.Module.__new__(theirs)
    plain.__dict__ = layer.__dict__
    if not tracer.is_leaf_module(plain, name):
        return None
    return tracer.create_proxy("call_module", name, (input,), options or {})


def checked(activation: Activation | None) -> Activation | None:
    check_activation(activation)
    return activation
