"""Convolutions whose rows are spread over processes, against one process with the whole images."""

import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from convkern.distributed import conv2d_sharded_rows
from processes import Processes

# Rows of each process, C, O, kernel, and the arguments of conv2d.
CASES: dict[str, tuple[list[int], int, int, tuple[int, int], dict[str, Any]]] = {
    "same": ([6, 6], 3, 4, (3, 3), {"padding": "same"}),
    "uneven": ([5, 2, 8], 3, 4, (3, 5), {"padding": (1, 2)}),
    "stride": ([8, 8, 8, 8], 4, 8, (3, 3), {"padding": 1, "stride": 2}),
    "stride beyond the kernel": ([9, 7], 2, 3, (2, 2), {"stride": 3}),
    "valid": ([6, 7, 5], 2, 3, (5, 3), {"padding": "valid"}),
    "a halo of several processes": ([2, 1, 2, 2], 2, 3, (7, 3), {"padding": (3, 1)}),
    "dilation": ([6, 5, 7], 2, 2, (3, 3), {"padding": 3, "dilation": (3, 2)}),
    "even kernel": ([5, 6], 2, 2, (4, 4), {"padding": "same"}),
    "depthwise": ([4, 6], 6, 6, (3, 3), {"padding": 1, "groups": 6}),
    "groups and relu": ([4, 6], 4, 6, (3, 3), {"padding": 1, "groups": 2, "activation": "relu"}),
    "more padding than kernel": ([3, 3], 2, 2, (3, 3), {"padding": 4}),
}


def problem(
    case: str, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format
) -> tuple[list[int], dict[str, Any], list[Tensor]]:
    """Returns a case's rows and arguments, then images, weight and bias. They are the same in every
    process."""
    counts, channels, out, kernel, arguments = CASES[case]
    generator = torch.Generator().manual_seed(7)
    shapes = [
        (2, channels, sum(counts), 11),
        (out, channels // arguments.get("groups", 1), *kernel),
        (out,),
    ]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    return counts, arguments, [tensor.requires_grad_() for tensor in tensors]


def part(whole: Tensor, counts: list[int]) -> Tensor:
    return whole.split(counts, dim=2)[dist.get_rank()]


def all_rows(rows: Tensor) -> list[int]:
    counts = [torch.zeros((), dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(rows.shape[2]))
    return [int(count) for count in counts]


def check(
    case: str, dtype: torch.dtype, layout: torch.memory_format, known: bool, tolerance: float
) -> list[int]:
    """Compares forward and gradients with torch's, for the whole images in float64."""
    counts, arguments, tensors = problem(case, dtype, layout)
    x, w, b = tensors
    relu = arguments.pop("activation", None) is not None
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = F.conv2d(*exact, **arguments)
    expected = F.relu(expected) if relu else expected
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    (expected * weights).sum().backward()

    mine = part(x.detach(), counts).contiguous(memory_format=layout).requires_grad_()
    y = conv2d_sharded_rows(
        mine, w, b, **arguments, activation="relu" if relu else None, rows=counts if known else None
    )
    out_counts = all_rows(y)
    (y * part(weights, out_counts).to(dtype)).sum().backward()
    assert sum(out_counts) == expected.shape[2]
    assert y.dtype == dtype
    if layout == torch.channels_last:
        assert y.is_contiguous(memory_format=layout)
    for actual, whole in (
        (y, part(expected, out_counts)),
        (mine.grad, part(exact[0].grad, counts)),
        (w.grad, exact[1].grad),
        (b.grad, exact[2].grad),
    ):
        largest = tolerance * whole.abs().max().item()
        torch.testing.assert_close(actual.double(), whole.detach(), rtol=0, atol=largest)
    return out_counts


@pytest.mark.parametrize("known", [False, True], ids=["told", "known"])
@pytest.mark.parametrize("case", CASES)
def test_is_the_convolution_of_the_whole_images(
    case: str, known: bool, processes: Processes
) -> None:
    count = len(CASES[case][0])
    processes.run(count, check, case, torch.float64, torch.contiguous_format, known, 1e-13)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
def test_dtypes_and_channels_last(
    dtype: torch.dtype, tolerance: float, processes: Processes
) -> None:
    processes.run(2, check, "depthwise", dtype, torch.channels_last, False, tolerance)
    processes.run(3, check, "uneven", dtype, torch.channels_last, False, tolerance)


def test_same_padding_keeps_the_rows_and_stride_every_other(processes: Processes) -> None:
    plain = torch.float64, torch.contiguous_format, False, 1e-13
    assert processes.run(2, check, "same", *plain) == [[6, 6]] * 2
    assert processes.run(3, check, "uneven", *plain) == [[5, 2, 8]] * 3
    assert processes.run(4, check, "stride", *plain) == [[4, 4, 4, 4]] * 4


def two_layers(steps: int) -> tuple[list[float], Tensor]:
    """Returns losses and final weight of two layers that are trained on the whole batch by rows."""
    rank, size = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(3)
    images = torch.randn((4, 2, 12, 9), generator=generator, dtype=torch.float64)
    target = torch.randn((4, 2, 12, 9), generator=generator, dtype=torch.float64)
    x, wanted = images.chunk(size, dim=2)[rank], target.chunk(size, dim=2)[rank]
    first, second = (
        torch.randn(shape, generator=generator, dtype=torch.float64).mul_(0.1).requires_grad_()
        for shape in ((4, 2, 5, 5), (2, 4, 3, 3))
    )
    optimizer = torch.optim.SGD([first, second], lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = conv2d_sharded_rows(x, first, padding="same", activation="relu")
        y = conv2d_sharded_rows(hidden, second, padding="same")
        loss = (y - wanted).square().sum() / target.numel()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item())
    return losses, first.detach().tolist()


def test_layers_train_as_in_one_process(processes: Processes) -> None:
    alone = processes.run(1, two_layers, 5)[0]
    assert alone[0][-1] < alone[0][0]
    for count in (2, 4):
        for losses, weight in processes.run(count, two_layers, 5):
            assert losses == pytest.approx(alone[0], rel=1e-12)
            torch.testing.assert_close(torch.tensor(weight), torch.tensor(alone[1]))


def in_a_group_of_some() -> None:
    """Ranks 1 and 2 of three processes are a group of their own."""
    group = dist.new_group([1, 2])
    counts, arguments, (x, w, b) = problem("same", torch.float64)
    if dist.get_rank() == 0:
        with pytest.raises(RuntimeError, match="this process must be one of the group"):
            conv2d_sharded_rows(x, w, b, **arguments, group=group)
        return
    rows = x.detach().split(counts, dim=2)[dist.get_rank(group)].requires_grad_()
    y = conv2d_sharded_rows(rows, w, b, **arguments, group=group)
    y.square().sum().backward()
    gradient = w.grad.clone()
    w.grad = None
    whole = F.conv2d(x, w, b, **arguments)
    whole.square().sum().backward()
    mine = whole.split(counts, dim=2)[dist.get_rank(group)]
    torch.testing.assert_close(y, mine)
    torch.testing.assert_close(gradient, w.grad)


def test_group_of_some_processes(processes: Processes) -> None:
    processes.run(3, in_a_group_of_some)


# --- what is refused -----------------------------------------------------------------------


def message(shapes: list[list[int]], kernel: list[int], arguments: dict[str, Any]) -> str:
    x, w = torch.ones(shapes[dist.get_rank()]), torch.ones(kernel)
    with pytest.raises((RuntimeError, TypeError)) as error:
        conv2d_sharded_rows(x, w, **arguments)
    return f"{type(error.value).__name__}: {error.value}"


HALVES = [[1, 2, 4, 5]] * 2


@pytest.mark.parametrize(
    ("shapes", "kernel", "arguments", "expected"),
    [
        ([[2, 4, 5]] * 2, [1, 2, 3, 3], {}, "RuntimeError: .* input must have 4 dimensions"),
        ([[1, 2, 4, 5], [1, 2, 4, 6]], [1, 2, 3, 3], {}, "same batch, channels, columns and dtype"),
        ([[1, 2, 8, 5], [1, 2, 1, 5]], [1, 2, 5, 5], {}, r"got \[5, 0\] of them for \[8, 1\]"),
        (HALVES, [1, 2, 3, 3], {"rows": [4]}, "rows must have the 2 processes' numbers of rows"),
        (HALVES, [1, 2, 3, 3], {"rows": [5, 5]}, r"4 for this one of rank 0, got rows=\[5, 5\]"),
        (HALVES, [1, 2, 3], {}, "RuntimeError: conv2d: .* weight must have 4 dimensions"),
        (HALVES, [1, 3, 3, 3], {}, "RuntimeError: conv2d: .*channels"),
        (HALVES, [1, 2, 9, 3], {}, r"RuntimeError: conv2d: .*Kernel size: \(9 x 3\)"),
        (HALVES, [1, 2, 3, 3], {"stride": 0}, r"RuntimeError: conv2d: .*stride=\(0, 0\)"),
        (HALVES, [1, 2, 3, 3], {"padding": -1}, "RuntimeError: conv2d: .*padding"),
        (HALVES, [1, 2, 3, 3], {"padding": "full"}, "RuntimeError: conv2d: Invalid padding"),
        (HALVES, [1, 2, 3, 3], {"dilation": 1.5}, "TypeError: conv2d: dilation"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_every_process(
    shapes: list[list[int]],
    kernel: list[int],
    arguments: dict[str, Any],
    expected: str,
    processes: Processes,
) -> None:
    first, second = processes.run(2, message, shapes, kernel, arguments)
    assert re.search(expected, first)
    assert first.split("rank")[0].split("torch.")[0] == second.split("rank")[0].split("torch.")[0]


def second_derivative() -> str:
    x = torch.randn((1, 2, 4, 5), requires_grad=True)
    y = conv2d_sharded_rows(x, torch.randn((1, 2, 3, 3)), padding=1)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError) as error:
        gradient.sum().backward()
    return str(error.value)


def test_second_derivatives_are_refused(processes: Processes) -> None:
    for text in processes.run(2, second_derivative):
        assert "differentiate twice" in text
