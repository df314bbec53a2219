"""The gradient of bias and ReLU. Plain float32 CPU tensors without a graph take one native pass,
and others take torch's ops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import convkern

# (N, O, H, W) of y. There is one float and one pixel. There are sizes below, at and above a vector
# of 4 floats and 16 of these. There are many channels, and parts of several images.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 3, 5),
    (3, 2, 4, 4),
    (2, 2, 1, 17),
    (1, 2, 7, 9),
    (1, 2, 8, 8),
    (1, 2, 5, 13),
    (1, 2, 15, 17),
    (1, 2, 16, 16),
    (1, 2, 7, 39),
    (5, 300, 2, 3),
    (70, 4, 16, 17),
]
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def gradients(
    z: Tensor, b: Tensor, gy: Tensor, relu: bool, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns gx and gb of the 1x1 convolution by the identity. There gx is the gradient that
    reaches the convolution."""
    z, b = z.detach().requires_grad_(), b.detach().requires_grad_()
    eye = torch.eye(len(b), dtype=z.dtype)[:, :, None, None]
    y = convkern.conv2d(z, eye, b, activation="relu" if relu else None)
    gx, gb = torch.autograd.grad(y, (z, b), gy, create_graph=create_graph)
    return gx.detach(), gb.detach()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(
    shape: tuple[int, int, int, int], memory_format: torch.memory_format, relu: bool
) -> None:
    torch.manual_seed(0)
    z, gy = (torch.randn(shape).contiguous(memory_format=memory_format) for _ in range(2))
    b = torch.randn(shape[1])
    gx, gb = gradients(z, b, gy, relu)
    y = z + b[:, None, None]
    expected = gy.double() * (y > 0) if relu else gy.double()
    assert torch.equal(gx.double(), expected)
    by_torch = expected.float().sum((0, 2, 3))
    error = (gb.double() - expected.sum((0, 2, 3))).abs().max()
    torch_error = (by_torch.double() - expected.sum((0, 2, 3))).abs().max()
    assert error <= 2 * torch_error + 1e-6


@pytest.mark.parametrize("gy_format", FORMATS)
def test_gy_of_any_strides(gy_format: torch.memory_format) -> None:
    z, b = torch.randn(3, 4, 5, 6), torch.randn(4)
    for gy in (
        torch.randn(3, 4, 5, 6).contiguous(memory_format=gy_format),
        torch.randn(3, 4, 6, 5).transpose(2, 3),
        torch.randn(1, 1, 1, 1).expand(3, 4, 5, 6),
        torch.randn(3, 4, 5, 12)[..., ::2],
    ):
        ours, theirs = gradients(z, b, gy, True), gradients(z, b, gy, True, create_graph=True)
        assert torch.equal(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1])


def test_nan_and_infinity_pass_as_in_torch() -> None:
    z = torch.tensor([float("nan"), float("inf"), float("-inf"), 1.0, -1.0, 0.0])
    z = z.reshape(1, 1, 2, 3)
    gy = torch.tensor([1.0, 2.0, float("nan"), float("inf"), float("nan"), 3.0]).reshape(z.shape)
    ours = gradients(z, torch.zeros(1), gy, True)
    theirs = gradients(z, torch.zeros(1), gy, True, create_graph=True)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_an_empty_batch_has_zero_gradients() -> None:
    gx, gb = gradients(torch.randn(0, 3, 4, 4), torch.randn(3), torch.randn(0, 3, 4, 4), True)
    assert gx.shape == (0, 3, 4, 4)
    assert torch.equal(gb, torch.zeros(3))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_any_number_of_threads_gives_the_same_bits(
    threads: None, memory_format: torch.memory_format
) -> None:
    z, gy = (torch.randn(40, 5, 31, 29).contiguous(memory_format=memory_format) for _ in range(2))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(gradients(z, torch.randn(5), gy, False)[1])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.filterwarnings("ignore:convkern. the slow reference kernel")
@pytest.mark.parametrize(
    ("dtype", "create_graph", "native"),
    [(torch.float32, False, True), (torch.float32, True, False), (torch.float64, False, False)],
)
def test_which_road_is_taken(dtype: torch.dtype, create_graph: bool, native: bool) -> None:
    z, b = torch.randn(2, 3, 4, 4, dtype=dtype), torch.randn(3, dtype=dtype)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        gradients(z, b, torch.ones_like(z), True, create_graph)
    names = {event.name for event in profiler.events()}
    assert ("convkern::grad_epilogue" in names) == native
    assert ("aten::threshold_backward" in names) != native
