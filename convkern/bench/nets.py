"""Models that torchvision does not have: a U-Net and a detector in the manner of YOLO."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        activation,
    )


class UNet(nn.Module):
    """A U-Net (Ronneberger, Fischer and Brox, MICCAI 2015) with padding and batch norm.

    Input (N, 3, H, W) with H and W multiples of 16, output (N, classes, H, W).
    """

    def __init__(self, width: int = 32, classes: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]

        def block(inputs: int, outputs: int) -> nn.Module:
            first = _conv(inputs, outputs, 3, 1, nn.ReLU(inplace=True))
            return nn.Sequential(first, _conv(outputs, outputs, 3, 1, nn.ReLU(inplace=True)))

        self.down = nn.ModuleList(map(block, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[:-1])
        self.join = nn.ModuleList(block(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](nn.functional.interpolate(x, scale_factor=2.0))
            x = self.join[level](torch.cat([kept[level], x], 1))
        result: Tensor = self.head(x)
        return result


class _Bottlenecks(nn.Module):
    """A part of the channels passes through bottlenecks, and all results are concatenated."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = _conv(inputs, outputs, 1, 1, nn.SiLU())
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(_conv(half, half, 3, 1, nn.SiLU()), _conv(half, half, 3, 1, nn.SiLU()))
            for _ in range(count)
        )
        self.leave = _conv((2 + count) * half, outputs, 1, 1, nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = [*self.enter(x).chunk(2, 1)]
        for bottleneck in self.bottlenecks:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        result: Tensor = self.leave(torch.cat(parts, 1))
        return result


class Detector(nn.Module):
    """A small one-stage detector: stages that halve the image, and one output at each of the last
    three, (N, outputs, H / 8, W / 8) and so on."""

    def __init__(self, width: int = 16, outputs: int = 85) -> None:
        super().__init__()
        widths = [width << level for level in range(1, 5)]
        self.stem = _conv(3, width, 3, 2, nn.SiLU())
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(w // 2, w, 3, 2, nn.SiLU()), _Bottlenecks(w, w, count))
            for w, count in zip(widths, (1, 2, 2, 1), strict=True)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(_conv(w, w, 3, 1, nn.SiLU()), nn.Conv2d(w, outputs, 1))
            for w in widths[1:]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        results = []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            if level > 0:
                results.append(self.heads[level - 1](x))
        return results


NETS = {"unet": UNet, "detector": Detector}
