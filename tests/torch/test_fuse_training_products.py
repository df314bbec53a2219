"""The functions of fused graphs for squeeze-and-excitation: images times one number for each image
and channel, and means of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import convkern
from convkern.training import blocks

NATIVE = "ChannelProductBackward"
SHAPES = [
    (1, 1, 1, 2), (1, 1, 1, 1), (2, 3, 1, 1), (2, 3, 5, 7), (3, 17, 14, 14), (1, 64, 3, 3),
    (2, 65, 9, 1), (1, 256, 14, 14), (2, 1, 40, 30), (1, 130, 1, 67),
]  # fmt: skip
FORMATS = [torch.contiguous_format, torch.channels_last]
Call = Callable[..., Tensor]


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_(t.is_floating_point() or t.is_complex())


def gradients(call: Call, x: Tensor, scale: Tensor, gy: Tensor) -> list[Tensor]:
    """Returns the result and the gradients."""
    x, scale = leaf(x), leaf(scale)
    y = call(x, scale)
    return [y.detach(), *torch.autograd.grad(y, (x, scale), gy)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_and_their_gradients_are_those_of_float64(shape: tuple[int, ...]) -> None:
    x, scale, gy = images(*shape), images(*shape[:2], 1, 1), images(*shape)
    ours = gradients(blocks.channel_product, x, scale, gy)
    exact = gradients(torch.mul, x.double(), scale.double(), gy.double())
    for one, other in zip(ours[:2], exact[:2], strict=True):
        assert torch.equal(one, other.float())  # one rounding
    magnitude = (x.double() * gy).abs().sum((2, 3), keepdim=True)
    assert ((ours[2] - exact[2]).abs() <= 1e-6 * magnitude).all()
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    assert ours[2].shape == scale.shape


def test_images_in_channels_last_and_float32_are_computed_by_the_loops() -> None:
    scale = torch.rand(2, 3, 1, 1)
    assert blocks.channel_product(leaf(images(2, 3, 4, 5)), scale).grad_fn.name() == NATIVE
    for x in (torch.randn(2, 3, 4, 5), images(2, 3, 4, 5, dtype=torch.float64)):
        y = blocks.channel_product(leaf(x), scale.to(x.dtype))
        assert y.grad_fn.name() == "MulBackward0"


def odd_pairs() -> list[tuple[Tensor, Tensor]]:
    x, scale = images(2, 3, 4, 5), torch.rand(2, 3, 1, 1)
    pairs = [(x, other) for other in (
        scale.double(), scale.bfloat16(), scale[:1], scale[:, :1], scale[:1, :1], scale[0],
        scale.expand(2, 3, 4, 5), scale.expand(2, 3, 4, 1), scale[:1].expand(2, 3, 1, 1),
        scale[:, :1].expand(2, 3, 1, 1), torch.rand(2, 6, 1, 1)[:, ::2],
        torch.rand(4, 3, 1, 1)[::2],
        torch.rand(3, 2, 1, 1).transpose(0, 1), images(2, 3, 4, 5), scale.to(torch.complex64),
        torch.rand(()),
    )]  # fmt: skip
    pairs += [(x.to(dtype), scale.to(dtype)) for dtype in (
        torch.float64, torch.bfloat16, torch.float16, torch.complex64)]  # fmt: skip
    pairs += [(other, scale) for other in (
        x.contiguous(), x[:, :, ::2], x[..., 1:], x[:1], x[:, :1], images(2, 3, 1, 5)[..., ::2],
        torch.randn(2, 3, 1, 1), torch.randn(3, 4, 5), x[:1, :1, :1, :1].expand(2, 3, 4, 5),
        x.unsqueeze(0), x.bfloat16(),
    )]  # fmt: skip
    pairs += [(images(0, 3, 4, 5), images(0, 3, 1, 1)), (images(2, 3, 0, 5), scale),
              (images(2, 0, 4, 5), images(2, 0, 1, 1))]  # fmt: skip
    return pairs


@pytest.mark.parametrize("place", range(len(odd_pairs())))
def test_other_operands_are_multiplied_as_by_torch(place: int) -> None:
    torch.manual_seed(place)
    pair = odd_pairs()[place]
    for x, scale in (pair, pair[::-1]):
        gy = torch.randn_like(x * scale)
        ours = gradients(blocks.channel_product, x, scale, gy)
        theirs = gradients(torch.mul, x, scale, gy)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if x.dtype == torch.float32 else {}
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_operands_without_gradients() -> None:
    x, scale, gy = images(2, 5, 3, 4), torch.rand(2, 5, 1, 1), images(2, 5, 3, 4)
    _, gx, gscale = gradients(torch.mul, x, scale, gy)
    y = blocks.channel_product(x, scale)
    assert not y.requires_grad
    with torch.no_grad():
        assert not blocks.channel_product(leaf(x), leaf(scale)).requires_grad
    wanted = leaf(x)
    blocks.channel_product(wanted, scale).backward(gy)
    torch.testing.assert_close(wanted.grad, gx)
    wanted = leaf(scale)
    blocks.channel_product(x, wanted).backward(gy)
    torch.testing.assert_close(wanted.grad, gscale)
    both = leaf(x), leaf(scale)
    (only,) = torch.autograd.grad(blocks.channel_product(*both), both[1], gy)
    torch.testing.assert_close(only, gscale)


def test_second_and_third_derivatives_are_torchs() -> None:
    x, scale = images(2, 5, 3, 4), torch.rand(2, 5, 1, 1)

    def derivatives(call: Call) -> list[Tensor]:
        operands = leaf(x), leaf(scale)
        found: list[Tensor] = []
        value = call(*operands).sin().sum()
        for _ in range(3):
            terms = torch.autograd.grad(value, operands, create_graph=True)
            found += terms
            value = sum(term.square().sum() for term in terms)  # type: ignore[assignment]
        return found

    ours, theirs = derivatives(blocks.channel_product), derivatives(torch.mul)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_transforms_of_products_are_torchs() -> None:
    x, scale = images(2, 5, 3, 4), torch.rand(2, 5, 1, 1)
    gy = torch.randn(3, 2, 5, 3, 4)

    def batched(call: Call) -> Any:
        operands = leaf(x), leaf(scale)
        return torch.autograd.grad(call(*operands), operands, gy, is_grads_batched=True)

    def by_functions(call: Call) -> Any:
        return torch.func.grad(lambda x, s: call(x, s).sin().sum(), argnums=(0, 1))(x, scale)

    def forward(call: Call) -> Any:
        return torch.func.jvp(call, (x, scale), (x.cos(), scale.cos()))

    def over_images(call: Call) -> Any:
        return torch.func.vmap(lambda x, s: call(x[None], s[None]))(x, scale)

    for transform in (batched, by_functions, forward, over_images):
        torch.testing.assert_close(transform(blocks.channel_product), transform(torch.mul))


def test_gradients_that_others_hold_are_not_overwritten() -> None:
    x, scale, gy = leaf(images(2, 5, 3, 4)), leaf(torch.rand(2, 5, 1, 1)), images(2, 5, 3, 4)
    before = gy.clone()
    y = blocks.channel_product(x, scale)
    y.backward(gy, retain_graph=True)
    assert torch.equal(gy, before)
    y.retain_grad()
    seen: list[Tensor] = []
    y.register_hook(seen.append)
    (y * 1).backward(gy)
    assert y.grad is not None
    assert torch.equal(y.grad, before)
    assert torch.equal(seen[0], before)

    # The sum hands one gradient to both products, and a view of it to a third user.
    other, third = leaf(images(2, 5, 3, 4)), leaf(images(2, 5, 3, 4))
    sums = []
    for call in (blocks.channel_product, torch.mul):
        operands = leaf(x), leaf(other), leaf(third), leaf(scale)
        total = call(operands[0], operands[3]) + call(operands[1], operands[3]) + operands[2]
        sums.append(torch.autograd.grad((total * 1).sin().sum(), operands))
    torch.testing.assert_close(sums[0], sums[1])


def test_a_gradient_that_nobody_holds_becomes_the_gradient_of_the_images() -> None:
    y = blocks.channel_product(leaf(images(2, 16, 30, 30)), torch.rand(2, 16, 1, 1)) * 2
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        y.backward(images(2, 16, 30, 30))
    (event,) = (e for e in profiled.events() if e.name == "convkern::channel_product_backward")
    assert event.cpu_memory_usage < y.nbytes / 2


@pytest.mark.parametrize("expanded", [False, True])
def test_gradients_of_other_strides(expanded: bool) -> None:
    x, scale = images(2, 5, 3, 4), torch.rand(2, 5, 1, 1)
    gy = torch.randn(2, 5, 1, 1).expand(2, 5, 3, 4) if expanded else torch.randn(2, 5, 4, 3).mT
    ours = gradients(blocks.channel_product, x, scale, gy)
    torch.testing.assert_close(ours, gradients(torch.mul, x, scale, gy))


def test_results_that_are_used_twice_viewed_and_changed() -> None:
    def twice(y: Tensor) -> Tensor:
        return y.sin() + y * 2

    def viewed(y: Tensor) -> Tensor:
        return y.permute(0, 2, 3, 1).reshape(-1)[3:].exp()

    def changed(y: Tensor) -> Tensor:
        y[:, :2] *= 3
        return y.add_(1).relu_()

    def part_changed(y: Tensor) -> Tensor:
        y.view(-1 if y.is_contiguous() else y.shape).mul_(2)
        return y

    x, scale, gy = images(2, 5, 3, 4), torch.rand(2, 5, 1, 1), torch.randn(2 * 5 * 3 * 4)
    for use in (twice, viewed, changed, part_changed):
        results = []
        for call in (blocks.channel_product, torch.mul):
            operands = leaf(x), leaf(scale)
            y = use(call(*operands))
            results.append(torch.autograd.grad(y, operands, gy[-y.numel() :].view(y.shape)))
        torch.testing.assert_close(results[0], results[1])


def test_errors_of_autograd_are_raised() -> None:
    for changed in (0, 1):
        operands = leaf(images(2, 5, 3, 4)), leaf(torch.rand(2, 5, 1, 1))
        y = blocks.channel_product(*operands)
        with torch.no_grad():
            operands[changed].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    y = blocks.channel_product(leaf(images(2, 5, 3, 4)), torch.rand(2, 5, 1, 1))
    y.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


def clone_rows_first(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_hooks_of_saved_tensors_may_return_other_strides(layout: torch.memory_format) -> None:
    """torch asks them to keep value, size, dtype and device only."""
    x = torch.randn(2, 5, 3, 4).contiguous(memory_format=layout)
    gy, weight = torch.randn(2, 5, 3, 4), torch.rand(5)
    scale = torch.rand(2, 5, 1, 1)

    def product(native: bool) -> list[Tensor]:
        return gradients(blocks.channel_product if native else torch.mul, x, scale, gy)

    def norm(native: bool) -> list[Tensor]:
        def call(x: Tensor, w: Tensor) -> Tensor:
            if native:
                y: Tensor = blocks.batch_norm(x, None, None, w, w, True, 0.1, 1e-5, "relu", None,
                                              False, True)  # fmt: skip
            else:
                y = F.relu(F.batch_norm(x, None, None, w, w, True))
            return (convkern.conv2d if native else F.conv2d)(y, kernel)

        return gradients(call, x, weight, gy)

    kernel = torch.randn(5, 5, 1, 1)
    changes: list[tuple[Any, Any]] = [
        (clone_rows_first, lambda t: t),
        (lambda t: t.clone(memory_format=torch.channels_last) if t.dim() == 4 else t, lambda t: t),
        (lambda t: t.repeat_interleave(2, -1), lambda t: t[..., ::2]),
    ]
    for call in (product, norm):
        expected = call(False)
        for pack, unpack in changes:
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                found = call(True)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 17, 14, 14), (1, 256, 28, 28), (4, 1, 50, 51)], ids=str)
def test_products_are_the_same_for_any_number_of_threads(shape: tuple[int, ...]) -> None:
    x, scale, gy = images(*shape), torch.rand(*shape[:2], 1, 1), images(*shape)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found.append(gradients(blocks.channel_product, x, scale, gy))
        finally:
            torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_numbers_that_are_not_finite_stay_in_their_channel() -> None:
    x, scale, gy = images(2, 5, 3, 4), torch.rand(2, 5, 1, 1), images(2, 5, 3, 4)
    x[0, 1, 2, 3], scale[1, 2], gy[1, 4, 0, 0] = torch.inf, torch.nan, -torch.inf
    ours = gradients(blocks.channel_product, x, scale, gy)
    torch.testing.assert_close(ours, gradients(torch.mul, x, scale, gy), equal_nan=True)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 17, 1, 9), (2, 64, 30, 30)])
def test_means_of_pixels_are_those_of_float64(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    for dtype in (torch.float32, torch.float64):
        x = leaf(torch.randn(shape, dtype=dtype).contiguous(memory_format=layout))
        y = blocks.mean_of_pixels(x)
        assert (y.shape, y.dtype) == ((*shape[:2], 1, 1), dtype)
        exact = x.double().mean((2, 3), keepdim=True)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(y.double(), exact, rtol=0, atol=tolerance)
        gy = torch.randn_like(y)
        y.backward(gy)
        expected = (gy / (shape[2] * shape[3])).expand(shape)
        torch.testing.assert_close(x.grad, expected, rtol=tolerance, atol=0)


def test_derivatives_of_means_of_pixels() -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor) -> Tensor:
        return blocks.mean_of_pixels(x).sin()

    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)
    torch.testing.assert_close(
        torch.func.vmap(blocks.mean_of_pixels)(x[None].detach())[0], x.mean((2, 3), keepdim=True)
    )
