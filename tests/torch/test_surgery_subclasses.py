"""replace_layers with layers of classes that are derived from torch's, and of other dimensions."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import convkern
from convkern import measuring
from op_calls import Count


class Scaled(nn.Conv2d):
    """Does more than a plain layer."""

    def __init__(self, *args: Any, scale: float = 2, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * super().forward(input)


class Further(Scaled):
    pass


class Standardised(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2), keepdim=True)
        return F.conv1d(x, w, self.bias, self.stride)


class Growing(nn.ConvTranspose2d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)


class WithoutWeight(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.halves = nn.ParameterList([self.weight[:2].detach(), self.weight[2:].detach()])
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.cat(list(self.halves)), self.bias)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "Conv1d": (nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 9)),
    "ConvTranspose1d": (nn.ConvTranspose1d(3, 4, 3, stride=2), (2, 3, 9)),
    "ConvTranspose2d": (nn.ConvTranspose2d(3, 4, 3, 2, output_padding=1), (2, 3, 9, 8)),
    "Scaled": (Scaled(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 9, 8)),
    "Further": (Further(3, 4, 3, scale=3), (2, 3, 9, 8)),
    "Standardised": (Standardised(3, 4, 3), (2, 3, 9)),
    "Growing": (Growing(3, 4, 3), (2, 3, 9, 8)),
    "WithoutWeight": (WithoutWeight(), (2, 3, 9, 8)),
}


def ran(layer: nn.Module, x: Tensor) -> set[str]:
    with Count() as count:
        layer(x)
    return {op for op in count.calls if "conv" in op}


@pytest.mark.parametrize("name", LAYERS)
def test_replaced_copied_pickled_and_restored(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = copy.deepcopy(LAYERS[name])
    layer = layer.double()
    x, cls, state = torch.randn(shape).double(), type(layer), list(layer.state_dict())
    text, parameters = repr(layer), list(layer.parameters())
    expected = layer(x)
    grads = torch.autograd.grad(expected.square().sum(), parameters)
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    assert convkern.replace_layers(layer).replaced == [""]
    assert isinstance(layer, cls)
    assert all("convkern" in op for op in ran(layer, x))
    assert repr(layer) == (text if "Conv" in cls.__name__ else f"Convkern{text}")
    assert list(layer.state_dict()) == state
    assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))
    y = layer(x)
    torch.testing.assert_close(y, expected)
    assert len(calls) == 2
    ours = torch.autograd.grad(y.square().sum(), parameters)
    torch.testing.assert_close(ours, grads, rtol=1e-4, atol=1e-5)
    layer._forward_hooks.clear()  # a local function cannot be pickled
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    copies = [copy.deepcopy(layer), copy.copy(layer), torch.load(saved, weights_only=False)]
    copies += [pickle.loads(pickle.dumps(layer, protocol)) for protocol in (2, 5)]
    for copied in copies:
        assert type(copied) is type(layer)
        assert torch.equal(copied(x), y)
        assert convkern.restore_layers(copied) == [""]
        assert type(copied) is cls
        torch.testing.assert_close(copied(x), expected)
    assert type(layer) is not cls
    assert convkern.replace_layers(layer).replaced == []
    assert convkern.restore_layers(layer) == [""]
    assert type(layer) is cls
    assert not any("convkern" in op for op in ran(layer, x))


def test_layers_of_a_class_become_of_one_class() -> None:
    model = nn.Sequential(Scaled(3, 4, 3), Scaled(4, 4, 3), Further(4, 4, 3))
    report = convkern.replace_conv2d(model)
    assert report.replaced == ["0", "1", "2"]
    assert type(model[0]) is type(model[1])
    assert isinstance(model[2], Further)
    assert type(model[0]).__name__ == type(model[0]).__qualname__ == "ConvkernScaled"
    assert type(model[0]).__doc__ == Scaled.__doc__
    assert type(model[0]).__module__ == Scaled.__module__
    assert convkern.replace_conv2d(model).kept["0"] == "its convolutions run on convkern already"
    assert convkern.restore_conv2d(model) == ["0", "1", "2"]


def test_only_conv2d() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3), Standardised(3, 4, 3), Scaled(3, 4, 3))
    assert convkern.replace_conv2d(model).replaced == ["2"]
    assert convkern.replace_layers(model).replaced == ["0", "1"]
    assert convkern.restore_conv2d(model) == ["2"]
    assert convkern.restore_layers(model) == ["0", "1"]


def test_equal_reasons_are_one_line() -> None:
    layers = [convkern.Conv2d(3, 3, 3) for _ in range(5)]
    model = nn.Sequential(*layers, nn.Conv1d(3, 4, 3), nn.Conv2d(3, 4, 3, dtype=torch.complex64))
    report = convkern.replace_layers(model)
    assert str(report).splitlines() == [
        "1 of 7 layers replaced",
        "kept 5x Conv2d: it is a convkern.Conv2d (0, 1, 2, ...)",
        "kept 6: convkern has no fast kernel for torch.complex64 in torch.strided",
    ]
    assert list(report.kept) == ["0", "1", "2", "3", "4", "6"]


class Refusing(nn.Conv2d):
    """A class from which none can be derived."""

    def __init_subclass__(cls, *, key: str) -> None:
        super().__init_subclass__()


class LazyScaled(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(1, 4, 3)
        self.weight = nn.UninitializedParameter()


def test_kept() -> None:
    own = Scaled(3, 4, 3)
    own.forward = lambda x: x  # type: ignore[method-assign]
    quantised = torch.ao.nn.qat.Conv2d(
        3, 4, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig()
    )
    layers = {
        "its forward was replaced": own,
        "no class can be derived from its class, Refusing: ": Refusing(3, 4, 3),
        "its sizes are not known before its first input": LazyScaled(),
        "it is a subclass of nn.Conv1d, LazyConv1d": nn.LazyConv1d(4, 3),
        "it is a subclass of nn.Conv2d, Conv2d": quantised,
        "it is a subclass of nn.Conv2d, ParametrizedScaled": parametrizations.weight_norm(
            Scaled(3, 4, 3)
        ),
        "convkern has no fast kernel for torch.complex64": Scaled(3, 4, 3, dtype=torch.complex64),
        "it is a convkern.ConvTranspose2d": convkern.ConvTranspose2d(3, 4, 3),
        "it cannot be computed: ": nn.Conv1d(3, 4, 3),
    }
    layers["it cannot be computed: "].weight = nn.Parameter(torch.randn(4, 2, 3))
    for why, layer in layers.items():
        cls = type(layer)
        assert convkern.replace_layers(layer).kept[""].startswith(why)
        assert type(layer) is cls


def test_parametrized_since() -> None:
    model = nn.Sequential(Scaled(3, 4, 3))
    expected = model(x := torch.randn(2, 3, 9, 8))
    convkern.replace_layers(model)
    parametrizations.weight_norm(model[0])
    assert any("convkern" in op for op in ran(model, x))
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x), expected)
    assert convkern.restore_layers(model) == ["0"]
    assert parametrize.type_before_parametrizations(model[0]) is Scaled
    assert not any("convkern" in op for op in ran(model, x))
    torch.testing.assert_close(model(x), expected)
    parametrize.remove_parametrizations(copied[0], "weight")
    assert convkern.restore_layers(copied) == ["0"]
    assert type(copied[0]) is Scaled


def test_a_class_that_someone_derives_further_stays_with_a_warning() -> None:
    model = nn.Sequential(Scaled(3, 4, 3))
    convkern.replace_layers(model)
    model[0].__class__ = type("Mine", (type(model[0]),), {})
    copied = copy.deepcopy(model)
    assert type(copied[0]) is type(model[0])
    with pytest.warns(UserWarning, match="has become Mine, a subclass of ConvkernScaled"):
        assert convkern.restore_layers(model) == []


def test_compiled_traced_and_scripted() -> None:
    model = nn.Sequential(Scaled(3, 4, 3), nn.Flatten(2), Standardised(4, 4, 3)).eval()
    expected = model(x := torch.randn(2, 3, 9, 8))
    convkern.replace_layers(model)
    torch._dynamo.reset()
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        graphs.append(str(graph.graph))
        return graph

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), expected)
    assert [text.count("torch.ops.convkern.conv2d") for text in graphs] == [2]
    program = torch.export.export(model, (x,))
    assert "convkern.conv2d" in str(program.graph)
    graph = torch.fx.symbolic_trace(model)
    assert {convkern.conv2d, convkern.conv1d} <= {node.target for node in graph.graph.nodes}
    torch.testing.assert_close(graph(x), expected)
    fast = convkern.optimize(model, x)
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_layers_are_torchs() -> None:
    model = nn.Sequential(Standardised(3, 4, 3))
    expected = model(x := torch.randn(2, 3, 9))
    convkern.replace_layers(model)
    cls = type(model[0])
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    assert type(model[0]) is cls


def test_fused_training() -> None:
    model = nn.Sequential(
        Scaled(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)
    )
    expected = model(x := torch.randn(2, 3, 9, 8))
    convkern.replace_layers(model)
    assert list(convkern.fuse_training(model, x).blocks) == ["1"]
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_explained() -> None:
    model = nn.Sequential(
        Scaled(3, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Flatten(2), Standardised(4, 4, 3),
        nn.ConvTranspose1d(4, 4, 3), nn.Conv1d(4, 4, 3),
    )  # fmt: skip
    x = torch.randn(2, 3, 9, 8)
    before = convkern.explain(model, x)
    assert [row.kernel for _, row in before] == ["torch"] * 5
    assert "Scaled, which convkern.replace_conv2d would run on fwd." in before.layers[0][1].reason
    assert "nn.Conv1d, which convkern.replace_layers would run on " in before.layers[4][1].reason
    convkern.replace_layers(model)
    after = convkern.explain(model, x)
    passes = ["fwd", "gx", "fwd", "gx", "fwd"]
    assert [row.kernel.partition(".")[0] for _, row in after] == passes
    assert [row.problem for _, row in after] == [row.problem for _, row in before]
    with convkern.profile() as profile:
        model(x)
    ran_kernels = [execution.kernel for execution in profile.executions]
    assert ran_kernels == [row.kernel for _, row in after]


@pytest.mark.parametrize("training", [False, True])
def test_measured(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> nn.Sequential:
        layers = (Scaled(3, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Flatten(2), nn.Conv1d(4, 4, 3))
        last = parametrizations.spectral_norm(nn.Conv1d(4, 4, 3))  # kept, and not timed
        return nn.Sequential(*layers, last).train(training)

    calls: list[bool] = []

    def seconds(call: Any, /) -> float:
        with Count() as count:
            call()
        calls.append(bool(count.of_convkern))
        return float(len(calls))

    monkeypatch.setattr(measuring, "seconds", seconds)
    result = convkern.replace_layers(model(), measure=True, example=torch.randn(2, 3, 9, 8))
    assert calls == [False, True] * 3
    assert list(result.kept) == ["0", "1", "3", "4"]
    assert "ParametrizedConv1d" in result.kept.pop("4")
    assert all("torch was measured to be faster" in why for why in result.kept.values())
    monkeypatch.setattr(measuring, "seconds", lambda call: 1.0)
    result = convkern.replace_layers(model(), measure=True, example=torch.randn(2, 3, 9, 8))
    assert list(result.kept) == ["4"]


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).norm())


@pytest.mark.parametrize("way", ["replaced", "in a block"])
@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "resnetv2_50", "resnetv2_50x1_bit"])
def test_timms_models(name: str, way: str) -> None:
    """All their convolutions are convkern's, and at most twice as far from float64 as torch's."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    if hasattr(model, "head") and hasattr(model.head, "fc"):
        nn.init.normal_(model.head.fc.weight, std=0.01)  # timm's are zeros
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact, theirs = copy.deepcopy(model).double()(x.double()), model(x)
        if way == "replaced":
            report = convkern.replace_layers(model)
            assert report.kept == {}
            ours = model(x)
            used = ran(model, x)
        else:
            with convkern.enabled():
                ours = model(x)
                used = ran(model, x)
    assert all("convkern" in op for op in used)
    assert exact.abs().max() > 0
    assert distance(ours, exact) <= 2 * distance(theirs, exact)
