"""Four small convolutional networks that show what padding and stride do to a picture.

Each maps images, float32 of shape (N, 1, 28, 28), to logits of shape (N, 10). It has single-channel
convolutions with a ReLU after each, then one linear layer. The class of the convolutions is an
argument: `nn.Conv2d` or a subclass of it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar, get_args

import torch
from torch import nn

from convkern import Conv2d
from convkern.choices import PaddingMode

T = TypeVar("T")


class _ConvNet(nn.Sequential):
    def __init__(self, *convs: nn.Conv2d, features: int) -> None:
        activated = [layer for conv in convs for layer in _with_relu(conv)]
        super().__init__(*activated, nn.Flatten(), nn.Linear(features, 10))


def _with_relu(conv: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    """Returns a layer and its ReLU. convkern's layer computes it itself, and its place is then left
    empty, so that parameters have the same names whatever the class."""
    if not isinstance(conv, Conv2d):
        return conv, nn.ReLU()
    conv.activation = "relu"
    return conv, nn.Identity()


class ConvNetPlain(_ConvNet):
    """Two convolutions without padding: 28x28 shrinks to 15x15, then 6x6."""

    def __init__(self, conv: type[nn.Conv2d] = Conv2d) -> None:
        super().__init__(conv(1, 1, 14), conv(1, 1, 10), features=6 * 6)


class ConvNetPadding(_ConvNet):
    """Two or three convolutions with padding. Either way 28x28 ends as 10x10.

    With `num_layers=2`, padding is 1 and the kernels are 14 and 10: 28x28 becomes 17x17, then
    10x10. With `num_layers=3`, padding is 2 and the kernels are 14, 10 and 9: 19x19, 14x14, then
    10x10. `padding_mode` says what the padding holds, as in nn.Conv2d.

    Raises:
        ValueError: `num_layers` is neither 2 nor 3, or there is no such mode.
    """

    def __init__(
        self,
        num_layers: int = 3,
        conv: type[nn.Conv2d] = Conv2d,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        if num_layers not in (2, 3):
            raise ValueError(f"num_layers must be 2 or 3, not {num_layers}")
        sizes, padding = ((14, 10), 1) if num_layers == 2 else ((14, 10, 9), 2)
        convs = [conv(1, 1, size, padding=padding, padding_mode=padding_mode) for size in sizes]
        super().__init__(*convs, features=10 * 10)


class ConvNetPaddingStride(_ConvNet):
    """Three convolutions with padding 2, the last with stride 2: 19x19, 16x16, then 8x8.

    `padding_mode` says what the padding holds, as in nn.Conv2d.
    """

    def __init__(self, conv: type[nn.Conv2d] = Conv2d, padding_mode: PaddingMode = "zeros") -> None:
        layer = partial(conv, 1, 1, padding=2, padding_mode=padding_mode)
        super().__init__(layer(14), layer(8), layer(5, stride=2), features=8 * 8)


_PADDED: Final[Mapping[str, Callable[..., nn.Module]]] = {
    "padding2": partial(ConvNetPadding, 2),
    "padding3": partial(ConvNetPadding, 3),
    "stride": ConvNetPaddingStride,
}

MODELS: Final[Mapping[str, Callable[[type[nn.Conv2d]], nn.Module]]] = {
    "plain": ConvNetPlain,
    **_PADDED,
}
"""The networks by name: each builds one, of the class of convolutions given."""

MODES: Final[tuple[PaddingMode, ...]] = tuple(
    mode for mode in get_args(PaddingMode) if mode != "zeros"
)
"""The modes of padding other than zeros."""

VARIANTS: Final[Mapping[str, Callable[[type[nn.Conv2d]], nn.Module]]] = {
    f"{name}-{mode}": partial(build, padding_mode=mode)
    for name, build in _PADDED.items()
    for mode in MODES
}
"""The networks that have padding with each other mode, such as "padding2-reflect"."""

CONVS: Final[Mapping[str, type[nn.Conv2d]]] = {"convkern": Conv2d, "torch": nn.Conv2d}
"""The classes of convolutions by name."""


def build_convnet(
    model: str = "padding3", conv: str = "convkern", lr: float = 0.005, seed: int | None = None
) -> tuple[nn.Module, torch.optim.Adam, nn.CrossEntropyLoss]:
    """Returns a new network, its Adam optimizer with learning rate `lr`, whose step is one call for
    all parameters, and its cost.

    `model` is a name in `MODELS` or `VARIANTS`, and `conv` one in `CONVS`. The initial parameters
    depend on `model` and `seed` alone, not on `conv` or the mode of padding. With a seed, torch's
    global random state is left as it was. Without one, the parameters are drawn from it.

    Raises:
        ValueError: `model` or `conv` is unknown; the message names the choices.
    """
    build = VARIANTS[model] if model in VARIANTS else _choice("model", model, MODELS)
    layer = _choice("conv", conv, CONVS)
    if seed is None:
        net = build(layer)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            net = build(layer)
    return net, torch.optim.Adam(net.parameters(), lr=lr, fused=True), nn.CrossEntropyLoss()


def variant(model: str, mode: str) -> str:
    """Returns the name of a model in `MODELS` with this mode of padding, which is `model` itself
    for zeros.

    Raises:
        ValueError: the model is unknown or has no padding, or there is no such mode.
    """
    _choice("model", model, MODELS)
    if mode == "zeros":
        return model
    _choice("mode", mode, dict.fromkeys(get_args(PaddingMode)))
    if model not in _PADDED:
        raise ValueError(
            f"{model} has no padding that could be {mode}: choose one of {', '.join(_PADDED)}"
        )
    return f"{model}-{mode}"


def parts(name: str) -> tuple[str, str]:
    """Returns the model in `MODELS` and the mode of padding of a name in `MODELS` or
    `VARIANTS`."""
    model, _, mode = name.partition("-")
    return model, mode or "zeros"


def _choice(what: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, not {name!r}")
    return table[name]
