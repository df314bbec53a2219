"""The native passes of batch normalisation with activation and residual, against torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

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

# (N, C, H, W): channels around vectors of 4, 8 and 16 numbers; one pixel, planes that are whole
# vectors or not, and several blocks of 64 vectors. In channels_last there are rows of many pixels,
# and last rows that are not whole.
SHAPES = [
    (5, 1, 5, 7),
    (2, 3, 8, 8),
    (3, 15, 5, 7),
    (33, 16, 1, 1),
    (2, 17, 8, 8),
    (1, 24, 40, 40),
    (3, 255, 1, 1),
    (2, 300, 5, 7),
    (4, 3, 40, 40),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_as_accurate_as_torchs(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    for activation in ACTIVATIONS:
        assert_as_accurate(Case(shape, dtype, layout), activation)
    for activation in BOUNDS:
        assert_as_accurate(Case(shape, dtype, layout, residual=True), activation)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_every_instruction_set(isa: Isa, dtype: torch.dtype, layout: torch.memory_format) -> None:
    for shape in [(2, 3, 5, 7), (2, 17, 8, 8), (3, 40, 1, 1)]:
        for residual in (False, True):
            for activation in BOUNDS if residual else ACTIVATIONS:
                with convkern.use_isa(isa):
                    case = Case(shape, dtype, layout, residual=residual)
                    assert_as_accurate(case, activation, "both")


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_two_gradients_and_given_statistics(
    layout: torch.memory_format, affine: bool, training: bool, residual: bool
) -> None:
    for dtype in DTYPES:
        for activation in BOUNDS if residual else ACTIVATIONS:
            for gradients in ("first", "second", "both"):
                case = Case((3, 17, 5, 7), dtype, layout, residual=residual, affine=affine,
                            training=training)  # fmt: skip
                assert_as_accurate(case, activation, gradients)


def test_a_forward_pass_of_one_instruction_set_has_a_backward_pass_of_the_same() -> None:
    """The bits that tell where the slope is 1 are of the vectors of the forward pass."""
    x = torch.randn(2, 5, 5, 7, requires_grad=True)
    z = torch.randn(2, 5, 5, 7)
    gradients = []
    for isa in ISAS:
        with convkern.use_isa(isa):
            y = native(x, None, None, None, None, True, 0.1, 1e-5, "relu", z, False, False)
        gradients.append(torch.autograd.grad(y, x, torch.ones_like(y))[0])
    for gradient in gradients:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["large mean", "outliers in the first pixel of each image"])
def test_the_variance_does_not_cancel(layout: torch.memory_format, isa: Isa, kind: str) -> None:
    x = torch.randn(16, 20, 28, 28, dtype=torch.float64)
    if kind == "large mean":
        x = x * 0.01 + 100
    else:
        x[:, :, 0, 0] += 1000
    x32 = x.float().contiguous(memory_format=layout)
    expected = x32.double().transpose(0, 1).flatten(1).var(1)
    errors = []
    for call in (native, theirs):
        mean, var = torch.zeros(20), torch.zeros(20)
        with convkern.use_isa(isa):
            call(x32, mean, var, None, None, True, 1.0, 1e-5, None, None, False, False)
        errors.append(((var.double() - expected) / expected).abs().max().item())
    assert errors[0] <= 2 * errors[1] + 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 20, 56, 31), (700, 65, 1, 1), (1, 3, 200, 201)])
def test_any_number_of_threads_gives_the_same_bits(
    threads: None, layout: torch.memory_format, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    cases = {residual: Case(shape, dtype, layout, residual=residual) for residual in (False, True)}
    for residual, case in cases.items():
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(case.run(native, "relu6" if residual else "silu", dtype, "both"))
        for other in results[1:]:
            for name, value in results[0].items():
                assert torch.equal(value, other[name]), name


def same(a: Tensor, b: Tensor) -> bool:
    """Returns whether NaN and infinities are in the same places, and the rest is close."""
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [False, True])
def test_nan_and_infinity_go_where_torch_puts_them(
    layout: torch.memory_format, isa: Isa, dtype: torch.dtype, training: bool
) -> None:
    special = [math.nan, math.inf, -math.inf]
    more = ["leaky_relu(1.0)", "leaky_relu(-2.0)", "leaky_relu(3.0)"]
    for residual in (False, True):
        for activation in BOUNDS if residual else [*ACTIVATIONS, *more]:
            case = Case((2, 3, 8, 8), dtype, layout, residual=residual, training=training)
            for place in (case.x, case.gy[0], *([case.residual] if residual else [])):
                assert place is not None
                clean = place.clone()
                for channel, value in enumerate(special):
                    place[1, channel, 3, channel] = value
                with convkern.use_isa(isa):
                    ours = case.run(native, activation, dtype)
                peers = case.run(theirs, activation, dtype)
                # What torch makes of NaN in these depends on whether its vectors or its last
                # numbers meet it.
                unsure = activation in ("relu6", "clamp(-1.0,2.0)", "hardswish")
                has_nan = peers["y"].isnan().any(3).any(2).any(0)
                sure = torch.where(has_nan, not unsure, True).nonzero().flatten()
                for name, value in peers.items():
                    axis = 1 if value.dim() == 4 else 0
                    a, b = (t.index_select(axis, sure) for t in (ours[name], value))
                    if dtype in (torch.float32, torch.float64):
                        assert same(a, b), (activation, name)
                    else:
                        assert torch.equal(a.isfinite(), b.isfinite()), (activation, name)
                place.copy_(clean)


@pytest.mark.parametrize("position", [0, 1, 64, -1])
def test_statistics_of_infinite_inputs_are_torchs(position: int) -> None:
    x = torch.randn(2, 1, 8, 8)
    x.view(-1)[position] = math.inf
    results = []
    for call in (native, theirs):
        mean, var = torch.zeros(1), torch.ones(1)
        call(x, mean, var, None, None, True, 0.1, 1e-5, None, None, False, False)
        results.append((mean, var))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1].isnan(), results[1][1].isnan())


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics(momentum: float) -> None:
    x = torch.randn(3, 5, 4, 4) * 3 + 2
    results = []
    for call in (native, theirs):
        mean, var = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.ones(5)
        versions = mean._version, var._version
        for _ in range(2):
            call(x, mean, var, None, None, True, momentum, 1e-5, None, None, False, False)
        if call is native:
            assert mean._version > versions[0]
            assert var._version > versions[1]
        results.append((mean, var))
    torch.testing.assert_close(results[0], results[1])


def test_one_of_the_running_statistics() -> None:
    x = torch.randn(3, 5, 4, 4)
    mean, var = torch.zeros(5), torch.ones(5)
    native(x, mean, var, None, None, True, 0.1, 1e-5, None, None, False, False)
    alone = torch.zeros(5), torch.ones(5)
    native(x, alone[0], None, None, None, True, 0.1, 1e-5, None, None, False, False)
    native(x, None, alone[1], None, None, True, 0.1, 1e-5, None, None, False, False)
    assert torch.equal(mean, alone[0])
    assert torch.equal(var, alone[1])


def test_given_statistics_are_not_changed() -> None:
    mean, var = torch.randn(5), torch.rand(5)
    before = mean.clone(), var.clone()
    x = torch.randn(3, 5, 4, 4, requires_grad=True)
    native(x, mean, var, None, None, False, 0.1, 1e-5, "relu", None, False, False).sum().backward()
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])
