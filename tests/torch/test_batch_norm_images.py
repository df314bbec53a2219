"""The backward pass of a batch norm with two users, one of whose gradients is the same in all
pixels, as that of a mean over the pixels is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import convkern
from batch_norms import (
    ACTIVATIONS,
    BOUNDS,
    DTYPES,
    FORMATS,
    ISAS,
    Case,
    assert_as_accurate,
    native,
    theirs,
)
from convkern.choices import Isa

SIZES = [(1, 1), (5, 7), (14, 14)]


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 17, 24, 256])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_are_as_accurate_as_torchs(
    channels: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    for batch in (1, 3):
        if batch * size[0] * size[1] == 1:
            continue  # has no variance: torch raises an error
        for same in ((0,), (1,), (0, 1)):
            case = Case((batch, channels, *size), torch.float32, layout, same=same)
            assert_as_accurate(case, "hardswish", "both")


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_activation_and_dtype(isa: Isa, layout: torch.memory_format) -> None:
    for dtype in DTYPES:
        for activation in ACTIVATIONS:
            with convkern.use_isa(isa):
                case = Case((3, 17, 5, 7), dtype, layout, same=[0])
                assert_as_accurate(case, activation, "both")


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_residuals_and_given_statistics(training: bool, layout: torch.memory_format) -> None:
    for same in ((0,), (1,), (0, 1)):
        for residual in (False, True):
            for activation in BOUNDS if residual else ACTIVATIONS:
                for gradients in ("first", "second", "both"):
                    affine = activation != "relu6"
                    case = Case((3, 24, 5, 7), torch.float32, layout, residual=residual,
                                training=training, affine=affine, same=same)  # fmt: skip
                    assert_as_accurate(case, activation, gradients)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(3, 17, 14, 14), (5, 24, 40, 40), (1, 256, 14, 14)], ids=str)
def test_any_number_of_threads_gives_the_same(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    case, before, found = Case(shape, torch.float32, layout, same=[1]), torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found.append(case.run(native, "silu", torch.float32, "both"))
        finally:
            torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("wanted", range(1, 8))
def test_gradients_of_some_operands(wanted: int, layout: torch.memory_format) -> None:
    case = Case((3, 17, 5, 7), torch.float64, layout)
    gy = [case.gy[0], case.gy[1][:, :, :1, :1].expand(case.x.shape)]
    assert case.weight is not None
    assert case.bias is not None
    found = []
    for call in (native, theirs):
        operands = [t.clone() for t in (case.x, case.weight, case.bias)]
        leaves = [t.requires_grad_() for i, t in enumerate(operands) if wanted >> i & 1]
        x, weight, bias = operands
        y = call(x, None, None, weight, bias, True, 0.1, 1e-5, "relu", None, True, False)
        found.append(torch.autograd.grad(list(y), leaves, gy))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("place", [0, 1])
def test_a_gradient_that_is_held_is_not_overwritten(
    place: int, layout: torch.memory_format
) -> None:
    case = Case((2, 8, 3, 4), torch.float32, layout, same=[place])
    x = case.x.float().requires_grad_()
    y = native(x, None, None, None, None, True, 0.1, 1e-5, "relu", None, True, False)
    gy = [g.float().contiguous(memory_format=layout) for g in case.gy]
    gy[place] = case.gy[place][:, :, :1, :1].float().expand(case.x.shape)
    before = [g.clone() for g in gy]
    first = torch.autograd.grad(list(y), x, gy, retain_graph=True)
    second = torch.autograd.grad(list(y), x, gy)
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, gy, before))


def part(g: Tensor) -> Tensor:
    return g[:, :, :1].expand(g.shape)


def test_gradients_that_are_the_same_along_one_axis_only() -> None:
    for layout in FORMATS:
        case = Case((2, 8, 3, 4), torch.float64, layout)
        for gy in ([case.gy[0], part(case.gy[1])], [part(case.gy[0].mT).mT, case.gy[1]],
                   [case.gy[0][:1].expand(case.x.shape), case.gy[1][:, :1].expand(case.x.shape)],
                   [case.gy[0], case.gy[1].new_ones(()).expand(case.x.shape)]):  # fmt: skip
            found = []
            for call in (native, theirs):
                x = case.x.clone().requires_grad_()
                y = call(x, None, None, None, None, True, 0.1, 1e-5, "silu", None, True, False)
                found.append(torch.autograd.grad(list(y), x, gy)[0])
            torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_the_slopes_at_the_ends_of_pieces_are_torchs(isa: Isa, dtype: torch.dtype) -> None:
    """A batch norm whose weight is zero gives its bias everywhere, as at the start of training."""
    for activation in ACTIVATIONS:
        for point in (-3.0, -1.0, 0.0, 2.0, 3.0, 6.0):
            found = []
            for call in (native, theirs):
                small = torch.float64 if dtype == torch.float64 else torch.float32
                weight = torch.zeros(2, dtype=small)
                bias = torch.full((2,), point, dtype=small, requires_grad=True)
                x = torch.arange(2 * 37, dtype=dtype).view(1, 2, 1, 37)
                with convkern.use_isa(isa):
                    y = call(x, None, None, weight, bias, True, 0.1, 1e-5, activation, None, False,
                             False)  # fmt: skip
                    found.append(torch.autograd.grad(y, bias, torch.ones_like(y))[0])
            tolerance = 1e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-5
            torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)
