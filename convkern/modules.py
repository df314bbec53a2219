"""convkern.Conv2d, the module form, and its lazy variant."""

# Annotations are no strings here, as torch.jit.script reads them.
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkern.functional import conv2d


class Conv2d(nn.Conv2d):
    """A drop-in for :class:`torch.nn.Conv2d`, running on convkern's kernels.

    Constructor, initialisation, state_dict and the four padding modes are those of nn.Conv2d, so
    that each loads the other's state. One keyword is added: ``activation="relu"`` applies
    max(0, y) in the same pass.

    Shapes, dtypes and errors are those of :func:`convkern.conv2d`.
    """

    activation: str | None = None  # also of an nn.Conv2d that was unpickled or turned into this

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = _checked(activation)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._scripted(input, weight, bias)
        padding: str | Sequence[int] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0, 0
        return conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups,
            activation=self.activation,
        )  # fmt: skip

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The op in what Python TorchScript understands."""
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
            y = F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)
            y = F.relu(y) if self.activation is not None else y
        return y if input.dim() == 4 else y.squeeze(0)

    def extra_repr(self) -> str:
        text = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{text}, activation={self.activation!r}" if self.activation else text


class LazyConv2d(nn.LazyConv2d):
    """A drop-in for :class:`torch.nn.LazyConv2d`: the first input gives the number of input
    channels, and the layer becomes a :class:`convkern.Conv2d`.

    Takes nn.LazyConv2d's arguments and ``activation``.
    """

    cls_to_become = Conv2d

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = _checked(activation)


def _checked(activation: str | None) -> str | None:
    if activation not in (None, "relu"):
        raise ValueError(f"activation must be None or 'relu', got activation={activation!r}")
    return activation
