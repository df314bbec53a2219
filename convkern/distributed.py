"""Convolutions whose tensors are spread over several processes.

Importing this file tells DTensor how convkern's ops may be sharded. `convkern.conv2d` and
`convkern.Conv2d` do so when they meet the first DTensor. The import is needed only for calls of
`torch.ops.convkern` and in compiled functions. DistributedDataParallel and fully_shard give the
layers plain tensors, so they need nothing from here.

`conv2d_sharded_rows` convolves images whose rows are spread over processes. The processes exchange
the rows (halos) that their windows share.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from convkern._register.dtensor import register_sharding
from convkern.choices import Activation, Padding, Sides
from convkern.functional import conv2d
from convkern.window import integers, op_padding, sides_of, sizes_of

__all__ = ["conv2d_sharded_rows", "register_sharding"]

Span = tuple[int, int]  # first row, and the row after the last


def conv2d_sharded_rows(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: Activation | None = None,
    rows: Sequence[int] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """:func:`convkern.conv2d` for images whose rows are spread over the processes of a group.

    Every process calls it with its own rows, in the order of the ranks, and with the same weight
    and bias. The processes exchange the rows that their windows need from others, neighbours or
    not. In the backward pass they exchange the gradients of these rows. Gradients exist to the
    first order only.

    Args:
        input: (N, C, Hr, W), this process's Hr rows of the images (N, C, H, W). Processes may have
            different numbers of rows.
        weight, bias, stride, padding, dilation, groups, activation: as conv2d takes them for the
            whole images. The gradients of weight and bias are summed over the group, so they are
            those of the sum of all processes' losses.
        rows: Hr of every process, if all of them know it. Otherwise the processes tell each other
            in every call.
        group: the processes; all of them if None.

    Returns:
        (N, O, OHr, OW), the rows of the output whose windows are centred in this process's rows
        of the input. With stride 1 and padding ``"same"`` these are the process's own rows.

    Raises:
        RuntimeError: as conv2d, for the whole images; the input has no batch; processes differ in
            N, C, W or dtype; rows does not fit; a process would have no row of the output; this
            process is not in the group.
        TypeError, ValueError: as conv2d.
    """
    rank = dist.get_rank(group)
    if rank < 0:
        raise RuntimeError("conv2d_sharded_rows: this process must be one of the group")
    if input.dim() != 4:
        raise RuntimeError(
            "conv2d_sharded_rows: input must have 4 dimensions (batched), "
            f"got input with shape {list(input.shape)}"
        )
    counts = _row_counts(input, rows, rank, group)
    # Check the whole problem without memory, so that every process refuses what conv2d refuses.
    n, c, _, w = input.shape
    whole = torch.empty((n, c, sum(counts), w), dtype=input.dtype, device="meta")
    of_weight, of_bias = (p if p is None else p.detach().to("meta") for p in (weight, bias))
    y = conv2d(
        whole, cast(Tensor, of_weight), of_bias, stride, padding, dilation, groups,
        activation=activation,
    )  # fmt: skip

    stride, dilation = integers(stride, "stride"), integers(dilation, "dilation")
    numbers = op_padding(padding, sizes_of(whole), sizes_of(weight), stride, dilation)
    (top, _), (left, right) = sides_of(numbers)
    extent = dilation[0] * (weight.shape[2] - 1) + 1
    plan = _plan(counts, y.shape[2], extent, stride[0], top)
    x = _Halo.apply(input, plan, rank, group)
    weight = _Shared.apply(weight, group)
    bias = None if bias is None else _Shared.apply(bias, group)
    sides = (0, 0), (left, right)
    return conv2d(x, weight, bias, stride, sides, dilation, groups, activation=activation)


def _row_counts(
    input: Tensor, rows: Sequence[int] | None, rank: int, group: dist.ProcessGroup | None
) -> list[int]:
    """Returns the number of rows of the input in every process."""
    size = dist.get_world_size(group)
    if rows is not None:
        if len(rows) != size or rows[rank] != input.shape[2]:
            raise RuntimeError(
                f"conv2d_sharded_rows: rows must have the {size} processes' numbers of rows, "
                f"{input.shape[2]} for this one of rank {rank}, got rows={list(rows)}"
            )
        return list(rows)
    mine = torch.tensor([*input.shape, crc32(str(input.dtype).encode())], device=input.device)
    every = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(every, mine, group=group)
    (*shapes,) = (tuple(other.tolist()) for other in every)
    if len({(n, c, w, dtype) for n, c, _, w, dtype in shapes}) > 1:
        raise RuntimeError(
            "conv2d_sharded_rows: input must have the same batch, channels, columns and dtype in "
            f"all processes, got shapes {[list(shape[:4]) for shape in shapes]}, and "
            f"{input.dtype} in this one of rank {rank}"
        )
    return [shape[2] for shape in shapes]


class _Plan(NamedTuple):
    """Spans of rows of the whole images, one for each process."""

    owned: list[Span]
    windows: list[Span]  # rows that the process's outputs see, with zeros around the images

    def shared(self, reader: int, owner: int) -> Span:
        """Returns the rows of `owner` that `reader` needs. If there are none, its end is not above
        its start."""
        (start, stop), (first, last) = self.owned[owner], self.windows[reader]
        return max(start, first), min(stop, last)


def _plan(counts: Sequence[int], out_rows: int, extent: int, stride: int, top: int) -> _Plan:
    stops = list(accumulate(counts))
    owned = [(stop - count, stop) for count, stop in zip(counts, stops, strict=True)]
    # An output row belongs to the process that owns the middle of its window. If the middle is
    # outside the images, the nearest row of the images decides.
    middle = (extent - 1) // 2 - top
    bounds = [0, *(min(max(-((middle - stop) // stride), 0), out_rows) for stop in stops)]
    bounds[-1] = out_rows
    spans = list(pairwise(bounds))
    if any(first >= last for first, last in spans):
        raise RuntimeError(
            "conv2d_sharded_rows: every process must have a row of the output, got "
            f"{[last - first for first, last in spans]} of them for {list(counts)} of the input"
        )
    return _Plan(owned, [(a * stride - top, (b - 1) * stride - top + extent) for a, b in spans])


class _Halo(torch.autograd.Function):
    """Maps this process's rows to the rows that its windows see, with zeros around the images."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, plan: _Plan, rank: int, group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.plan, ctx.rank, ctx.group, ctx.shape = plan, rank, group, input.shape
        start, stop = plan.windows[rank]
        n, c, _, w = input.shape
        window = torch.zeros(
            (n, c, stop - start, w), dtype=input.dtype, device=input.device
        ).contiguous(memory_format=_format(input))
        sent = [_part(input, plan.owned[rank], plan.shared(other, rank)) for other in _all(plan)]
        needed = [_part(window, (start, stop), plan.shared(rank, other)) for other in _all(plan)]
        for part, rows in zip(needed, _exchange(sent, needed, rank, group), strict=True):
            part.copy_(rows)
        return window

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, rank = ctx.plan, ctx.rank
        result = grad.new_zeros(ctx.shape).contiguous(memory_format=_format(grad))
        window = plan.windows[rank]
        sent = [_part(grad, window, plan.shared(rank, other)) for other in _all(plan)]
        mine = [_part(result, plan.owned[rank], plan.shared(other, rank)) for other in _all(plan)]
        for part, rows in zip(mine, _exchange(sent, mine, rank, ctx.group), strict=True):
            part.add_(rows)
        return result, None, None, None


class _Shared(torch.autograd.Function):
    """A parameter that all processes have. Its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return parameter.view_as(parameter)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _exchange(
    sent: list[Tensor], like: list[Tensor], rank: int, group: dist.ProcessGroup | None
) -> list[Tensor]:
    """Sends each process its tensor, which may be empty. Returns the tensors of the others, of the
    shapes `like`."""
    received = [torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in like]
    received[rank] = sent[rank]
    transfers = []
    for other in range(len(sent)):
        for op, part in ((dist.isend, sent[other]), (dist.irecv, received[other])):
            if other != rank and part.numel():
                part = part.contiguous()  # a received part is contiguous too
                transfers.append(dist.P2POp(op, part, group=group, group_peer=other))
    if transfers:
        for work in dist.batch_isend_irecv(transfers):
            work.wait()
    return received


def _all(plan: _Plan) -> range:
    return range(len(plan.owned))


def _part(rows: Tensor, span: Span, wanted: Span) -> Tensor:
    """Returns the rows `wanted` of a tensor that holds the rows `span`. There are none if `wanted`
    ends before it starts."""
    return rows[:, :, wanted[0] - span[0] : max(wanted[1] - span[0], wanted[0] - span[0])]


def _format(tensor: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if tensor.is_contiguous(memory_format=last) else torch.contiguous_format
