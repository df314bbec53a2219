"""Tools that inspect modules and graphs: torch.fx, fusion of batch norm, quantisation, counters."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torchvision
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.fx import Tracer, symbolic_trace
from torch.fx.experimental import optimization
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import convkern

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*uantiz", "ignore:.*observer", "ignore:.*reduce_range",
    "ignore:.torch.jit",
)  # fmt: skip
X = torch.randn(2, 3, 6, 6)


def net() -> nn.Sequential:
    return nn.Sequential(
        convkern.Conv2d(3, 4, 3, padding=1, activation="relu"),
        convkern.Conv2d(4, 4, 3, padding="same", padding_mode="circular"),
    )


def targets(graph: torch.fx.Graph) -> list[object]:
    return [n.target for n in graph.nodes if n.op not in ("placeholder", "output")]


def test_a_layer_is_one_node_of_a_traced_graph() -> None:
    model = net()
    traced = symbolic_trace(model)
    assert targets(traced.graph) == ["0", "1"]
    assert type(traced.get_submodule("0")) is convkern.Conv2d
    again = torch.fx.Transformer(traced).transform()
    for n in (1, 3):
        x = torch.randn(n, 3, 6, 6)
        for other in (traced, again, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
            assert torch.equal(other(x), model(x))


def test_a_layer_called_twice_is_two_nodes() -> None:
    layer = convkern.Conv2d(3, 3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    traced = symbolic_trace(model)
    assert targets(traced.graph) == ["0", "1", "0"]
    assert torch.equal(traced(X), model(X))


def test_the_tracer_decides_as_it_would_for_torchs_layer() -> None:
    class Everything(Tracer):
        def is_leaf_module(self, m: nn.Module, name: str) -> bool:
            return False

    class Small(Tracer):
        def is_leaf_module(self, m: nn.Module, name: str) -> bool:
            return type(m) is nn.Conv2d and m.in_channels == 3

    model = net()
    assert convkern.conv2d in targets(Everything().trace(model))
    assert "0" in targets(Small().trace(model))
    assert convkern.conv2d in targets(Small().trace(model))


def test_what_is_traced_through() -> None:
    """Tracing goes once through the layer itself, through subclasses, and through layers with
    hooks."""

    class More(convkern.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    hooked = net()
    hooked[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    hooked[1].register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 3,))
    for model in (convkern.Conv2d(3, 4, 3), nn.Sequential(More(3, 4, 3)), hooked):
        traced = symbolic_trace(model)
        assert convkern.conv2d in targets(traced.graph)
        assert torch.equal(traced(X), model(X))


def resnets() -> tuple[nn.Module, nn.Module]:
    """Returns torch's network and a replaced one with the same weights."""
    theirs = torchvision.models.resnet18().eval()
    ours = copy.deepcopy(theirs)
    convkern.replace_conv2d(ours)
    return ours, theirs


def test_graphs_and_features_of_replaced_models_are_those_of_torchs() -> None:
    ours, theirs = resnets()
    assert str(symbolic_trace(ours).graph) == str(symbolic_trace(theirs).graph)
    assert get_graph_node_names(ours) == get_graph_node_names(theirs)
    x, nodes = torch.randn(1, 3, 32, 32), {"layer1.0.conv1": "features"}
    with torch.no_grad():
        ours, theirs = (create_feature_extractor(m, nodes)(x)["features"] for m in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class Quantisable(nn.Module):
    """Has a layer with batch norm, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.last(self.relu(self.norm(self.conv(self.enter(x))))))


def fused_by_fx(model: nn.Module) -> nn.Module:
    return optimization.fuse(model)


def fused_eagerly(model: nn.Module) -> nn.Module:
    return quantization.fuse_modules(model, [["conv", "norm"]])


def frozen(model: nn.Module) -> nn.Module:
    return torch.jit.freeze(torch.jit.script(model))


def quantised_eagerly(model: nn.Module) -> nn.Module:
    model = quantization.fuse_modules(model, [["conv", "norm", "relu"]])
    model.qconfig = quantization.get_default_qconfig("x86")
    model = quantization.prepare(model)
    model(X)
    return quantization.convert(model)


def quantised_by_fx(model: nn.Module) -> nn.Module:
    mapping = quantization.get_default_qconfig_mapping("x86")
    model = quantize_fx.prepare_fx(model, mapping, (X,))
    model(X)
    return quantize_fx.convert_fx(model)


def has_norm(model: nn.Module) -> bool:
    graph = str(model.graph) if isinstance(model, torch.jit.ScriptModule) else ""
    return "batch_norm" in graph or any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


NO_FUSER = pytest.raises(AssertionError, match=r"did not find fuser method.*convkern")


@pytest.mark.parametrize(
    ("fuse", "refuses"),
    [(fused_by_fx, nullcontext()), (fused_eagerly, NO_FUSER), (frozen, nullcontext())],
)
def test_batch_norm_is_folded_into_restored_layers(fuse, refuses) -> None:
    """The README says so. Torch's tools fold by the layer's exact class, or by torch's op."""
    model = Quantisable().eval()
    model.norm.running_var.uniform_(1, 2)
    expected = model(X)
    convkern.replace_conv2d(model)
    with refuses:
        assert has_norm(fuse(copy.deepcopy(model)))
    convkern.restore_conv2d(model)
    fused = fuse(model)
    assert not has_norm(fused)
    if fuse is not frozen:
        assert len(convkern.replace_conv2d(fused).replaced) == 2
    torch.testing.assert_close(fused(X), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines, reason="no engine for this processor"
)
@pytest.mark.parametrize(
    ("quantise", "refuses"), [(quantised_eagerly, NO_FUSER), (quantised_by_fx, nullcontext())]
)
def test_restored_models_are_quantised(quantise, refuses) -> None:
    model = Quantisable().eval()
    convkern.replace_conv2d(model)
    with refuses:
        left = quantise(copy.deepcopy(model)).modules()
        assert sum(type(m) is convkern.Conv2d for m in left) == 2
    assert convkern.restore_conv2d(model) == ["conv", "last"]
    quantised = quantise(copy.deepcopy(model))
    layers = [m for m in quantised.modules() if "Conv" in type(m).__name__]
    assert [type(m).__module__.startswith("torch.ao.nn") for m in layers] == [True, True]
    assert (quantised(X) - model(X)).abs().max() < 0.1


def test_quantisers_of_exported_programs_find_torchs_op_in_restored_models() -> None:
    model = Quantisable().eval()
    convkern.replace_conv2d(model)
    for op in (torch.ops.convkern.conv2d.default, torch.ops.aten.conv2d.default):
        program = torch.export.export(model, (X,))
        assert targets(program.graph).count(op) == 2
        convkern.restore_conv2d(model)


def test_counters_by_class_see_restored_layers() -> None:
    """thop and similar tools look the class up in a table."""

    def counted(model: nn.Module) -> int:
        return sum(type(m) is nn.Conv2d for m in model.modules())

    ours, theirs = resnets()
    assert counted(ours) == 0
    convkern.restore_conv2d(ours)
    assert counted(ours) == counted(theirs) == 20
