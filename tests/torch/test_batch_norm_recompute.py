"""Results of batch norms that convolutions do not save, but compute again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import convkern
from batch_norms import ACTIVATIONS, native


class Recomputing:
    """A convolution of a result that is computed again for the backward pass, or saved."""

    def __init__(self, training: bool = True) -> None:
        torch.manual_seed(1)
        self.x = torch.randn(2, 4, 6, 6, requires_grad=True)
        self.w, self.b = (torch.randn(4, requires_grad=True) for _ in range(2))
        self.filters = torch.randn(5, 4, 3, 3, requires_grad=True)
        self.mean, self.var, self.training = torch.zeros(4), torch.ones(4), training

    def inner(self, recompute: bool, activation: str | None = "silu") -> Tensor:
        y: Tensor = native(self.x, self.mean, self.var, self.w, self.b, self.training, 0.1, 1e-5,
                           activation, None, False, recompute)  # fmt: skip
        return y

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.x, self.w, self.b, self.filters


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_recomputed_results_give_the_same_bits(training: bool, activation: str | None) -> None:
    results = []
    for recompute in (False, True):
        case = Recomputing(training)
        loss = convkern.conv2d(case.inner(recompute, activation), case.filters).square().sum()
        first = torch.autograd.grad(loss, case.leaves, retain_graph=True)
        second = torch.autograd.grad(loss, case.leaves)
        results.append((*first, *second))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_recomputed_results_are_not_saved() -> None:
    saved: list[list[Tensor]] = []
    for recompute in (False, True):
        case, found = Recomputing(), []

        def pack(t: Tensor, found: list[Tensor] = found) -> Tensor:
            found.append(t)
            return t

        y = case.inner(recompute)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            convkern.conv2d(y, case.filters)
        saved.append(found)
    assert len(saved[0]) == 2
    assert len(saved[1]) == 1
    assert saved[1][0].shape == (5, 4, 3, 3)


def test_derivatives_through_recomputed_results() -> None:
    results = []
    for recompute in (False, True):
        case = Recomputing()
        y = convkern.conv2d(case.inner(recompute), case.filters)
        g = torch.autograd.grad(y.square().sum(), case.leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(t.square().sum() for t in g), case.leaves))
    torch.testing.assert_close(results[0], results[1])


def test_recomputed_results_of_a_freed_graph_raise_torchs_error() -> None:
    case = Recomputing()
    y = convkern.conv2d(case.inner(True), case.filters).sum()
    y.backward()
    for leaves in (case.filters, case.x):
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(y, leaves)
    case = Recomputing()  # only the convolution is freed
    y = convkern.conv2d(case.inner(True), case.filters).sum()
    torch.autograd.grad(y, case.filters)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y, case.filters)


def test_results_that_are_changed_in_place_are_not_recomputed_as_they_were() -> None:
    results = []
    for recompute in (False, True):
        case = Recomputing()
        y = case.inner(recompute)
        with torch.no_grad():
            y.mul_(2)  # before it is used: what the convolution has seen counts
        first = torch.autograd.grad(convkern.conv2d(y, case.filters).square().sum(), case.filters)
        y = case.inner(recompute) * 1
        y.mul_(3)
        second = torch.autograd.grad(convkern.conv2d(y, case.filters).square().sum(), case.leaves)
        y = case.inner(recompute)
        y.mul_(3)
        third = torch.autograd.grad(convkern.conv2d(y, case.filters).square().sum(), case.leaves)
        results.append((*first, *second, *third))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_recomputed_results_that_are_changed_after_their_use_give_the_right_gradient() -> None:
    case = Recomputing()
    expected = torch.autograd.grad(
        convkern.conv2d(case.inner(False), case.filters).square().sum(), case.filters
    )
    y = case.inner(True)
    z = convkern.conv2d(y, case.filters)
    y.mul_(2)
    actual = torch.autograd.grad(z.square().sum(), case.filters)
    assert torch.equal(actual[0], expected[0])


def test_a_changed_input_of_a_recomputed_result_is_noticed() -> None:
    case = Recomputing()
    case.x = case.x * 1
    z = convkern.conv2d(case.inner(True), case.filters)
    with torch.no_grad():
        case.x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(z.sum(), case.filters)


def test_recomputing_holds_less_memory() -> None:
    """Nothing but the batch norm's input is alive once the result is out of scope."""
    case = Recomputing()
    y = case.inner(True)
    weak = torch.multiprocessing.reductions.StorageWeakRef(y.untyped_storage())
    z = convkern.conv2d(y, case.filters)
    del y
    assert weak.expired()
    z.sum().backward()
