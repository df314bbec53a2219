"""Transposed and one-dimensional convolutions against torch's, forward and with the backward pass.

    python benchmarks/relatives.py --seconds 0.5

The layers are those of generators (DCGAN), decoders (U-Net, FCN), super-resolution (FSRCNN),
speech and short depthwise convolutions of language models. A cell has the ratio of torch's time
to convkern's. Each layer has a bias. Freed memory is kept for both sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convkern
from convkern._show.tables import Table
from convkern.bench.timing import time_in_turn


@dataclass(frozen=True)
class Layer:
    """A layer: the shapes of its input and weight, and the other arguments of its function."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


UP = {"stride": 2, "padding": 1}
TRANSPOSED = (
    Layer("DCGAN, 1x1 to 4x4", (16, 100, 1, 1), (100, 512, 4, 4)),
    Layer("DCGAN, 4x4 to 8x8", (16, 512, 4, 4), (512, 256, 4, 4), UP),
    Layer("DCGAN, 8x8 to 16x16", (16, 256, 8, 8), (256, 128, 4, 4), UP),
    Layer("DCGAN, 16x16 to 32x32", (16, 128, 16, 16), (128, 64, 4, 4), UP),
    Layer("DCGAN, 32x32 to 64x64", (16, 64, 32, 32), (64, 3, 4, 4), UP),
    Layer("U-Net, 14x14 to 28x28", (2, 1024, 14, 14), (1024, 512, 2, 2), {"stride": 2}),
    Layer("U-Net, 28x28 to 56x56", (2, 512, 28, 28), (512, 256, 2, 2), {"stride": 2}),
    Layer("U-Net, 56x56 to 112x112", (2, 256, 56, 56), (256, 128, 2, 2), {"stride": 2}),
    Layer("U-Net, 112x112 to 224x224", (2, 128, 112, 112), (128, 64, 2, 2), {"stride": 2}),
    Layer("pix2pix, 64x64 to 128x128", (4, 128, 64, 64), (128, 64, 4, 4), UP),
    Layer("3x3, 56x56 to 112x112", (4, 64, 56, 56), (64, 64, 3, 3), {**UP, "output_padding": 1}),
    Layer("FCN, 8 times", (2, 21, 28, 28), (21, 1, 16, 16),
          {"stride": 8, "padding": 4, "groups": 21}),
    Layer("FSRCNN, 3 times", (4, 56, 64, 64), (56, 1, 9, 9),
          {"stride": 3, "padding": 4, "output_padding": 2}),
)  # fmt: skip


def short(n: int, channels: int, length: int, k: int) -> Layer:
    """Returns a depthwise layer that looks at the k - 1 elements before each."""
    name = f"depthwise, K {k}, {channels} channels, L {length}"
    options = {"padding": k - 1, "groups": channels}
    return Layer(name, (n, channels, length), (channels, 1, k), options)


ONE_DIMENSION = (
    short(1, 2048, 1, 4),
    short(1, 2048, 512, 4),
    short(2, 1024, 2048, 4),
    short(1, 4096, 8192, 4),
    short(2, 768, 1024, 3),
    short(4, 512, 256, 7),
    Layer("speech, 80 to 512, K 5", (8, 80, 200), (512, 80, 5), {"padding": 2}),
    Layer("64 channels, K 3", (8, 64, 1000), (64, 64, 3), {"padding": 1}),
    Layer("256 channels, K 3", (8, 256, 100), (256, 256, 3), {"padding": 1}),
    Layer("waves, 1 to 16, K 80", (8, 1, 16000), (16, 1, 80), {"stride": 4}),
)

Function = Callable[..., Tensor]


def last_axis(x: Tensor) -> Tensor:
    """Returns the tensor with adjacent channels: channels_last, or (N, L, C) in memory."""
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def ratios(
    layer: Layer, ours: Function, theirs: Function, last: bool, seconds: float
) -> list[float]:
    """Returns torch's time over convkern's, forward and with the backward pass."""
    x, w = torch.randn(layer.x), torch.randn(layer.w) / 10
    outputs = layer.w[1] * layer.options.get("groups", 1) if "2d" in ours.__name__ else layer.w[0]
    x, b = last_axis(x) if last else x, torch.randn(outputs)
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    gy = torch.randn_like(theirs(x, w, b, **layer.options))

    def forward(function: Function) -> Callable[[], object]:
        return torch.no_grad()(lambda: function(x, w, b, **layer.options))

    def both(function: Function) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(*leaves, **layer.options), leaves, gy)

    found = []
    for call in (forward, both):
        samples = time_in_turn({"torch": call(theirs), "convkern": call(ours)}, seconds)
        found.append(samples["torch"].median / samples["convkern"].median)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.5, help="for each cell")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    convkern.keep_memory()
    columns = [
        f"{layout} {what}"
        for layout in ("channels first,", "channels last,")
        for what in ("forward", "forward+backward")
    ]
    for ours, theirs, layers in (
        (convkern.conv_transpose2d, F.conv_transpose2d, TRANSPOSED),
        (convkern.conv1d, F.conv1d, ONE_DIMENSION),
    ):
        table, rows = Table((ours.__name__,), tuple(columns)), []
        for layer in layers:
            row = [r for last in (False, True)
                   for r in ratios(layer, ours, theirs, last, args.seconds)]  # fmt: skip
            rows.append(row)
            table.add_row(layer.name, *(f"{ratio:.2f}x" for ratio in row))
        means = [geometric_mean(column) for column in zip(*rows, strict=True)]
        table.add_row("geometric mean", *(f"{mean:.2f}x" for mean in means))
        print(table)


if __name__ == "__main__":
    main()
