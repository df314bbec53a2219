"""convkern.enabled with torch.compile, torch.export and TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkern

X = torch.randn(2, 3, 9, 9)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    assert torch._C._len_torch_function_stack() == 0


class Doubling(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, 2 * self.weight, self.bias, self.stride)


def net() -> nn.Sequential:
    """Has pads directly in front of convolutions, which stay as they are in graphs."""
    torch.manual_seed(0)
    return nn.Sequential(
        Doubling(3, 4, 3),
        nn.ReflectionPad2d(1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Flatten(2),
        nn.ConstantPad1d((2, 0), 0.0),
        nn.Conv1d(4, 4, 3),
        nn.ConvTranspose1d(4, 2, 3),
    )


class Graphs:
    """A backend that keeps the names of what its graphs call, and runs them unchanged."""

    def __init__(self) -> None:
        self.all: list[list[str]] = []

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Any]) -> torch.fx.GraphModule:
        self.all.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
        return graph

    def ours(self, which: int = -1) -> int:
        return sum(name.startswith("convkern.conv2d") for name in self.all[which])


def compiled_inside(model: nn.Module, backend: Any) -> Tensor:
    with convkern.enabled():
        y: Tensor = torch.compile(model, fullgraph=True, backend=backend)(X)
    return y


def called_inside(model: nn.Module, backend: Any) -> Tensor:
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with convkern.enabled():
        y: Tensor = compiled(X)
    return y


def block_inside(model: nn.Module, backend: Any) -> Tensor:
    def call(x: Tensor) -> Tensor:
        with convkern.enabled():
            y: Tensor = model(x)
        return y

    result: Tensor = torch.compile(call, fullgraph=True, backend=backend)(X)
    return result


def decorated(model: nn.Module, backend: Any) -> Tensor:
    call = convkern.enabled()(model.forward)
    y: Tensor = torch.compile(lambda x: call(x), fullgraph=True, backend=backend)(X)
    return y


def enabled_before(model: nn.Module, backend: Any) -> Tensor:
    convkern.enable()
    try:
        y: Tensor = torch.compile(model, fullgraph=True, backend=backend)(X)
    finally:
        convkern.disable()
    return y


WAYS = [compiled_inside, called_inside, block_inside, decorated, enabled_before]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_compiled(way: Callable[[nn.Module, Any], Tensor]) -> None:
    model, graphs = net(), Graphs()
    torch.testing.assert_close(way(model, graphs), model(X))
    assert len(graphs.all) == 1
    assert graphs.ours() == 5


def test_a_graph_for_inside_and_one_for_outside() -> None:
    model, graphs = net(), Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    for _ in range(2):
        torch.testing.assert_close(compiled(X), model(X))
        with convkern.enabled():
            torch.testing.assert_close(compiled(X), model(X))
    assert len(graphs.all) == 2
    assert [graphs.ours(which) for which in (0, 1)] == [0, 5]


def test_compiled_training_step() -> None:
    model = net()
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(X).square().sum(), parameters)
    y = compiled_inside(model, "aot_eager")
    ours = torch.autograd.grad(y.square().sum(), parameters)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict: bool) -> None:
    model = net()
    with convkern.enabled():
        program = torch.export.export(model, (X,), strict=strict)
    called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert sum(name.startswith("convkern.conv2d") for name in called) == 5
    torch.testing.assert_close(program.module()(X), model(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript() -> None:
    model = net()
    expected = model(X)
    scripted = torch.jit.script(model[2])
    with convkern.enabled():
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(model, (X,), check_trace=False)
        torch.testing.assert_close(scripted(model[1](model[0](X))), model[2](model[1](model[0](X))))
    assert "convkern::conv2d" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(X), expected)


def test_tools_of_convkern_inside() -> None:
    model = net().eval()
    with torch.no_grad():
        expected = model(X)
        with convkern.enabled():
            fast = convkern.optimize(model, X)
            torch.testing.assert_close(fast(X), expected, rtol=1e-4, atol=1e-5)
            assert len(convkern.explain(model, X)) == 5
            with convkern.profile() as profile:
                model(X)
    assert len(profile.executions) == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["replaced", "in a block"])
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_files_have_standard_operators(way: str, dynamo: bool, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, path = net().eval(), tmp_path / "model.onnx"
    if way == "replaced":
        convkern.replace_layers(model)
        torch.onnx.export(model, (X,), path, dynamo=dynamo)
    else:
        with convkern.enabled():
            torch.onnx.export(model, (X,), path, dynamo=dynamo)
    nodes = [node for node in onnx.load(path).graph.node if "Conv" in node.op_type]
    assert {node.domain for node in nodes} == {""}
    assert sorted(node.op_type for node in nodes) == ["Conv"] * 3 + ["ConvTranspose"] * 2
