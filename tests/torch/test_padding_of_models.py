"""Wrong paddings, and pads of models in front of their convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern

X, W = torch.randn(1, 2, 5, 6), torch.randn(3, 2, 3, 3)
REFLECT = "Padding size should be less than the corresponding input dimension, but got: padding"
WRONG = [
    ({"padding": ((1, 1), (6, 0)), "padding_mode": "reflect"}, RuntimeError,
     rf"{REFLECT} \(6, 0\) at dimension 3 of input \[1, 2, 5, 6\]"),
    ({"padding": ((0, 5), (0, 0)), "padding_mode": "reflect"}, RuntimeError,
     rf"{REFLECT} \(0, 5\) at dimension 2 of input \[1, 2, 5, 6\]"),
    ({"padding": (6, 0), "padding_mode": "circular"}, RuntimeError,
     "Padding value causes wrapping around more than once"),
    ({"padding": ((0, 0), (0, -1))}, RuntimeError,
     r"negative padding is not supported, got padding=\(\(0, 0\), \(0, -1\)\)"),
    ({"padding": -1, "padding_mode": "replicate"}, RuntimeError,
     r"negative padding is not supported, got padding=\(-1, -1\)"),
    ({"padding_mode": "mirror"}, ValueError, "padding_mode must be one of .*, but got .*'mirror'"),
    ({"padding_mode": None}, ValueError, "padding_mode must be one of .* but got"),
    ({"padding_mode": "Zeros"}, ValueError, "padding_mode must be one of .*, but got .*'Zeros'"),
    ({"padding": "upper"}, RuntimeError, "Invalid padding string: 'upper'"),
    ({"padding": "same", "stride": 2}, RuntimeError, "not supported for strided convolutions"),
    ({"padding": ((1, 2),)}, TypeError, r"padding must be .* got padding=\(\(1, 2\),\)"),
    ({"padding": ((1, 2), (1, 2, 3))}, TypeError, "padding must be"),
    ({"padding": ((1, 2), (1, 0.5))}, TypeError, "padding must be an integer"),
    ({"padding": [1, 1, 1, 1]}, RuntimeError, "expected padding to be a single integer"),
    ({"padding": ((0, 0), (2**62, 0)), "padding_mode": "replicate"}, RuntimeError, "too large"),
    ({"padding": ((0, 2**63), (0, 0))}, ValueError, "padding must fit int64"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "words"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    for x in (X, X.to("meta"), X[0]):
        with pytest.raises(kind, match=words):
            convkern.conv2d(x, W.to(x.device), **options)
    with pytest.raises(kind, match=words):
        convkern.explain(X, W, **options)
    with pytest.raises((kind, RuntimeError)):
        torch.compile(convkern.conv2d, backend="eager")(X, W, **options)


def test_wrong_arguments_of_layers_and_sizes() -> None:
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        convkern.Conv2d(1, 1, 3, padding_mode="mirror")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="padding must be"):
        convkern.Conv2d(1, 1, 3, padding=((1, 2), (3,)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="padding must be at least 0"):
        convkern.output_size(5, 3, padding=((0, 0), (-1, 0)))
    with pytest.raises(ValueError, match="padding must be one of"):
        convkern.output_size(5, 3, padding="upper")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the input's size"):
        convkern.same_padding(3, stride=2)
    for arguments, word in (({"kernel": 0}, "kernel"), ({"kernel": 3, "stride": 0}, "stride")):
        with pytest.raises(ValueError, match=f"{word} must be at least 1"):
            convkern.same_padding(**arguments, input=8)
    x, w = torch.randn(1, 2, 9), torch.randn(3, 2, 3)
    for padding, kind, words in (
        (1.5, TypeError, r"conv1d: padding must be an integer or two, got padding=1.5"),
        ("full", RuntimeError, "conv1d: Invalid padding string: 'full'"),
        (((1, 0.5),), TypeError, r"conv1d: padding must be .* got padding=\(\(1, 0.5\),\)"),
    ):
        with pytest.raises(kind, match=words):
            convkern.conv1d(x, w, padding=padding)
    with pytest.raises(TypeError, match=r"conv1d: padding must be \(\(left, right\),\)"):
        convkern.Conv1d(2, 3, 3, padding=((1, 2), (3, 4)))  # type: ignore[arg-type]
    assert convkern.output_size((5, 6), 3, 2, ((0, 1), (2, 2))) == (2, 4)


class PadsByHand(nn.Module):
    """A layer as models have it whose padding was TensorFlow's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(F.pad(x, (0, 1, 0, 1)))).relu()
        return self.second(F.pad(y, [1, 0, 1, 0])) + self.second(F.pad(y, (0, 1, 0, 1), value=1.0))


@pytest.mark.parametrize("changes", [False, True])
def test_pads_whose_input_may_change_stay(changes: bool) -> None:
    """Autograd saves torch's padded copy, so that the input may be changed before the backward
    pass: in the model, or by the caller if it is the model's input."""

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(F.pad(x, (1, 1, 1, 1)))
            y = self.second(F.pad(z, (1, 1, 1, 1)))
            return y + z.relu_() if changes else y

    net, x = Changing(), torch.randn(2, 4, 10, 10)
    theirs = torch.autograd.grad(net(x).sum(), net.first.weight)[0]
    convkern.fuse_training(net, x)
    with torch.profiler.profile() as profile:
        y = net(x.clone())
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::constant_pad_nd"] == 1 + changes
    given = x.clone()
    y = net(given)
    given.zero_()
    ours = torch.autograd.grad(y.sum(), net.first.weight)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_models_that_pad_by_hand() -> None:
    net, x = PadsByHand(), torch.randn(2, 3, 14, 14)
    expected = net(x)
    convkern.fuse_training(net, x)
    with torch.profiler.profile() as profile:
        y = net(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::constant_pad_nd"] == 2, "those of ones and of the model's input"
    assert calls["convkern::conv2d"] == 3
    plain = PadsByHand().eval()
    fast = convkern.optimize(plain, x)
    steps = dict(convkern.explain(fast, x))
    assert sum(name.startswith("pad") for name in steps) == 1, "that of ones"
    assert any("p0-1q0-1" in step.problem for step in steps.values())
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-5)
