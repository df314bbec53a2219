"""Models with convkern's layers leave Python: torch.export, AOTInductor, TorchScript, ONNX."""

import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Returns the targets of nodes that are convolutions, of any library."""
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
    # convkern's ops are not in the core ATen set, so they stay.
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


@pytest.mark.exhaustive
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
    layer.activation = None  # torch has no ReLU for complex numbers
    if "activation" not in keywords:
        assert torch.equal(loaded(x * 1j), layer(x * 1j))


def dynamo_program(model: nn.Module | ExportedProgram, **options: Any) -> bytes:
    program = torch.onnx.export(
        model, (images(4),), dynamo=True, dynamic_shapes=({0: Dim("batch")},), verbose=False,
        **options,
    )  # fmt: skip
    assert program is not None
    return program.model_proto.SerializeToString()


def of_exported_program(net: nn.Module) -> bytes:
    """Its graph already has convkern's op."""
    return dynamo_program(exported(net), custom_translation_table=convkern.onnx_translations())


def of_torchscript(net: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(
        net, (images(4),), buffer, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    return buffer.getvalue()


EXPORTERS = {
    "plain": dynamo_program,
    "exported program": of_exported_program,
    "TorchScript": of_torchscript,
}


@pytest.fixture(scope="module", params=EXPORTERS.values(), ids=EXPORTERS)
def net_and_onnx(request: pytest.FixtureRequest) -> tuple[nn.Module, bytes]:
    """Returns the network and its ONNX file, exported in one of several ways."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter warns
        return net, request.param(net)


def test_onnx_has_standard_operators_only(net_and_onnx: tuple[nn.Module, bytes]) -> None:
    import onnx

    nodes = onnx.load_from_string(net_and_onnx[1]).graph.node
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


def test_onnx_gives_the_same_results(net_and_onnx: tuple[nn.Module, bytes]) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    net, program = net_and_onnx
    session = runtime.InferenceSession(program)
    for n in (1, 4, 9):
        x = images(n)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*legacy TorchScript")
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_of_replaced_models_and_functions(dynamo: bool) -> None:
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

    class Unbatched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = torch.linspace(-1, 1, 12).view(4, 3, 1, 1)
            return convkern.conv2d(x[0], w, stride=(2, 1), activation="relu")

    replaced = nn.Sequential(nn.Conv2d(3, 6, (2, 3), groups=3, padding=(2, 1))).requires_grad_(
        False
    )
    convkern.replace_conv2d(replaced)
    for net in (replaced.eval(), Unbatched().eval()):
        x, buffer = images(1), io.BytesIO()
        program = torch.onnx.export(net, (x,), None if dynamo else buffer, dynamo=dynamo)
        if program is not None:
            program.save(buffer)
        session = runtime.InferenceSession(buffer.getvalue())
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-5, atol=1e-5)
        # During the export it was torch's op, and now it is convkern's again.
        with torch.profiler.profile() as profile:
            net(x)
        assert "convkern::conv2d" in {event.key for event in profile.key_averages()}


def test_what_onnx_export_cannot_see_through_is_refused_by_name() -> None:
    """Graphs that already hold the op need the translations or torch's layers."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match=r"convkern\.conv2d"):
        dynamo_program(exported(Net().eval()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Net().eval(), images(1))
        with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="convkern::conv2d"):
            of_torchscript(traced)


def test_importing_convkern_does_not_import_onnx() -> None:
    code = "import sys, convkern; print({'onnx', 'onnxscript', 'torch.onnx'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr


def test_onnx_translations_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        convkern.onnx_translations()
