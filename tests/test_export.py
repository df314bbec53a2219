"""Models with convkern's layers leave Python: torch.export, AOTInductor, TorchScript, ONNX."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import convkern


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = convkern.Conv2d(3, 8, 3, padding=(1, 2), stride=2, activation="relu")
        self.second = convkern.Conv2d(8, 8, (3, 2), groups=4, bias=False, padding="same")
        self.third = convkern.Conv2d(8, 4, 3, dilation=2, padding=(2, 1), padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x)) + 1).mean((2, 3))


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 11, 10)


def exported(net: nn.Module) -> ExportedProgram:
    return torch.export.export(net, (images(4),), dynamic_shapes=({0: Dim("batch")},))


def convolutions(program: ExportedProgram) -> list[str]:
    """The targets of nodes that are convolutions of whichever library."""
    nodes = program.graph.nodes
    return [str(n.target) for n in nodes if "conv" in str(n.target) and n.op == "call_function"]


@torch.no_grad()
def assert_same(exported_net: Callable[..., torch.Tensor], net: nn.Module) -> None:
    for n in (1, 4, 9):
        x = images(n)
        assert torch.equal(exported_net(x), net(x))


def test_export_keeps_the_op_and_a_dynamic_batch() -> None:
    net = Net().eval()
    program = exported(net)
    assert convolutions(program) == ["convkern.conv2d.default"] * 3
    assert_same(program.module(), net)
    # To the core ATen set; convkern's ops are no part of it, and stay.
    lowered = program.run_decompositions()
    assert convolutions(lowered) == ["convkern.conv2d.default"] * 3
    assert_same(lowered.module(), net)


def test_export_saves_and_loads() -> None:
    net, buffer = Net().eval(), io.BytesIO()
    torch.export.save(exported(net), buffer)
    buffer.seek(0)
    assert_same(torch.export.load(buffer).module(), net)


def test_export_of_a_training_graph() -> None:
    net, x = Net(), images(4)
    program = exported(net).module()
    for module in (program, net):
        module.zero_grad()
        module(x).square().sum().backward()
    ours = {name.rpartition(".")[0]: p.grad for name, p in program.named_parameters()}
    assert ours.keys() == {"first", "second", "third"}
    for (name, p), (other, q) in zip(
        program.named_parameters(), net.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p.grad, q.grad)


def test_export_refuses_what_eager_mode_refuses() -> None:
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return convkern.conv2d(x, w, groups=2)

    with pytest.raises(RuntimeError, match=r"conv2d: .*3 channels"):
        torch.export.export(Wrong(), (images(4), torch.randn(4, 2, 3, 3)))


LOAD_PACKAGE = """
import sys
import torch
import convkern  # registers the ops
model = torch._inductor.aoti_load_package(sys.argv[1])
for x, expected in torch.load(sys.argv[2]):
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
print("as expected")
"""


@pytest.mark.slow
def test_aot_inductor_package_in_another_process(tmp_path: Path) -> None:
    net = Net().eval().requires_grad_(False)
    package = str(tmp_path / "net.pt2")
    torch._inductor.aoti_compile_and_package(exported(net), package_path=package)
    torch.save([(x, net(x)) for x in map(images, (1, 4, 9))], tmp_path / "results.pt")
    ran = subprocess.run(
        [sys.executable, "-c", LOAD_PACKAGE, package, str(tmp_path / "results.pt")],
        capture_output=True, text=True, cwd=Path(convkern.__file__).parent.parent,
    )  # fmt: skip
    assert ran.stdout == "as expected\n", ran.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit")
def test_traced_modules_save_and_load() -> None:
    net, buffer = Net().eval(), io.BytesIO()
    traced = torch.jit.trace(net, images(4))
    assert str(traced.inlined_graph).count("convkern::conv2d") == 3
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    assert_same(torch.jit.load(buffer), net)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.torch.jit", "ignore:Complex modules", "ignore:Using padd"
)
@pytest.mark.parametrize(
    "keywords",
    [
        {"activation": "relu", "stride": (2, 1)},
        {"bias": False, "groups": 3, "padding": 1},
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": 2, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_scripted_modules_save_and_load(keywords: dict) -> None:
    layer, buffer = convkern.Conv2d(3, 6, (3, 2), **keywords), io.BytesIO()
    scripted = torch.jit.script(layer)
    assert "ops.convkern.conv2d" in scripted._scripted.code
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    x = images(2)
    assert torch.equal(loaded(x), layer(x))
    assert torch.equal(loaded(x[0]), layer(x[0]))
    loaded, layer = loaded.to(torch.complex64), layer.to(torch.complex64)
    layer.activation = None  # torch has no ReLU of complex numbers
    if "activation" not in keywords:
        assert torch.equal(loaded(x * 1j), layer(x * 1j))


def onnx_program(net: nn.Module) -> "torch.onnx.ONNXProgram":
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    program = torch.onnx.export(
        net, (images(4),), dynamo=True, dynamic_shapes=({0: Dim("batch")},), verbose=False,
        custom_translation_table=convkern.onnx_translations(),
    )  # fmt: skip
    assert program is not None
    return program


def test_onnx_has_standard_operators_only() -> None:
    program = onnx_program(Net().eval())
    nodes = program.model_proto.graph.node
    assert {n.domain for n in nodes} <= {"", "ai.onnx"}
    assert [n.op_type for n in nodes].count("Conv") == 3
    assert [n.op_type for n in nodes].count("Relu") == 1
    first, second, third = (
        {a.name: list(a.ints) or a.i for a in n.attribute} for n in nodes if n.op_type == "Conv"
    )
    assert first["strides"] == [2, 2]
    assert first["pads"] == [1, 2, 1, 2]
    assert second["group"] == 4
    assert third["dilations"] == [2, 2]


def test_onnx_gives_the_same_results() -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    net = Net().eval().requires_grad_(False)
    session = runtime.InferenceSession(onnx_program(net).model_proto.SerializeToString())
    for n in (1, 4, 9):
        x = images(n)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*legacy TorchScript")
def test_the_older_onnx_export_needs_torchs_layers(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="ONNX export needs onnx")
    net, path = nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), str(tmp_path / "net.onnx")
    convkern.replace_conv2d(net)
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="convkern::conv2d"):
        torch.onnx.export(net, (images(1),), path, dynamo=False)
    convkern.restore_conv2d(net)
    torch.onnx.export(net, (images(1),), path, dynamo=False)
    assert Path(path).stat().st_size > 0


def test_onnx_translations_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        convkern.onnx_translations()
