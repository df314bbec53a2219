"""Activations and residuals of conv2d: derivatives of every mode, vmap and autocast."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwad
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

import convkern
from activations import ACTIVATIONS
from convkern import _C
from convkern.activations import _FUNCTIONS, activated
from op_calls import Count

pytestmark = pytest.mark.filterwarnings(
    "ignore:convkern. the slow reference kernel",
    "error:There is a performance drop",
)
ALL = [None, *ACTIVATIONS]
WINDOW = (2, 1)


def tensors(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Returns x, w, b and a residual for the window."""
    sizes = [(2, 2, 5, 5), (3, 2, 3, 3), (3,), (2, 3, 3, 3)]
    return [torch.randn(size, dtype=torch.float64).to(dtype) for size in sizes]


def by_torch(x, w, b, residual, activation: str | None, *window: Any) -> Tensor:
    y = F.conv2d(x, w, b, *window)
    return activated(y if residual is None else y + residual, activation)


def test_all_activations_are_tested() -> None:
    with pytest.raises(ValueError, match="activation must be None, ") as error:
        _C.check_activation("")
    names = re.findall(r"'(\w+)", str(error.value))
    assert names == [activation.partition("(")[0] for activation in ACTIVATIONS]
    assert names == [*_FUNCTIONS]


# ------------------------------------------------------------------------------------------------
# Derivatives


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ALL)
def test_every_mode_of_differentiation(activation: str | None, with_residual: bool) -> None:
    inputs = [t.requires_grad_() for t in tensors()[: 4 if with_residual else 3]]

    def conv(x, w, b, residual=None):
        return convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=residual)

    assert gradcheck(
        conv, inputs, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    if activation == "hardsigmoid":  # torch has no second derivative of it
        with pytest.raises(RuntimeError, match="hardsigmoid_backward is not implemented"):
            gradgradcheck(conv, inputs)
        return
    assert gradgradcheck(conv, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("wanted", [w for w in itertools.product((0, 1), repeat=4) if any(w)])
@pytest.mark.parametrize("activation", [None, "relu", "hardswish"])
def test_gradients_of_some_operands(activation: str | None, wanted: tuple[int, ...]) -> None:
    """Each result has the gradients of torch, and its memory format."""
    for layout in (torch.contiguous_format, torch.channels_last):
        found = []
        for conv in (convkern.conv2d, None):
            torch.manual_seed(1)
            leaves = tensors(torch.float32)
            leaves[0] = leaves[0].contiguous(memory_format=layout)
            for leaf, one in zip(leaves, wanted, strict=True):
                leaf.requires_grad_(bool(one))
            x, w, b, z = leaves
            if conv is None:
                y = by_torch(x, w, b, z, activation, *WINDOW)
            else:
                y = conv(x, w, b, *WINDOW, activation=activation, residual=z)
            gradients = torch.autograd.grad(y.sin().sum(), [t for t in leaves if t.requires_grad])
            found.append([y.detach(), *gradients])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            assert ours.stride() == theirs.stride()


def test_only_what_backward_needs_is_saved() -> None:
    def saved(*wanted: int, activation: str | None) -> list[tuple[int, ...]]:
        sizes: list[tuple[int, ...]] = []

        def pack(t: Tensor) -> Tensor:
            sizes.append(tuple(t.shape))
            return t

        x, w, b, z = (t.requires_grad_(i in wanted) for i, t in enumerate(tensors()))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=z)
        return sorted(sizes)

    y = (2, 3, 3, 3)
    assert saved(3, activation=None) == []  # the gradient of a residual is that of the result
    assert saved(3, activation="relu") == [y]
    assert saved(0, 3, activation="relu") == sorted([y, (3, 2, 3, 3)])
    assert saved(3, activation="silu") == [y]


@pytest.mark.parametrize("activation", ALL)
def test_one_call_computes_all_that_derivatives_allow(activation: str | None) -> None:
    x, w, b, z = tensors()
    for leaf in (x, z):
        leaf.requires_grad_()
        with Count() as count, torch.no_grad():
            y = convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=z)
        assert sum(count.of_convkern.values()) == 1
        assert list(count.calls) == ["convkern::conv2d"]
        with Count() as count:
            wanted = convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=z)
        assert sum(count.of_convkern.values()) == 1
        others = {op for op in count.calls if op not in ("convkern::conv2d", "aten::detach")}
        assert len(others) == (0 if activation in (None, "relu") else 1)  # torch's activation
        torch.testing.assert_close(y, wanted)
        leaf.requires_grad_(False)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_tangents_are_tensors_of_their_own(activation: str | None) -> None:
    """Changing the result in place must not change the tangent of an operand."""
    x, w, b, z = tensors()
    tangents = [torch.randn_like(t) for t in (z, b)]
    before = [t.clone() for t in tangents]
    for which in ((0,), (1,), (0, 1)):
        with fwad.dual_level():
            given = [
                fwad.make_dual(t, tangents[i]) if i in which else t for i, t in enumerate((z, b))
            ]
            y = convkern.conv2d(x, w, given[1], *WINDOW, activation=activation, residual=given[0])
            expected = 2 * fwad.unpack_dual(y).tangent
            y.mul_(2)
            torch.testing.assert_close(fwad.unpack_dual(y).tangent, expected)
        for tangent, old in zip(tangents, before, strict=True):
            assert torch.equal(tangent, old)


def test_a_residual_changed_before_backward() -> None:
    """The residual itself is not needed, so it may change. The result is, with ReLU."""
    x, w, b, z = (t.requires_grad_() for t in tensors())
    y = convkern.conv2d(x, w, b, *WINDOW, activation="relu", residual=z)
    with torch.no_grad():
        z.zero_()
    y.sum().backward()
    assert torch.equal(z.grad, (y > 0).to(z.dtype))
    y = convkern.conv2d(x, w, b, *WINDOW, activation="relu", residual=z)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# ------------------------------------------------------------------------------------------------
# vmap and autocast

V = 3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize(
    "in_dims",
    [d for d in itertools.product((None, 0), repeat=4) if any(i == 0 for i in d)],
    ids=str,
)
def test_vmap(in_dims: tuple[int | None, ...], activation: str | None, groups: int) -> None:
    sizes = [(2, 4, 5, 6), (6, 4 // groups, 3, 3), (6,), (2, 6, 5, 6)]
    given = [
        torch.randn(size if dim is None else (V, *size), dtype=torch.float64)
        for size, dim in zip(sizes, in_dims, strict=True)
    ]

    def conv(x, w, b, residual):
        return convkern.conv2d(
            x, w, b, padding=1, groups=groups, activation=activation, residual=residual
        )

    with Count() as count:
        result = vmap(conv, in_dims)(*given)
    assert sum(count.of_convkern.values()) == 1
    of_each = [
        conv(*(t if d is None else t[i] for t, d in zip(given, in_dims, strict=True)))
        for i in range(V)
    ]
    torch.testing.assert_close(result, torch.stack(of_each))


@pytest.mark.parametrize("out_dim", [1, -1])
def test_vmap_of_a_residual_with_its_batch_elsewhere(out_dim: int) -> None:
    x, w, b, z = tensors()
    many = torch.stack([z, 2 * z, -z], out_dim)
    result = vmap(
        lambda z: convkern.conv2d(x, w, b, *WINDOW, activation="sigmoid", residual=z), out_dim
    )(many)
    expected = [by_torch(x, w, b, many.select(out_dim, i), "sigmoid", *WINDOW) for i in range(V)]
    torch.testing.assert_close(result, torch.stack(expected))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_transforms_of_the_residual(activation: str) -> None:
    x, w, b, z = tensors()

    def ours(x, w, b, z):
        return convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=z).sin().sum()

    def theirs(x, w, b, z):
        return by_torch(x, w, b, z, activation, *WINDOW).sin().sum()

    operands, all_four = (x, w, b, z), (0, 1, 2, 3)
    shifted = tuple(t + 1 for t in operands)

    def results(function):
        return [
            grad(function, all_four)(*operands),
            jvp(function, operands, shifted),
            vmap(grad(function, 3), (None, None, None, 0))(x, w, b, torch.stack([z, -z])),
            jvp(grad(function, all_four), operands, shifted),
        ]

    torch.testing.assert_close(results(ours), results(theirs))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ALL)
def test_autocast(activation: str | None, low: torch.dtype) -> None:
    given = tensors(torch.float32)
    x, w, b, z = given
    cast = [t.to(low) for t in given]
    expected = convkern.conv2d(*cast[:3], *WINDOW, activation=activation, residual=cast[3])
    for residual in (z, cast[3]):
        with torch.autocast("cpu", low):
            y = convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=residual)
        assert y.dtype == low
        assert torch.equal(y, expected)
    leaves = [t.requires_grad_() for t in given]
    with torch.autocast("cpu", low):
        y = convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=z)
    gradients = torch.autograd.grad(y.float().sum(), leaves)
    exact = by_torch(*(t.double() for t in leaves), activation, *WINDOW)
    near = {"rtol": 0.1, "atol": 32 * torch.finfo(low).eps}
    torch.testing.assert_close(y.double(), exact, **near)
    assert [g.dtype for g in gradients] == [torch.float32] * 4
    assert torch.equal(gradients[3].to(low).float(), gradients[3])  # it was rounded on the way
