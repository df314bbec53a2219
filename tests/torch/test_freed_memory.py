"""Tensors whose storage was freed or made smaller, as FSDP frees parameters between their uses. The
ops raise RuntimeError, as torch's do, and read nothing."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

import convkern

ops = torch.ops.convkern
SMALL = (2, 1, 5, 5), (2, 1, 3, 3)  # computed by a direct kernel
DENSE = (1, 32, 9, 9), (48, 32, 3, 3)  # computed by a matrix product with packed weights
ONE_CHANNEL_LAST = (2, 8, 5, 5), (8, 1, 3, 3)


def free(t: Tensor, bytes_left: int = 0) -> Tensor:
    """Frees the tensor's memory except for `bytes_left` bytes. The tensor keeps its sizes."""
    t.untyped_storage().resize_(bytes_left)
    return t


def pair(shapes: tuple[tuple[int, ...], tuple[int, ...]], **kwargs: object) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, **kwargs) for shape in shapes)  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [0, 4, -1], ids=["freed", "one element left", "one byte missing"])
@pytest.mark.parametrize("which", ["input", "weight", "bias"])
@pytest.mark.parametrize("shapes", [SMALL, DENSE], ids=["direct", "dense"])
def test_an_operand_without_memory_raises(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], which: str, left: int
) -> None:
    x, w = pair(shapes)
    operands = {"input": x, "weight": w, "bias": torch.randn(w.shape[0])}
    t = operands[which]
    free(t, left if left >= 0 else t.numel() * 4 - 1)
    with pytest.raises(RuntimeError, match=f"conv2d: {which} has a non-zero .*not allocated yet"):
        convkern.conv2d(**operands)


def test_the_message_names_sizes_and_bytes() -> None:
    x, w = pair(SMALL)
    free(w, 8)
    with pytest.raises(RuntimeError, match=r"\[2, 1, 3, 3\] needs a storage of 72 bytes.* has 8"):
        convkern.conv2d(x, w)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_raise(dtype: torch.dtype) -> None:
    x, w = pair(SMALL, dtype=dtype)
    with pytest.raises(RuntimeError, match="not allocated yet"):
        convkern.conv2d(x, free(w))


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, :, ::2, 1:],
        lambda t: t.transpose(2, 3),
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t[:1].expand(2, -1, -1, -1),
    ],
    ids=["sliced", "transposed", "channels_last", "expanded"],
)
def test_views_without_memory_raise(view: Callable[[Tensor], Tensor]) -> None:
    x, w = pair(ONE_CHANNEL_LAST)
    v = view(x)
    free(v)
    with pytest.raises(RuntimeError, match=r"input has .*not allocated yet"):
        convkern.conv2d(v, w, padding=1, groups=8)


def test_a_view_needs_its_own_part_only() -> None:
    x, w = pair(SMALL)
    first, second = x[:1], x[1:]
    expected = convkern.conv2d(first, w)
    free(x, 100)  # room for the first image only
    assert torch.equal(convkern.conv2d(first, w), expected)
    with pytest.raises(RuntimeError, match="not allocated yet"):
        convkern.conv2d(second, w)


def test_empty_tensors_need_no_memory() -> None:
    x, w = torch.randn(0, 1, 5, 5), torch.randn(1, 1, 3, 3)
    assert convkern.conv2d(free(x), w).shape == (0, 1, 3, 3)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("which", ["input", "weight", "output"])
@pytest.mark.parametrize("shapes", [SMALL, DENSE], ids=["direct", "dense"])
def test_memory_that_is_freed_between_forward_and_backward(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], which: str, activation: Literal["relu"] | None
) -> None:
    x, w = pair(shapes, requires_grad=True)
    b = torch.randn(w.shape[0], requires_grad=True)
    y = convkern.conv2d(x, w, b, activation=activation)
    loss = (2 * y).sum()
    free({"input": x, "weight": w, "output": y}[which].detach())
    if which == "output" and activation is None:
        loss.backward()  # it is not read
        return
    with pytest.raises(RuntimeError, match="not allocated yet"):
        loss.backward()


def test_gradient_ops_raise() -> None:
    x, w = pair(SMALL)
    y = convkern.conv2d(x, w)
    for op, a, b, size in (
        (ops.conv2d_grad_input, y, w, x.shape),
        (ops.conv2d_grad_weight, y, x, w.shape),
    ):
        for which in (0, 1):
            args = [a.clone(), b.clone()]
            free(args[which])
            with pytest.raises(RuntimeError, match="not allocated yet"):
                op(*args, list(size))


def test_a_kept_weight_raises() -> None:
    x, w = pair(DENSE)
    convkern.set_weight_cache(True)
    try:
        expected = convkern.conv2d(x, w)
        assert convkern.weight_cache_bytes() > 0
        values = w.clone()
        free(w)
        with pytest.raises(RuntimeError, match=r"weight has .*not allocated yet"):
            convkern.conv2d(x, w)
        w.untyped_storage().resize_(w.numel() * 4)
        w.copy_(values)
        assert torch.equal(convkern.conv2d(x, w), expected)
    finally:
        convkern.set_weight_cache(False)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("which", ["output", "grad_output"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_the_epilogues_gradient_of_freed_memory(
    dtype: torch.dtype, which: str, activation: Literal["relu"] | None, create_graph: bool
) -> None:
    if which == "output" and activation is None:
        return  # it is not read
    x, w = pair(SMALL, dtype=dtype, requires_grad=True)
    b = torch.zeros(2, dtype=dtype, requires_grad=True)
    y = convkern.conv2d(x, w, b, activation=activation)
    gy = torch.ones_like(y)
    free((y if which == "output" else gy).detach())
    with pytest.raises(RuntimeError, match="not allocated yet"):
        torch.autograd.grad(y, [x, w, b], gy, create_graph=create_graph)
