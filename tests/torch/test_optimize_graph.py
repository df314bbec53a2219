"""Inference graphs: models traced to torch's operators, and the fusions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern
from convkern.activations import activated
from convkern.optimize import FUSIONS, fuse, trace
from convkern.optimize import fused as functions
from convkern.optimize.rewriting import field
from traced import census, fused, randomise


class Call(nn.Module):
    """A model of some layers and a function that calls them."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.call = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self, *inputs)


def model_of(forward: Callable[..., Any], **parts: nn.Module | Tensor) -> nn.Module:
    return randomise(Call(forward, **parts))


def image(channels: int = 4, batch: int = 2, size: int = 12) -> Tensor:
    return torch.randn(batch, channels, size, size + 1, dtype=torch.float64)


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 1, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **arguments)


def layer(module: torch.fx.GraphModule, target: Any = functions.conv2d) -> torch.fx.Node:
    """Returns the only node that calls a function."""
    (node,) = module.graph.find_nodes(op="call_function", target=target)
    return node


def vector(*sizes: int) -> Tensor:
    return torch.rand(sizes, dtype=torch.float64) + 0.5


# The fusion, the model, and what its graph consists of.
FUSED: list[tuple[str, Callable[[], nn.Module], dict[str, int]]] = [
    ("layers", lambda: model_of(lambda m, x: m.a(m.b(x)), a=conv(), b=conv(4, 4, 3, groups=2)),
     {"conv2d": 2}),
    ("layers", lambda: model_of(lambda m, x: m.a(x), a=nn.Conv2d(4, 4, 3, padding="same")),
     {"conv2d": 1}),
    ("layers", lambda: model_of(lambda m, x: m.a(x), a=nn.Conv2d(4, 4, 2, padding="same")),
     {"conv2d": 1}),
    ("layers", lambda: model_of(lambda m, x: m.a(F.pad(x, (0, 1, 2, 3))), a=conv()),
     {"conv2d": 1}),
    ("layers", lambda: model_of(lambda m, x: m.a(F.pad(x, (3, 2, 0, 1), mode="reflect")),
                                a=nn.Conv2d(4, 4, 3)), {"conv2d": 1}),
    ("layers", lambda: model_of(lambda m, x: m.a(x), a=nn.Conv2d(
        4, 4, 3, padding=1, padding_mode="circular")), {"conv2d": 1}),
    ("layers", lambda: model_of(lambda m, x: m.a(x), a=nn.Conv2d(4, 4, 2, padding="valid")),
     {"conv2d": 1}),
    ("layers", lambda: model_of(lambda m, x: m.a(x), a=convkern.Conv2d(4, 4, 3, activation="relu")),
     {"conv2d": 1}),
    ("means", lambda: model_of(lambda m, x: m.a(m.p(x).flatten(1)), a=nn.Linear(4, 3),
                               p=nn.AdaptiveAvgPool2d(1)),
     {"mean": 1, "reshape": 1, "linear": 1}),
    ("means", lambda: model_of(lambda m, x: m.a(x.mean((-1, -2))), a=nn.Linear(4, 3)),
     {"mean": 1, "reshape": 1, "linear": 1}),
    ("means", lambda: model_of(lambda m, x: F.avg_pool2d(x, (12, 13))), {"mean": 1}),
    ("average_pool", lambda: model_of(lambda m, x: F.avg_pool2d(x, (2, 3), 1)), {"conv2d": 1}),
    ("average_pool", lambda: model_of(lambda m, x: F.relu(F.avg_pool2d(
        x, 3, 2, count_include_pad=False, divisor_override=5))), {"conv2d": 1}),
    ("shapes", lambda: model_of(lambda m, x: x.transpose(1, 3).permute(0, 3, 2, 1) + 1),
     {"add": 1}),
    ("shapes", lambda: model_of(lambda m, x: x.flatten(2).view(2, 4, 13, 12).squeeze()),
     {"reshape": 1}),
    ("silu", lambda: model_of(lambda m, x: x * x.sigmoid()), {"silu": 1}),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(m.a(x)), a=conv(4, 6, 3),
                                    n=nn.BatchNorm2d(6)), {"conv2d": 1}),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(m.a(x)), a=conv(4, 8, 3, groups=4, bias=False),
                                    n=nn.BatchNorm2d(8, affine=False)), {"conv2d": 1}),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(m.a(x.mean((2, 3)))), a=nn.Linear(4, 6),
                                    n=nn.BatchNorm1d(6)), {"mean": 1, "reshape": 1, "linear": 1}),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(m.a(x) * 3) - 1, a=conv(),
                                    n=nn.BatchNorm2d(4)), {"conv2d": 1}),
    ("scale", lambda: model_of(lambda m, x: m.s * m.a(x) / 3, a=conv(), s=vector(4, 1, 1)),
     {"conv2d": 1}),
    ("scale", lambda: model_of(lambda m, x: m.a(x) * m.s, a=nn.Linear(13, 5), s=vector(5)),
     {"linear": 1}),
    ("scale", lambda: model_of(lambda m, x: m.s * m.a(x).permute(0, 3, 1, 2), a=nn.Linear(13, 5),
                               s=vector(1, 5, 1, 1)), {"linear": 1, "permute": 1}),
    ("shift", lambda: model_of(lambda m, x: 2 - 1 + m.a(x) - m.s, a=conv(bias=False),
                               s=vector(4, 1, 1)), {"conv2d": 1}),
    ("scale_shift", lambda: model_of(lambda m, x: m.n(x).relu_(), n=nn.BatchNorm2d(4)),
     {"scale_shift": 1}),
    ("residual", lambda: model_of(lambda m, x: x + m.a(x), a=conv()), {"conv2d": 1}),
    ("residual", lambda: model_of(lambda m, x: m.a(x) + m.b(x), a=conv(), b=conv()),
     {"conv2d": 2}),
    ("residual", lambda: model_of(lambda m, x: m.a(x).add_(F.max_pool2d(x, 3, 1, 1)), a=conv()),
     {"conv2d": 1, "max_pool2d": 1}),
    ("residual", lambda: model_of(lambda m, x: x + m.a(x.transpose(1, 3)).transpose(1, 3),
                                  a=nn.Linear(4, 4)), {"linear": 1, "permute": 2}),
    ("activation", lambda: model_of(lambda m, x: F.relu(m.a(x) + x), a=conv()), {"conv2d": 1}),
    ("activation", lambda: model_of(lambda m, x: F.gelu(m.a(x)), a=nn.Linear(13, 5)),
     {"linear": 1}),
    ("channels", lambda: model_of(lambda m, x: torch.cat([m.a(x), x, m.a(x)[:, :2]], 1),
                                  a=conv()), {"conv2d": 2, "channels": 1}),
    ("channels", lambda: model_of(lambda m, x: F.channel_shuffle(m.a(x), 2), a=conv()),
     {"conv2d": 1, "channels": 1}),
    ("channels", lambda: model_of(lambda m, x: m.b(m.a(x)[:, 2:]), a=conv(), b=conv(2, 4)),
     {"conv2d": 2, "channels": 1}),
    ("channels", lambda: model_of(lambda m, x: torch.cat([m.a(x)], 1), a=conv()), {"conv2d": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "parts"), FUSED, ids=[case[0] for case in FUSED])
def test_fused(name: str, make: Callable[[], nn.Module], parts: dict[str, int]) -> None:
    module, report = fused(make(), image())
    assert census(module) == parts
    assert (report.fused | report.forms)[name] > 0
    assert report.kept == []


def test_all_fusions_are_tested_and_have_a_docstring() -> None:
    assert [fusion.name for fusion in FUSIONS] == list(dict.fromkeys(case[0] for case in FUSED))
    assert all(type(fusion).__doc__ for fusion in FUSIONS)


ACTIVATIONS: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (F.relu, "relu"),
    (nn.ReLU6(inplace=True), "relu6"),
    (lambda x: x.clamp_(0, 6), "relu6"),
    (lambda x: x.clamp(min=0), "relu"),
    (lambda x: x.clamp(-1, 2), "clamp(-1.0,2.0)"),
    (lambda x: x.clamp_max(0.5), "clamp(-inf,0.5)"),
    (lambda x: x.clamp_min(0.5), "clamp(0.5,inf)"),
    (nn.Hardtanh(), "clamp(-1.0,1.0)"),
    (nn.SiLU(inplace=True), "silu"),
    (nn.Hardswish(inplace=True), "hardswish"),
    (nn.GELU(), "gelu"),
    (nn.GELU(approximate="tanh"), "gelu_tanh"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Hardsigmoid(), "hardsigmoid"),
    (nn.LeakyReLU(0.1), "leaky_relu(0.1)"),
]


@pytest.mark.parametrize(("function", "name"), ACTIVATIONS, ids=[a[1] for a in ACTIVATIONS])
@pytest.mark.parametrize("residual", [False, True])
def test_activation(function: Callable[[Tensor], Tensor], name: str, residual: bool) -> None:
    x = image()
    model = model_of(lambda m, x: function(m.a(x) + x if residual else m.a(x)), a=conv())
    module, _ = fused(model, x)
    assert field(layer(module), "activation") == name
    y = 3 * image()
    assert torch.equal(activated(y, name), function(y.clone()))


# What stays, with the model and a part of the reason.
KEPT: list[tuple[str, Callable[[], nn.Module], str | None]] = [
    ("conv2d", lambda: model_of(lambda m, x: F.relu(y := m.a(x)) + y, a=conv()), "2 users"),
    ("conv2d", lambda: model_of(lambda m, x: [F.relu(y := m.a(x)), y], a=conv()), "2 users"),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(y := m.a(x)) + y.relu(), a=conv(),
                                    n=nn.BatchNorm2d(4)), "2 users"),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(F.relu(m.a(x))), a=conv(),
                                    n=nn.BatchNorm2d(4)), None),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(x + m.a(x)), a=conv(),
                                    n=nn.BatchNorm2d(4)), None),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(m.a(x).flatten(1, 2)), a=nn.Linear(13, 5),
                                    n=nn.BatchNorm1d(48)), None),
    ("batch_norm", lambda: model_of(lambda m, x: m.n(m.a(x)), a=conv(),
                                    n=nn.BatchNorm2d(4, track_running_stats=False)),
     "statistics are those of the input"),
    ("mul", lambda: model_of(lambda m, x: m.a(x) * m.s, a=conv(), s=vector(13)), "each channel"),
    ("mul", lambda: model_of(lambda m, x: m.a(x) * m.s, a=conv(1, 1), s=vector(4, 1, 1)),
     "each channel"),
    ("mul", lambda: model_of(lambda m, x: m.a(x) * x, a=conv()), None),
    ("reciprocal", lambda: model_of(lambda m, x: 2 / m.a(x), a=conv()), None),
    ("mul", lambda: model_of(lambda m, x: m.s * m.a(x).permute(0, 3, 1, 2), a=nn.Linear(13, 5),
                             s=vector(12)), "each channel"),
    ("add", lambda: model_of(lambda m, x: m.a(x) + x[:, :, :1], a=conv()), "shapes or dtypes"),
    ("add", lambda: model_of(lambda m, x: m.a(x[:1]) + x, a=conv()), "shapes or dtypes"),
    ("add", lambda: model_of(lambda m, x: torch.add(m.a(x), x, alpha=2), a=conv()), "alpha"),
    ("add", lambda: model_of(lambda m, x: (y := m.a(x)) + y, a=conv()), "both summands"),
    ("add", lambda: model_of(lambda m, x: m.a(x) + x + x, a=conv()), "has a residual already"),
    ("add", lambda: model_of(lambda m, x: F.relu(m.a(x)) + x, a=conv()), "activation"),
    ("add", lambda: model_of(lambda m, x: m.a(x) + x.float().sum(1, True), a=conv()), "shapes"),
    ("tanh", lambda: model_of(lambda m, x: m.a(x).tanh(), a=conv()), None),
    ("relu", lambda: model_of(lambda m, x: F.relu(m.a(x).clamp(-1, 1)), a=conv()), "activation"),
    ("mul", lambda: model_of(lambda m, x: m.a(x * x.mean(1, True)), a=conv()), None),
    ("mul", lambda: model_of(lambda m, x: (y := m.a(x).int()) * y.sigmoid(), a=conv()), None),
]  # fmt: skip


@pytest.mark.parametrize(("target", "make", "why"), KEPT)
def test_kept(target: str, make: Callable[[], nn.Module], why: str | None) -> None:
    model = make()
    channels = model.a.in_channels if isinstance(model.a, nn.Conv2d) else 4
    module, report = fused(model, image(channels))
    shown = {"batch_norm": ("batch_norm", "scale_shift")}.get(target, (target,))
    assert any(name in census(module) for name in shown)
    if why is not None:
        assert why in str(report)


def test_layer_moves_down_to_a_later_summand() -> None:
    model = model_of(lambda m, x: [m.a(x) + torch.tanh(x).cumsum(1)], a=conv())
    module, _ = fused(model, image())
    assert census(module) == {"tanh": 1, "cumsum": 1, "conv2d": 1}
    assert field(layer(module), "residual").name == "cumsum"


def test_shared_layers_share_folded_weights() -> None:
    module, _ = fused(
        model_of(lambda m, x: m.n(m.a(m.n(m.a(x)))), a=conv(bias=False), n=nn.BatchNorm2d(4)),
        image(),
    )
    a, b = module.graph.find_nodes(op="call_function", target=functions.conv2d)
    assert field(a, "weight").target == field(b, "weight").target
    assert len(module.sources) == 2


def test_constants_are_the_models_own_tensors_or_have_sources() -> None:
    model = model_of(lambda m, x: m.b(m.n(m.a(x)) * m.s), a=conv(), b=conv(), n=nn.BatchNorm2d(4),
                     s=vector(4, 1, 1))  # fmt: skip
    module, _ = fused(model, image())
    own = {id(t) for t in (*model.parameters(), *model.buffers())}
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    assert {n for n, t in tensors.items() if id(t) not in own} == set(module.sources)
    for found in module.sources.values():
        expected = [model.a.weight, model.n.running_var, model.n.weight, model.s]
        assert {id(t) for t in found} >= {id(t) for t in expected}
        assert {id(t) for t in found} <= own
    assert {id(t) for t in (model.b.weight, model.b.bias)} <= {id(t) for t in tensors.values()}
    assert all(t.dtype == torch.float64 for t in tensors.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    """Folded weights have the dtype of the weights; a batch norm alone keeps float32."""
    model = model_of(lambda m, x: m.k(m.n(m.a(x))).relu(), a=conv(), n=nn.BatchNorm2d(4),
                     k=nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))).to(dtype)  # fmt: skip
    x = image().to(dtype)
    module = trace(model, (x,))
    fuse(module)
    (y,) = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, model(x), rtol=0.05, atol=0.05)
    assert census(module) == {"conv2d": 1, "scale_shift": 1}
    assert field(layer(module), "weight").meta["val"].dtype == dtype
    assert field(layer(module, functions.scale_shift), "scale").meta["val"].dtype == torch.float32


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.layer_scale * self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        y += x
        return y


class Normed(nn.Sequential):
    """A convolution, a batch norm and an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, act: Any = None, **args: Any):
        parts = [conv(inputs, outputs, kernel, bias=False, **args), nn.BatchNorm2d(outputs)]
        super().__init__(*parts, *([act] if act else []))


class InvertedResidual(nn.Module):
    """A block of MobileNet, with squeeze-and-excite if asked for."""

    def __init__(self, width: int, excite: bool) -> None:
        super().__init__()
        act, wide = nn.ReLU6(inplace=True), 3 * width
        self.expand = nn.Sequential(Normed(width, wide, act=act),
                                    Normed(wide, wide, 3, act=act, groups=wide))  # fmt: skip
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(wide, 2), nn.SiLU(inplace=True), conv(2, wide),
            nn.Hardsigmoid(inplace=True),
        ) if excite else None  # fmt: skip
        self.project = Normed(wide, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        return x + self.project(y if self.excite is None else self.excite(y) * y)


class DenseLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), conv(width, 4, bias=False),
            nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(4, 2, 3, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(torch.cat([x]))], 1)


class ShuffleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            Normed(half, half, act=nn.ReLU(inplace=True)), Normed(half, half, 3, groups=half),
            Normed(half, half, act=nn.ReLU(inplace=True)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


BLOCKS: list[tuple[Callable[[], nn.Module], dict[str, int]]] = [
    (lambda: nn.Sequential(ConvNeXtBlock(4), ConvNeXtBlock(4)),
     # One permutation before and after each norm, and one of the first block's residual.
     {"conv2d": 2, "permute": 5, "layer_norm": 2, "linear": 4}),
    (lambda: InvertedResidual(4, excite=False), {"conv2d": 3}),
    (lambda: InvertedResidual(4, excite=True), {"conv2d": 5, "mean": 1, "mul": 1}),
    (lambda: nn.Sequential(DenseLayer(4), DenseLayer(6)),
     {"cat": 2, "channels": 2, "scale_shift": 2, "conv2d": 4}),
    (lambda: ShuffleBlock(4),
     {"chunk": 1, "getitem": 2, "conv2d": 3, "channels": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "parts"), BLOCKS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks(
    make: Callable[[], nn.Module], parts: dict[str, int], layout: torch.memory_format
) -> None:
    x = image().to(memory_format=layout)
    assert census(fused(randomise(make()), x)[0]) == parts
