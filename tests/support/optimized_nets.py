"""Small models for convkern.optimize, and what their results must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkern.optimize import Optimized


class Block(nn.Module):
    """An inverted residual with squeeze-and-excite, whose images meet nowhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), nn.SiLU())
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depthwise(self.expand(x)))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.project(y * scale)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 3, 2, 1), nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.stem(x))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Function(nn.Module):
    """A model that calls a function of its input and a layer."""

    def __init__(self, call: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.call, self.conv = call, nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.call(self.conv, x)


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def image(batch: int = 4, size: int = 21) -> Tensor:
    return torch.randn(batch, 3, size, size + 2)


def assert_same(model: nn.Module, fast: Optimized, x: Tensor) -> None:
    """Asserts that both compute the same, within 2e-6 of the root mean square."""
    with torch.no_grad():
        expected, y = model(x), fast(x)
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    if expected.numel() == 0:
        return
    if 0 not in expected.stride():  # expanded results get memory of their own
        assert y.stride() == expected.stride()
    scale = expected.double().square().mean().sqrt()
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-6 * scale.item())
