"""The passes of programs over images: picked channels, scales, means and maxima over windows."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from convkern import _C
from convkern.optimize import fuse, trace
from optimized_nets import Function
from traced import census, randomise

THREADS = (1, 2, 3)
# Around the widths of vectors, of lines that are copied at once, and of blocks of channels.
CHANNELS = (1, 3, 4, 15, 16, 17, 31, 33, 63, 64, 65, 130)


def image(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes).to(dtype).contiguous(memory_format=torch.channels_last)


def run(pass_: _C.Pass, inputs: list[Tensor], like: Tensor, threads: int) -> Tensor:
    program = _C.Program(len(inputs) + 1, 0, threads)
    program.set_inputs(list(range(len(inputs))))
    program.set_outputs([(len(inputs), like, True)])
    program.add_pass(pass_, list(range(len(inputs))), len(inputs), like, -1, [])
    return program.run(inputs, 1)[0]


def indices(width: int) -> list[list[int]]:
    """Returns channels to pick of so many: neighbours, shuffled groups and any."""
    generator = random.Random(width)
    every = list(range(width))
    found = [every, every[width // 2 :], every[::2], every[::-1]]
    found += [[c for j in range(width // g) for c in range(j, width, width // g)] for g in (2, 3)]
    found.append([generator.randrange(width) for _ in range(width + 5)])
    return [index for index in found if index]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pick_channels(threads: int, dtype: torch.dtype) -> None:
    for width in CHANNELS:
        inputs = [image(2, c, 5, 7, dtype=dtype) for c in (width, 2, width + 1)]
        whole = torch.cat(inputs, 1)
        for index in indices(whole.shape[1]):
            like = torch.empty(2, len(index), 5, 7, dtype=dtype, device="meta").contiguous(
                memory_format=torch.channels_last
            )
            widths = [x.shape[1] for x in inputs]
            picked = run(_C.pick_channels(widths, index, None, None, False), inputs, like, threads)
            assert torch.equal(picked, whole[:, index])


@pytest.mark.parametrize("relu", [False, True])
def test_scaled_and_shifted_channels(relu: bool) -> None:
    for width in CHANNELS:
        inputs = [image(2, c, 5, 7) for c in (width, 3)]
        inputs[0][0, 0, 0, 0] = torch.nan
        total = width + 3
        scale, shift = torch.randn(total), torch.randn(total)
        like = image(2, total, 5, 7)
        pass_ = _C.pick_channels([width, 3], list(range(total)), scale, shift, relu)
        y = torch.cat(inputs, 1) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        expected = y.relu() if relu else y
        torch.testing.assert_close(run(pass_, inputs, like, 2), expected, equal_nan=True)


@pytest.mark.parametrize("threads", THREADS)
def test_scale_and_mean(threads: int) -> None:
    for width in CHANNELS:
        for size in ((1, 1), (3, 5), (16, 17)):
            x, scale = image(3, width, *size), image(3, width, 1, 1)
            assert torch.equal(run(_C.scale_channels(), [x, scale], x, threads), x * scale)
            mean = run(_C.mean_of_pixels(), [x], scale, threads)
            torch.testing.assert_close(mean, x.double().mean((2, 3), True).float())
            assert torch.equal(mean, run(_C.mean_of_pixels(), [x], scale, 1))


def test_mean_is_as_accurate_as_torchs() -> None:
    x = image(1, 3, 224, 224) + 100
    exact = x.double().mean((2, 3), True)
    ours = run(_C.mean_of_pixels(), [x], image(1, 3, 1, 1), 2)
    assert (ours - exact).abs().max() <= 2 * (x.mean((2, 3), True) - exact).abs().max() + 1e-5


WINDOWS: list[dict[str, Any]] = [
    {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2},
    {"kernel_size": 5, "stride": 3, "padding": 2, "dilation": (2, 3)},
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("threads", THREADS)
def test_maxima_over_windows(window: dict[str, Any], threads: int) -> None:
    for width in CHANNELS:
        x = image(2, width, 14, 15)
        x[0, 0, 3, 4], x[1, -1, 0, 0], x[0, -1] = torch.nan, torch.inf, -torch.inf
        expected = F.max_pool2d(x, **window)

        def pair(name: str, default: Any, window: dict[str, Any] = window) -> list[int]:
            value = window.get(name, default)
            return [value, value] if isinstance(value, int) else list(value)

        size = pair("kernel_size", None)
        pass_ = _C.max_of_windows(
            size, pair("stride", size), pair("padding", 0), pair("dilation", 1)
        )
        torch.testing.assert_close(
            run(pass_, [x], expected, threads), expected, rtol=0, atol=0, equal_nan=True
        )


class Shuffles(nn.Module):
    """Concatenations, shuffles and cuts of channels, each read by another kind of node."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.pointwise = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(24, 8, 1)
        self.norm = nn.BatchNorm2d(24)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.first(x))
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.pointwise(b)], 1)
        y = F.channel_shuffle(y, 3)
        c, d = y[:, :6], y[:, -6:]
        z = torch.cat([self.depthwise(c), x, d], 1)
        y = F.avg_pool2d(F.relu(self.norm(z)), 2)
        return self.last(y) * torch.sigmoid(y.mean((2, 3), True)[:, :8]), d


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes_in_a_model(batch: int, dtype: torch.dtype) -> None:
    model = randomise(Shuffles()).to(dtype)
    x = torch.randn(batch, 3, 13, 14, dtype=dtype)
    fast = convkern.optimize(model, x)
    expected = model(x)
    for ours, theirs in zip(fast(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
    kinds = {step.what.split()[0] for step in fast.plans[0].steps if step.kernel == "pass"}
    assert kinds == ({"channels", "mean", "scale"} if dtype == torch.float32 else {"channels"})


def test_weights_are_put_into_the_order_of_the_channels() -> None:
    """Convolutions that read shuffled channels read them in the order in which they lie."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(F.channel_shuffle(self.a(x), 2))
            return result

    model = randomise(Block())
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    module = trace(model, (x,))
    fuse(module)
    assert census(module) == {"conv2d": 2}
    torch.testing.assert_close(convkern.optimize(model, x)(x), model(x))


OTHER_DTYPES = {
    "comparison": lambda x: torch.cat([x > 0, x < 1], 1),
    "shuffled comparison": lambda x: F.channel_shuffle(x > 0, 4),
    "cut comparison": lambda x: (x > 0)[:, 2:] & (x > 1)[:, :-2],
    "complex": lambda x: F.channel_shuffle(x * 1j, 4),
    "conjugate": lambda x: torch.cat([(x * 1j).conj(), x * 1j], 1),
}


@pytest.mark.parametrize("name", OTHER_DTYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_of_other_dtypes_are_left_to_torch(name: str, dtype: torch.dtype) -> None:
    model = Function(lambda conv, x: OTHER_DTYPES[name](conv(x))).to(dtype).eval()
    x = torch.randn(2, 3, 9, 11, dtype=dtype)
    torch.testing.assert_close(convkern.optimize(model, x)(x), model(x))


def test_no_channels() -> None:
    """Shuffles of no channels, whose groups are empty or none, and their concatenation."""

    def call(conv: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = conv(x)
        none = y[:, :0].reshape(2, 0, 3, 9, 11).transpose(1, 2).reshape(2, 0, 9, 11)
        empty = y[:, 5:5].reshape(2, 4, 0, 9, 11).transpose(1, 2).reshape(2, 0, 9, 11)
        return torch.cat([none, y, empty], 1), torch.cat([none, empty], 1)

    model, x = Function(call).eval(), torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(convkern.optimize(model, x)(x), model(x))


INDICES = {
    "of channels": lambda y: y[:, [3, 0, 3]],
    "of channels and columns": lambda y: y[:, [3, 0, 3], :, [1, 2, 4]],
    "of images": lambda y: y[[1, 0]],
}


@pytest.mark.parametrize("name", INDICES)
def test_indices_without_those_of_the_images(name: str) -> None:
    """The operator's list of indices has None for axes that are not indexed."""
    model = Function(lambda conv, x: INDICES[name](conv(x))).eval()
    x = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(convkern.optimize(model, x)(x), model(x))


def test_picked_channels_have_two_four_or_eight_bytes() -> None:
    x = image(1, 4, 2, 2, dtype=torch.float32) > 0
    with pytest.raises(TypeError, match="no channels of bool"):
        run(_C.pick_channels([4], [2, 0, 3, 1], None, None, False), [x], x, 1)
