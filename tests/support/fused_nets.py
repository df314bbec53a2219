"""Small models for convkern.fuse_training, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXAMPLE = torch.ones(2, 4, 5, 5, dtype=torch.float64).cumsum(3).cumsum(1).sin()


class Parts(nn.Module):
    """Layers of 4 channels, and a function that calls some of them."""

    memory: Tensor

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call
        self.bn, self.bn2, self.bn3 = (nn.BatchNorm2d(4) for _ in range(3))
        self.conv, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.point, self.depthwise = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.register_buffer("memory", torch.ones(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def parts(call: Callable[..., Any]) -> Parts:
    """Returns a model in float64 without the batch norms that it does not call."""
    net = Parts(call).double()
    net.memory = torch.ones(2, 4, 5, 5, dtype=torch.float64)
    used = set()
    for name, module in net.named_children():
        module.register_forward_pre_hook(lambda m, x, name=name: used.add(name))
    state = {name: t.clone() for name, t in net.state_dict().items()}
    net(torch.randn(2, 4, 5, 5, dtype=torch.float64))
    net.load_state_dict(state)
    for name, module in list(net.named_children()):
        module._forward_pre_hooks.clear()
        if name not in used:
            delattr(net, name)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net


def step(model: nn.Module, x: Tensor) -> list[Tensor | None]:
    """Returns the results, gradients and buffers of a step with gradients."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    results = model(x)
    results = results if isinstance(results, tuple) else (results,)
    if any(y.requires_grad for y in results):
        sum((y * y.detach().cos()).sum() for y in results).backward()  # type: ignore[union-attr]
    gradients = [x.grad, *(p.grad for p in model.parameters())]
    kept = [t.clone() if t is not None else None for t in (*gradients, *model.buffers())]
    return [*(y.detach() for y in results), *kept]


def assert_trains_as(model: nn.Module, peer: nn.Module, dtype: torch.dtype = torch.float64) -> None:
    """Asserts that two steps of the models agree."""
    for _ in range(2):
        x = torch.randn(2, 4, 5, 5, dtype=dtype)
        ours, theirs = step(model, x), step(peer, x)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                tight = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {}
                torch.testing.assert_close(a, b, **(tight or {"rtol": 1e-3, "atol": 1e-4}))


def residual_in_place(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.bn(net.conv(x)), inplace=True)
    y = net.bn2(net.conv2(y))
    y += x
    return F.relu(y, inplace=True)


def two_norms(net: Parts, x: Tensor) -> Tensor:
    y = F.relu(net.bn(net.conv(x)))
    return F.relu(net.bn2(net.conv2(y)) + x)


def conv_norm_relu(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.bn(net.conv(x)))


def squeeze_and_excite(net: Parts, x: Tensor) -> Tensor:
    y = F.silu(net.bn(net.conv(x)))
    scale = torch.sigmoid(net.point(y.mean((2, 3), keepdim=True)))
    return y * scale


def one_norm_twice(net: Parts, x: Tensor) -> Tensor:
    return F.relu(net.bn(net.conv(F.relu(net.bn(x)))))
