"""The derivatives of the native batch normalisation, as autograd asks for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from batch_norms import ACTIVATIONS, BOUNDS, FORMATS, doubles, native, theirs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_derivatives_of_two_orders(training: bool, twice: bool, residual: bool) -> None:
    mean, var = doubles(2).detach(), torch.rand(2, dtype=torch.float64) + 0.5
    operands = doubles(2, 2, 2, 3), doubles(2), doubles(2), doubles(2, 2, 2, 3)
    for activation in BOUNDS if residual else ACTIVATIONS:

        def call(
            x: Tensor, w: Tensor, b: Tensor, z: Tensor, activation: str | None = activation
        ) -> Any:
            y = native(x, mean, var, w, b, training, 0.0, 1e-5, activation,
                       z if residual else None, twice, False)  # fmt: skip
            return y[0].sin() * y[1] if twice else y

        inputs = operands if residual else (*operands[:3], operands[3].detach())
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("wanted", range(1, 16))
def test_gradients_of_some_operands(wanted: int) -> None:
    for residual in (False, True):
        for training in (False, True):
            operands = [doubles(2, 3, 2, 3), doubles(3), doubles(3)]
            if residual:
                operands.append(doubles(2, 3, 2, 3))
            for place, t in enumerate(operands):
                t.requires_grad_(bool(wanted >> place & 1))
            if not any(t.requires_grad for t in operands):
                continue
            first, second = [], []
            for call in (native, theirs):
                z = operands[3] if residual else None
                y = call(operands[0], torch.zeros(3).double(), torch.ones(3).double(), operands[1],
                         operands[2], training, 0.1, 1e-5, "relu", z, False, False)  # fmt: skip
                leaves = [t for t in operands if t.requires_grad]
                g = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
                first.append([t.detach() for t in g])
                (sum(t.square().sum() for t in g)).backward()  # type: ignore[union-attr]
                second.append([t.grad for t in leaves])
                for t in leaves:
                    t.grad = None
            torch.testing.assert_close(first[0], first[1])
            torch.testing.assert_close(second[0], second[1])


def test_frozen_weights_or_inputs_pass_gradgradcheck() -> None:
    x, w, b = doubles(2, 2, 2, 2), doubles(2), doubles(2)
    for frozen in (x, w, b):
        frozen.requires_grad_(False)

        def call(x: Tensor, w: Tensor, b: Tensor) -> Any:
            return native(x, None, None, w, b, True, 0.1, 1e-5, "silu", None, False, False)

        assert torch.autograd.gradgradcheck(call, (x, w, b))
        frozen.requires_grad_()


def test_second_derivatives_where_operands_depend_on_each_other() -> None:
    """The input may be a function of the same weight, or the weight one of the input."""
    results = []
    for call in (native, theirs):
        torch.manual_seed(1)
        x, w, b, c = doubles(2, 3, 4, 4), doubles(3), doubles(3), doubles(2, 3, 4, 4).detach()

        def layer(v: Tensor, w: Tensor, b: Tensor = b, call: Any = call) -> Tensor:
            return call(v, None, None, w, b, True, 0.1, 1e-5, "silu", None, False, False)

        y = layer(layer(x, w).sin(), w)
        y = layer(y, y.mean((0, 2, 3)))
        g = torch.autograd.grad((y * c).sum(), (x, w, b), create_graph=True)
        gg = torch.autograd.grad(sum(t.square().sum() for t in g), (x, w, b))
        results.append((g, gg))
    torch.testing.assert_close(results[0], results[1])


def test_gradients_accumulate_over_calls() -> None:
    results = []
    for call in (native, theirs):
        torch.manual_seed(1)
        w, b = doubles(3), doubles(3)
        for _ in range(3):
            x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
            y = call(x, None, None, w, b, True, 0.1, 1e-5, "relu", None, False, False)
            y.square().sum().backward()
        results.append((w.grad, b.grad))
    torch.testing.assert_close(results[0], results[1])


def test_without_gradients() -> None:
    x, w = torch.randn(2, 3, 4, 4), torch.randn(3, requires_grad=True)
    arguments = (x, None, None, w, None, True, 0.1, 1e-5, "relu", x)
    with torch.no_grad():
        a, b = native(*arguments, True, True)
        assert not a.requires_grad
        assert torch.equal(a, b)
        torch.testing.assert_close(a, theirs(*arguments))
    with torch.inference_mode():
        torch.testing.assert_close(native(*arguments, False, False), theirs(*arguments))
    y = native(x, None, None, None, None, True, 0.1, 1e-5, None, None, False, False)
    assert y.grad_fn is None


def test_the_graph_is_kept_or_freed_as_asked() -> None:
    for residual in (None, torch.randn(2, 3, 4, 4)):
        x, w = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(3, requires_grad=True)
        y = native(x, None, None, w, None, True, 0.1, 1e-5, "relu", residual, False, False)
        loss = y.square().sum()
        first = torch.autograd.grad(loss, (x, w), retain_graph=True)
        second = torch.autograd.grad(loss, (x, w))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()


def test_changed_operands_are_noticed() -> None:
    for place in (0, 1):
        x, w = torch.randn(2, 3, 4, 4), torch.randn(3)
        operands = [x, w]
        leaf = torch.randn(2, 3, 4, 4, requires_grad=True)
        operands[0] = operands[0] + leaf
        y = native(operands[0], None, None, w, None, True, 0.1, 1e-5, "silu", None, False, False)
        with torch.no_grad():
            operands[place].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_running_statistics_may_change_before_the_backward_pass() -> None:
    mean, var, w = torch.zeros(3), torch.ones(3), torch.ones(3, requires_grad=True)
    x = torch.randn(2, 3, 4, 4)
    y = native(x, mean, var, w, None, False, 0.1, 1e-5, None, None, False, False)
    native(x + 5, mean, var, w, None, True, 0.1, 1e-5, None, None, False, False)
    (gradient,) = torch.autograd.grad(y, w, torch.ones_like(y))
    torch.testing.assert_close(gradient, x.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_that_someone_else_holds_are_not_overwritten(
    layout: torch.memory_format,
) -> None:
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=layout).requires_grad_()
    gy = torch.randn(2, 3, 4, 4).contiguous(memory_format=layout)
    before = gy.clone()

    def result() -> Tensor:
        return native(x, None, None, None, None, True, 0.1, 1e-5, "relu", None, False, False)

    expected = torch.autograd.grad(result(), x, gy)[0]
    assert torch.equal(gy, before)

    held = []
    y = result()
    y.register_hook(held.append)
    assert torch.equal(torch.autograd.grad((y * before).sum(), x)[0], expected)
    assert torch.equal(held[0], before)

    y = result()
    y.retain_grad()
    (y * before).sum().backward()
    assert y.grad is not None
    assert torch.equal(y.grad, before)

    y = result()
    of_y, of_x = torch.autograd.grad((y * before).sum(), (y, x))
    assert torch.equal(of_y, before)
    assert torch.equal(of_x, expected)

    y = result()
    z = y + 0.0  # passes its gradient on as it is
    of_z, of_x = torch.autograd.grad((z * before).sum(), (z, x))
    assert torch.equal(of_z, before)
    assert torch.equal(of_x, expected)

    y = result()
    buffer = before.clone()
    y.register_hook(lambda _: buffer[:])  # a view
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)
    assert torch.equal(buffer, before)

    y = result()
    y.grad_fn.register_prehook(lambda gradients: held.append(gradients[0]))
    torch.autograd.grad((y * before).sum(), x)
    assert torch.equal(held[1], before)


def test_the_residuals_gradient_is_not_overwritten() -> None:
    """Without an activation it is the gradient of the result itself."""
    for twice in (False, True):
        x, z = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
        y = native(x, None, None, None, None, True, 0.1, 1e-5, None, z, twice, False)
        c = torch.randn(2, 3, 4, 4)
        ((y[1] if twice else y) * c).sum().backward()
        assert z.grad is not None
        assert torch.equal(z.grad, c)


def test_gradients_of_any_strides() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    for gy in (
        torch.randn(1, 1, 1, 1).expand(2, 3, 4, 4),
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(2, 3, 4, 8)[..., ::2],
    ):
        results = []
        for call in (native, theirs):
            y = call(x, None, None, None, None, True, 0.1, 1e-5, "silu", None, True, False)
            both = torch.autograd.grad(y, x, [gy, gy])[0]
            results.append((torch.autograd.grad(call(
                x, None, None, None, None, True, 0.1, 1e-5, "silu"
                , None, False, False), x, gy)[0], both))  # fmt: skip
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_batched_gradients() -> None:
    for residual in (None, doubles(2, 3, 2, 2)):
        x, w = doubles(2, 3, 2, 2), doubles(3)
        gy = torch.randn(5, 2, 3, 2, 2, dtype=torch.float64)
        results = []
        for call in (native, theirs):
            y = call(x, None, None, w, None, True, 0.1, 1e-5, "relu", residual, False, False)
            results.append(torch.autograd.grad(y, (x, w), gy, is_grads_batched=True))
        torch.testing.assert_close(results[0], results[1])
