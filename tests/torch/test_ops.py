"""The three ops as torch sees them: schemas, fakes, autograd of every order, compilation."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import convkern
from op_calls import Count

ops = torch.ops.convkern
pytestmark = pytest.mark.filterwarnings("ignore:convkern. the slow reference kernel")

WINDOWS = [
    ([1, 1], [0, 0], [1, 1], 1),
    ([2, 1], [1, 2], [1, 2], 2),
    ([2, 2], [2, 1], [2, 2], 1),
]


def leaf(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, dtype=dtype).requires_grad_()


def samples(dtype: torch.dtype = torch.float32) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns (x, w) for every kind of memory."""
    x, w = torch.randn(3, 4, 7, 8, dtype=dtype), torch.randn(6, 4, 3, 3, dtype=dtype)
    last = torch.channels_last
    made = {
        "contiguous": (x, w),
        "channels_last": (x.to(memory_format=last), w.to(memory_format=last)),
        "sliced": (x.repeat(1, 2, 1, 2)[:, ::2, :, 1::2], w.repeat(1, 1, 2, 1)[:, :, ::2]),
        "empty": (x[:0], w),
    }
    return {k: tuple(t.detach().requires_grad_() for t in v) for k, v in made.items()}


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(kind: str, dtype: torch.dtype) -> None:
    x, w = samples(dtype)[kind]
    b = leaf(6, dtype=dtype)
    y = ops.conv2d(x, w, b, [2, 2], [1, 1])
    gy = torch.randn_like(y).requires_grad_()
    tolerance = {"rtol": 1e-2, "atol": 1e-1} if dtype == torch.bfloat16 else {}
    opcheck(ops.conv2d.default, (x, w, b, [2, 2], [1, 1]), **tolerance)
    opcheck(ops.conv2d.default, (x, w, None, [2, 2], [1, 1], [1, 1], 1, "relu"), **tolerance)
    opcheck(ops.conv2d_grad_input.default, (gy, w, list(x.shape), [2, 2], [1, 1]), **tolerance)
    opcheck(ops.conv2d_grad_weight.default, (gy, x, list(w.shape), [2, 2], [1, 1]), **tolerance)


@pytest.mark.parametrize("kind", samples())
def test_fakes_have_the_strides_of_the_results(kind: str) -> None:
    x, w = samples()[kind]
    y = ops.conv2d(x, w)
    for op, arguments in [
        (ops.conv2d, (x, w)),
        (ops.conv2d_grad_input, (y, w, list(x.shape))),
        (ops.conv2d_grad_weight, (y, x, list(w.shape))),
    ]:
        real = op(*arguments)
        fake = op(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))
        assert fake.shape == real.shape
        assert fake.stride() == real.stride()
        assert fake.dtype == real.dtype


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_every_order(window: tuple, bias: bool) -> None:
    groups = window[3]
    x = leaf(2, 4, 6, 5, dtype=torch.float64)
    w = leaf(4, 4 // groups, 3, 2, dtype=torch.float64)
    inputs = (x, w, leaf(4, dtype=torch.float64)) if bias else (x, w)

    def conv(x, w, b=None):
        return ops.conv2d(x, w, b, *window)

    assert gradcheck(conv, inputs)
    assert gradgradcheck(conv, inputs)

    def second_order(x, w):
        # A scalar of the first derivatives. Its own second derivative has the third order.
        y = conv(x, w)
        gx, gw = torch.autograd.grad(y.sin().sum(), (x, w), create_graph=True)
        return (gx.square().sum() + gw.square().sum()).unsqueeze(0)

    assert gradcheck(second_order, (x, w))
    assert gradgradcheck(second_order, (x, w))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_of_the_gradient_ops(window: tuple) -> None:
    groups = window[3]
    x = leaf(2, 4, 6, 5, dtype=torch.float64)
    w = leaf(4, 4 // groups, 3, 2, dtype=torch.float64)
    gy = torch.randn_like(ops.conv2d(x, w, None, *window)).requires_grad_()
    for op, other, size in [(ops.conv2d_grad_input, w, x), (ops.conv2d_grad_weight, x, w)]:
        arguments = (list(size.shape), *window)
        assert gradcheck(lambda a, b, op=op, tail=arguments: op(a, b, *tail), (gy, other))
        assert gradgradcheck(lambda a, b, op=op, tail=arguments: op(a, b, *tail), (gy, other))


def test_relu_gradients() -> None:
    x, w, b = leaf(2, 2, 5, 5, dtype=torch.float64), leaf(3, 2, 3, 3, dtype=torch.float64), None

    def conv(x, w):
        return ops.conv2d(x, w, b, [1, 1], [0, 0], [1, 1], 1, "relu")

    assert gradcheck(conv, (x, w))
    assert gradgradcheck(conv, (x, w))


@pytest.mark.parametrize("needs_x", [True, False])
@pytest.mark.parametrize("needs_w", [True, False])
@pytest.mark.parametrize("needs_b", [True, False])
def test_only_needed_gradients_are_computed(needs_x: bool, needs_w: bool, needs_b: bool) -> None:
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    b = torch.randn(4)
    x.requires_grad_(needs_x), w.requires_grad_(needs_w), b.requires_grad_(needs_b)
    y = ops.conv2d(x, w, b)
    assert y.requires_grad == (needs_x or needs_w or needs_b)
    with Count() as count:
        if y.requires_grad:
            y.sum().backward()
    assert count.calls["convkern::conv2d_grad_input"] == needs_x
    assert count.calls["convkern::conv2d_grad_weight"] == needs_w
    assert count.calls["aten::sum.dim_IntList"] == needs_b
    assert [t.grad is not None for t in (x, w, b)] == [needs_x, needs_w, needs_b]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic: bool) -> None:
    torch._dynamo.reset()
    layer = convkern.Conv2d(2, 3, 3, padding=1, stride=2, activation="relu")
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic)
    for n in (4, 5, 9):
        x = torch.randn(n, 2, 8, 9, requires_grad=True)
        gradients = []
        for module in (compiled, layer):
            y = module(x)
            gradients.append((y, *torch.autograd.grad(y.square().sum(), (x, layer.weight))))
        for ours, eager in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, eager)
