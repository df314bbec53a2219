"""convkern.fuse_training: steps of whole small nets of the kinds that there are, and curves of the
loss, against torch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from convkern.training import FusedTraining

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def conv_norm(c: int, o: int, size: int = 1, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c, o, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o, eps=1e-3, momentum=0.01))


class SqueezeAndExcite(nn.Module):
    def __init__(self, channels: int, smooth: bool) -> None:
        super().__init__()
        self.inner, self.outer = (F.silu, F.sigmoid) if smooth else (F.relu, F.hardsigmoid)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.fc2(self.inner(self.fc1(self.pool(x))))) * x


class Inverted(nn.Module):
    """A block of MobileNetV3, with stochastic depth as EfficientNet has it."""

    def __init__(self, c: int, wide: int, stride: int, act: type[nn.Module], drop: float) -> None:
        super().__init__()
        self.drop, self.shortcut = drop, stride == 1
        self.body = nn.Sequential(
            conv_norm(c, wide), act(inplace=True),
            conv_norm(wide, wide, 3, stride=stride, groups=wide), act(inplace=True),
            SqueezeAndExcite(wide, act is nn.SiLU), conv_norm(wide, c),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if self.drop and self.training:
            noise = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype)
            y = y * noise.bernoulli_(1 - self.drop).div_(1 - self.drop)
        if self.shortcut:
            y += x
        return y


def mobilenet_of(drop: float, *acts: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 8, 3, stride=2), acts[0](inplace=True),
        Inverted(8, 24, 1, acts[1], drop), Inverted(8, 24, 2, acts[0], drop),
        Inverted(8, 17, 1, nn.SiLU, drop), conv_norm(8, 32), acts[0](),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16), acts[0](),
        nn.Dropout(2 * drop), nn.Linear(16, 5),
    )  # fmt: skip


def mobilenet(drop: float) -> nn.Module:
    return mobilenet_of(drop, nn.Hardswish, nn.ReLU)


def smooth_mobilenet(drop: float) -> nn.Module:
    return mobilenet_of(drop, nn.SiLU, nn.SiLU)


class Inception(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.one, self.three, self.five, self.pooled = (
            nn.Sequential(*layers, nn.ReLU(inplace=True)) for layers in (
                conv_norm(c, 8), [conv_norm(c, 4), nn.ReLU(True), conv_norm(4, 12, 3)],
                [conv_norm(c, 4), nn.ReLU(True), conv_norm(4, 5, 5)],
                [nn.MaxPool2d(3, 1, 1), conv_norm(c, 7)])
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


def googlenet(drop: float) -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), Inception(8), Inception(32),
        nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout(drop), nn.Linear(32, 5),
    )  # fmt: skip


class UNet(nn.Module):
    """Results of blocks have two and three users."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.first, self.down = self.block(3, 8), self.block(8, 16)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), self.block(16, 8)
        self.drop, self.head = nn.Dropout2d(drop), nn.Conv2d(8, 2, 1)

    def block(self, c: int, o: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(c, o, 3), nn.ReLU(True), conv_norm(o, o, 3), nn.LeakyReLU())

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.first(x)
        inner = self.drop(self.down(F.max_pool2d(skipped, 2)))
        joined = torch.cat([self.up(inner), skipped], 1)
        return self.head(self.last(joined) + skipped).mean((2, 3))


class DenseNet(nn.Module):
    """Activations before convolutions; each result is used by all later layers."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(4))
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = F.dropout(conv(F.relu(norm(x))), self.drop, self.training)
            x = torch.cat([x, y], 1)
        return x.mean((2, 3))


class OtherNorms(nn.Module):
    """Batch norms of other ranks and other norms, which stay torch's."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.conv, self.group, self.bn = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.BatchNorm2d(8)
        self.instance, self.layer = nn.InstanceNorm2d(8, affine=True), nn.LayerNorm(8)
        self.flat, self.line = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.solid, self.drop = nn.BatchNorm3d(8), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.group(self.conv(x)))
        y = F.relu(self.bn(y) + y)
        y = F.relu(self.solid(y.unsqueeze(2))).squeeze(2) + self.instance(y)
        y = F.relu(self.line(y.flatten(2))).mean(2)
        return self.layer(self.drop(F.relu(self.flat(y))))


# Constructors, which take a probability of dropping, and how many batch norms are fused and kept.
NETS: dict[Callable[[float], nn.Module], tuple[int, int]] = {
    mobilenet: (11, 0),
    googlenet: (13, 0),
    UNet: (6, 0),
    DenseNet: (4, 0),
    OtherNorms: (1, 3),
}


def randomised(make: Callable[[float], nn.Module], drop: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = make(drop)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net


def fused(net: nn.Module, x: Tensor, recompute: bool) -> tuple[nn.Module, FusedTraining]:
    model = copy.deepcopy(net)
    return model, convkern.fuse_training(model, x, recompute=recompute)


def steps(net: nn.Module, x: Tensor, count: int = 2) -> dict[str, Tensor]:
    """Returns the results, gradients and buffers by name after some steps of SGD."""
    torch.manual_seed(17)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    found = {}
    for i in range(count):
        inputs = x.detach().clone().requires_grad_()
        y = net(inputs)
        optimizer.zero_grad()
        y.square().mean().backward()
        assert inputs.grad is not None
        found |= {f"result {i}": y.detach(), f"gradient {i} of the input": inputs.grad}
        for name, p in net.named_parameters():
            assert p.grad is not None
            found[f"gradient {i} of {name}"] = p.grad.clone()
        optimizer.step()
    return found | {name: b.detach().clone() for name, b in net.named_buffers()}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_steps_in_float64_are_torchs(
    make: Callable[[float], nn.Module], drop: float, recompute: bool
) -> None:
    """Random numbers of dropout and stochastic depth are the same."""
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    net = randomised(make, drop, seed=1).double()
    model, report = fused(net, x, recompute)
    assert (len(report.blocks), len(report.kept)) == NETS[make]
    assert report.graphs == 1
    ours, theirs = steps(model, x), steps(net, x)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        largest = value.abs().max().item()
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-10 * max(largest, 1),
                                   msg=lambda text, name=name: f"{name}: {text}")  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_a_step_in_float32_is_as_near_to_float64_as_torchs(
    make: Callable[[float], nn.Module], layout: torch.memory_format
) -> None:
    recompute = layout == torch.channels_last
    net = randomised(make, 0.0, seed=2).to(memory_format=layout)
    x = torch.randn(3, 3, 16, 16).contiguous(memory_format=layout)
    exact = steps(copy.deepcopy(net).double(), x.double(), 1)
    ours, theirs = steps(fused(net, x, recompute)[0], x, 1), steps(copy.deepcopy(net), x, 1)
    # Gradients that vanish exactly, as of a bias before a norm, are roundings only.
    scales = {name: value.double().square().mean() for name, value in exact.items()}
    errors = []
    for run in (ours, theirs):
        total = [(run[name].double() - exact[name]).square().sum() / scale
                 for name, scale in scales.items() if scale > 1e-16]  # fmt: skip
        errors.append(torch.stack(total).sum().sqrt().item())
    assert errors[0] <= 2 * errors[1], errors


def curve(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    losses = []
    for i in range(50):
        at = 16 * (i % 2)
        loss = F.cross_entropy(net(x[at : at + 16]), target[at : at + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_curves_of_the_loss_are_as_near_to_float64_as_torchs(layout: torch.memory_format) -> None:
    """The distance is the largest along a curve, in the geometric mean of several nets. They are
    smooth: where a number crosses a kink in one of two runs, the curves part by chance."""
    distances = []
    for seed in range(4):
        torch._dynamo.reset()
        net = randomised(smooth_mobilenet, 0.0, seed).to(memory_format=layout)
        x = torch.randn(32, 3, 16, 16).contiguous(memory_format=layout)
        target = torch.randint(5, (32,))
        exact = curve(copy.deepcopy(net).double(), x.double(), target)
        assert exact[-1] < 0.5 * exact[0]
        runs = [fused(net, x[:16], recompute=seed % 2 == 1)[0], net]
        distances.append([(curve(run, x, target) - exact).abs().max().item() for run in runs])
    ours, theirs = torch.tensor(distances, dtype=torch.float64).log().mean(0).exp().tolist()
    assert ours <= 2 * theirs, distances
