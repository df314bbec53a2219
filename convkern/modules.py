"""convkern.Conv2d and convkern.Linear (the module forms), and a lazy variant."""

# No `from __future__ import annotations` here, because torch.jit.script reads the annotations.
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy, Tracer

from convkern.activations import check_activation
from convkern.choices import Activation, Padding, PaddingMode
from convkern.functional import conv2d, linear


class Activated:
    """What layers with an activation share."""

    activation: Activation | None = None  # a class attribute serves a converted layer too

    def extra_repr(self) -> str:
        text: str = super().extra_repr()  # type: ignore[misc]
        return f"{text}, activation={self.activation!r}" if self.activation else text


class Conv2d(Activated, nn.Conv2d):
    """A drop-in for :class:`torch.nn.Conv2d` that runs on convkern's kernels.

    The constructor, initialisation, state_dict and the four padding modes are those of nn.Conv2d.
    Each class therefore loads the other's state. One keyword is added: ``activation="relu"``
    applies max(0, y) in the same pass, and so do the other activations of :func:`convkern.conv2d`.

    Shapes, dtypes and errors are those of :func:`convkern.conv2d`.
    """

    # torch.jit.script sees attributes of the class only if they are listed as constants.
    __constants__ = [*nn.Conv2d.__constants__, "activation"]  # noqa: RUF012  (as torch's are)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Padding = 0,
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
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
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
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0, 0
        return conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups,
            activation=self.activation,
        )  # fmt: skip

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Calls the op in the subset of Python that TorchScript understands."""
        x = input if input.dim() == 4 else input.unsqueeze(0)
        padding = [0, 0]
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        elif isinstance(self.padding, str):
            x = F.pad(x, self._reversed_padding_repeated_twice)
        else:
            padding = [self.padding[0], self.padding[1]]
        if x.is_floating_point():
            y: Tensor = torch.ops.convkern.conv2d(
                x, weight, bias, self.stride, padding, self.dilation, self.groups, self.activation
            )
        else:
            # Call torch's op by its own name, because a program may have put another function in
            # the place of F.conv2d.
            y = torch.ops.aten.conv2d(
                x, weight, bias, self.stride, padding, self.dilation, self.groups
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
        padding: int | tuple[int, int] | Padding = 0,
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
            padding,  # type: ignore[arg-type]  # by name too, which torch forgets
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
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
