"""Random problems and operands for differential fuzzing.

The normal suite draws the same few examples every time. CONVKERN_FUZZ_EXAMPLES (`make fuzz`) sets
the number of examples, which pytest's --hypothesis-seed chooses.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from convkern.problem import DTYPES

_EXAMPLES = int(os.environ.get("CONVKERN_FUZZ_EXAMPLES", "0"))
# The most multiply-adds in a pass. There are few, so that many problems are run.
_MOST_PRODUCTS = 2e7 if _EXAMPLES else 4e6


def fuzzing(short: int, share: float = 1) -> settings:
    """Returns settings for `short` examples in the normal suite, and otherwise for the given share
    of CONVKERN_FUZZ_EXAMPLES."""
    return settings(
        max_examples=int(share * _EXAMPLES) or short,
        derandomize=not _EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@dataclass(frozen=True)
class Shape:
    """Sizes and parameters in the form that convkern.conv2d takes."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int

    def padded(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The zeros (before, after) the rows and the columns, computed independently."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if self.padding == "same":
            totals = [d * (k - 1) for k, d in zip(self.w[2:], self.dilation, strict=True)]
            rows, columns = ((total // 2, (total + 1) // 2) for total in totals)
            return rows, columns
        top, left = self.padding
        return (top, top), (left, left)

    def problem(self, dtype: str, tail: str, layout: str = "nchw") -> str:
        """Returns the problem string. If the zeros on both sides differ, it is the problem of an
        input that is already padded."""
        (top, bottom), (left, right) = self.padded()
        n, c, h, w = self.x
        h, w = h + bottom - top, w + right - left
        sizes = (n, c, h, w, self.w[0], *self.w[2:], top, left, *self.stride, *self.dilation,
                 self.groups)  # fmt: skip
        text = "".join(f"{a}{b}" for a, b in zip("nchwkrspquvdeg", sizes, strict=True))
        return f"{text}_{dtype}_{layout}_{tail}"


def _products(x: Sequence[int], w: Sequence[int], out: Sequence[int]) -> float:
    return float(x[0]) * out[0] * out[1] * w[0] * w[1] * w[2] * w[3]


@st.composite
def shapes(draw: st.DrawFn, least_batch: int = 0) -> Shape:
    """Draws every kind of geometry, cut down to a bounded number of products."""
    n = draw(st.integers(least_batch, 9))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 8, 16, 32, 64]) | st.integers(1, 64))
    cg = draw(st.integers(1, max(1, 64 // groups)))
    og = draw(st.integers(1, max(1, 64 // groups)))
    size = [draw(st.integers(1, 40)), draw(st.integers(1, 40))]
    kernel = [draw(st.sampled_from([1, 3, 3]) | st.integers(1, 15)) for _ in range(2)]
    mode = draw(st.sampled_from(["pair"] * 6 + ["same", "valid"]))
    pads = [draw(st.integers(0, 9)) if mode == "pair" else 0 for _ in range(2)]
    unit = st.sampled_from([1, 1, 1])
    stride = [1 if mode == "same" else draw(unit | st.integers(1, 4)) for _ in range(2)]
    dilation = [draw(unit | st.integers(1, 3)) for _ in range(2)]
    if mode != "same":
        for i in range(2):
            kernel[i] = min(kernel[i], (size[i] + 2 * pads[i] - 1) // dilation[i] + 1)

    def out() -> list[int]:
        if mode == "same":
            return size
        extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        return [(size[i] + 2 * pads[i] - extents[i]) // stride[i] + 1 for i in range(2)]

    while _products((n,), (groups * og, cg, *kernel), out()) > _MOST_PRODUCTS:
        if n > 1:
            n -= 1
        elif groups * max(cg, og) > 16 and max(cg, og) > 1:
            cg, og = (cg + 1) // 2, (og + 1) // 2
        else:
            kernel = [(k + 1) // 2 for k in kernel]
    return Shape(
        (n, groups * cg, size[0], size[1]),
        (groups * og, cg, kernel[0], kernel[1]),
        (stride[0], stride[1]),
        mode if mode != "pair" else (pads[0], pads[1]),
        (dilation[0], dilation[1]),
        groups,
    )


VIEWS = [
    "contiguous", "channels_last", "sliced", "stepped", "expanded", "transposed", "swapped",
    "offset", "flipped_storage",
]  # fmt: skip


def tensor(size: Sequence[int], dtype: str, view: str, generator: torch.Generator) -> Tensor:
    """Returns standard normal numbers in 4 dimensions or 1, in the memory format or as the view."""

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(DTYPES[dtype])

    n, *rest = size
    if view == "sliced":
        return random(n + 2, *(k + 3 for k in rest))[
            (slice(1, n + 1), *(slice(2, k + 2) for k in rest))
        ]
    if view == "stepped":
        return random(2 * n, *(2 * k for k in rest))[(slice(None, None, 2),) * len(size)]
    if view == "expanded":
        ones = [k if i % 2 else min(k, 1) for i, k in enumerate(size)]
        return random(*ones).expand(*size)
    if view == "offset":
        whole = random(5 + torch.Size(size).numel())
        return whole[5:].view(*size)
    if len(size) == 1:
        return random(n)
    a, b, c, d = size
    if view == "channels_last":
        return random(*size).contiguous(memory_format=torch.channels_last)
    if view == "transposed":
        return random(a, b, d, c).transpose(2, 3)
    if view == "swapped":
        return random(b, a, c, d).transpose(0, 1)
    if view == "flipped_storage":
        return random(d, c, b, a).permute(3, 2, 1, 0)
    return random(*size)
