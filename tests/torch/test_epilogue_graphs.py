"""Activations and residuals of conv2d in graphs, in modules, without a batch, and in bad input."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_epilogue_ops import ALL, WINDOW, by_torch, tensors
from torch import Tensor, nn
from torch.library import opcheck

import convkern
from activations import ACTIVATIONS
from convkern.activations import activated

pytestmark = pytest.mark.filterwarnings(
    "ignore:convkern. the slow reference kernel",
    "ignore:.torch.jit",
    "ignore::DeprecationWarning",
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("activation", ALL)
def test_opcheck(activation: str | None) -> None:
    x, w, b, z = tensors()
    window = ([2, 2], [1, 1], [1, 1], 1)
    opcheck(torch.ops.convkern.conv2d.default, (x, w, b, *window, activation, z))
    given = [t.requires_grad_() for t in (x, w, b, z)]
    opcheck(torch.ops.convkern.conv2d.default, (*given[:3], *window, activation, given[3]))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("activation", ALL)
def test_compile(activation: str | None, backend: str) -> None:
    def conv(x, w, b, residual):
        return convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=residual)

    def torch_in_int(x, w, residual):
        return convkern.conv2d(x, w, activation="clamp(-3,5)", residual=residual)

    compiled = torch.compile(conv, fullgraph=True, backend=backend)
    given = [t.requires_grad_() for t in tensors()]
    for inputs in (given, [t.detach() for t in given]):
        with torch.set_grad_enabled(inputs is given):
            y, expected = compiled(*inputs), conv(*inputs)
        torch.testing.assert_close(y, expected, rtol=0, atol=0)
        assert y.requires_grad == (inputs is given)
    gradients = [torch.autograd.grad(f(*given).sin().sum(), given) for f in (conv, compiled)]
    torch.testing.assert_close(*gradients)
    if activation == "relu":
        x, w = torch.randint(-5, 5, (1, 2, 4, 4)), torch.randint(-5, 5, (3, 2, 3, 3))
        ints = x, w, torch.randint(-5, 5, (1, 3, 2, 2))
        compiled_ints = torch.compile(torch_in_int, fullgraph=True, backend=backend)
        assert torch.equal(compiled_ints(*ints), torch_in_int(*ints))


class Block(nn.Module):
    def __init__(self, activation: str) -> None:
        super().__init__()
        self.first = convkern.Conv2d(3, 3, 3, padding=1, activation=activation)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return convkern.conv2d(y, self.weight, padding=1, activation=self.activation, residual=x)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_export_and_onnx(activation: str, tmp_path: Path) -> None:
    block, x = Block(activation).eval(), 2 * torch.randn(2, 3, 6, 5)
    program = torch.export.export(block, (x,))
    expected = block(x).detach()
    torch.testing.assert_close(program.module()(x), expected)
    for graph in (program.graph, program.run_decompositions().graph):
        targets = [str(n.target) for n in graph.nodes if "conv" in str(n.target)]
        assert targets.count("convkern.conv2d.default") == 2
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.export.load(buffer).module()(x), expected)

    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    table = convkern.onnx_translations()
    exports: list[tuple[Any, tuple[Tensor, ...], dict[str, Any]]]
    exports = [(program, (), {"custom_translation_table": table})]
    if activation in ("clamp(-0.5,0.75)", "gelu_tanh"):  # a model itself has torch's functions
        exports.append((block, (x,), {}))
    for exported, arguments, options in exports:
        path = tmp_path / "block.onnx"
        torch.onnx.export(exported, arguments, path, dynamo=True, verbose=False, **options)
        session = runtime.InferenceSession(path)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------
# Other inputs and modules


@pytest.mark.parametrize("activation", ALL)
def test_unbatched(activation: str | None) -> None:
    x, w, b, z = tensors()
    whole = convkern.conv2d(x, w, b, *WINDOW, activation=activation, residual=z)
    for i in range(len(x)):
        for padding in (1, (1, 1), torch.tensor(1)):  # the last is no short road
            y = convkern.conv2d(x[i], w, b, 2, padding, activation=activation, residual=z[i])
            assert y.shape == z[i].shape
            torch.testing.assert_close(y, whole[i])


@pytest.mark.parametrize("activation", ALL)
def test_no_images_and_no_channels(activation: str | None) -> None:
    for n, c, o in ((0, 2, 3), (2, 0, 3)):
        x, w, b = torch.randn(n, c, 5, 5), torch.randn(o, c, 3, 3), torch.randn(o)
        expected = F.conv2d(x, w, b)
        z = torch.randn(expected.shape, requires_grad=True)
        y = convkern.conv2d(x, w, b, activation=activation, residual=z)
        assert y.shape == expected.shape
        y.sum().backward()
        assert z.grad.shape == z.shape


def reloaded(layer: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_module(activation: str) -> None:
    layer, x = convkern.Conv2d(3, 4, 3, activation=activation), torch.randn(2, 3, 6, 5)
    expected = by_torch(x, layer.weight, layer.bias, None, activation)
    torch.testing.assert_close(layer(x), expected)
    assert repr(layer).endswith(f", activation={activation!r})")
    copies: list[Callable[[nn.Module], nn.Module]] = [
        copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), reloaded, torch.jit.script,
    ]  # fmt: skip
    for copied in (make(layer) for make in copies):
        assert copied.activation == activation
        with torch.no_grad():
            assert torch.equal(copied(x), layer(x))
        torch.testing.assert_close(copied(x), expected)
    plain = nn.Conv2d(3, 4, 3)
    plain.load_state_dict(layer.state_dict())
    layer.load_state_dict(plain.state_dict())
    lazy = convkern.LazyConv2d(4, 3, activation=activation)
    assert lazy(x).shape == expected.shape
    assert lazy.activation == activation


def test_integers_are_handed_to_torch() -> None:
    x, w, z = (torch.randint(-5, 6, size) for size in ((2, 3, 4, 4), (2, 3, 3, 3), (2, 2, 2, 2)))
    for activation in (None, "relu", "relu6", "clamp(-3,5)"):
        y = convkern.conv2d(x, w, activation=activation, residual=z)
        assert torch.equal(y, by_torch(x, w, None, z, activation))


# ------------------------------------------------------------------------------------------------
# Bad input. Each call is made with dtypes and devices that take other roads to the error.

BAD_ACTIVATIONS = {
    "swish": "must be None, 'relu', 'relu6', ", "ReLU": "must be None, ", "": "must be None, ",
    " relu": "must be None, ", "relu(1)": "form 'relu'", "relu()": "form 'relu'",
    "sigmoid(1)": "form 'sigmoid'", "clamp": "form 'clamp(low,high)'",
    "clamp(1)": "form 'clamp(low,high)'", "clamp(1,2,3)": "form 'clamp(low,high)'",
    "clamp(2,1)": "with low <= high", "clamp(nan,1)": "form 'clamp(low,high)'",
    "clamp(0,nan)": "form 'clamp(low,high)'", "clamp(a,1)": "form 'clamp(low,high)'",
    "clamp(1,2": "form 'clamp(low,high)'", "clamp(1,2) ": "form 'clamp(low,high)'",
    "clamp(,)": "form 'clamp(low,high)'", "leaky_relu": "form 'leaky_relu(slope)'",
    "leaky_relu()": "form 'leaky_relu(slope)'", "leaky_relu(1,2)": "form 'leaky_relu(slope)'",
    "leaky_relu(0x1)": "form 'leaky_relu(slope)'", "leaky_relu(nan)": "form 'leaky_relu(slope)'",
    "relu\0": "zero character", "clamp(-1,1)\0": "zero character",
}  # fmt: skip


def roads() -> Iterator[tuple[Tensor, Tensor]]:
    """Returns inputs and weights, whose result is (2, 4, 3, 3)."""
    x, w = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    yield x, w
    yield x, w.clone().requires_grad_()
    yield x.to("meta"), w.to("meta")
    yield x.long(), w.long()
    yield x.half(), w.half()


@pytest.mark.parametrize("activation", BAD_ACTIVATIONS)
def test_bad_activation(activation: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: convkern.Conv2d(3, 4, 3, activation=activation),
        lambda: convkern.LazyConv2d(4, 3, activation=activation),
        lambda: activated(torch.ones(2), activation),
        lambda: convkern.explain(*next(roads()), activation=activation),
        lambda: torch.ops.convkern.conv2d(*next(roads()), activation=activation),
    ]
    calls += [lambda r=r: convkern.conv2d(*r, activation=activation) for r in roads()]
    calls += [lambda r=r: convkern.conv2d(*r, None, 1, "same", activation=activation)
              for r in roads()]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="activation must ") as error:
            call()
        assert type(error.value) is ValueError
        assert BAD_ACTIVATIONS[activation] in str(error.value)
        assert f"activation='{activation.partition(chr(0))[0]}" in str(error.value)


@pytest.mark.parametrize(
    "activation", [5, True, b"relu", nn.ReLU(), F.relu, ["relu"]], ids=lambda a: type(a).__name__
)
def test_an_activation_of_a_wrong_type(activation: Any) -> None:
    calls: list[Callable[[], Any]] = [lambda: convkern.Conv2d(3, 4, 3, activation=activation)]
    calls += [lambda r=r: convkern.conv2d(*r, activation=activation) for r in roads()]
    for call in calls:
        with pytest.raises(TypeError, match="activation must be None or a str, got activation="):
            call()


Z = torch.randn(2, 4, 3, 3)
BAD_RESIDUALS: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "images": (lambda z: z[:1], RuntimeError, "shape [2, 4, 3, 3], got [1, 4, 3, 3]"),
    "broadcast": (lambda z: z[:, :, :1, :1], RuntimeError, "[2, 4, 3, 3], got [2, 4, 1, 1]"),
    "rank 3": (lambda z: z[0], RuntimeError, "shape [2, 4, 3, 3], got [4, 3, 3]"),
    "rank 5": (lambda z: z[None], RuntimeError, "shape [2, 4, 3, 3], got [1, 2, 4, 3, 3]"),
    "scalar": (lambda z: z[0, 0, 0, 0], RuntimeError, "shape [2, 4, 3, 3], got []"),
    "float64": (lambda z: z.double(), RuntimeError, "should be the same dtype"),
    "int": (lambda z: z.int(), RuntimeError, "should be the same dtype"),
    "a list": (lambda z: [1.0], TypeError, "residual must be a Tensor, got list"),
    "a number": (lambda z: 1.0, TypeError, "residual must be a Tensor, got float"),
    "a string": (lambda z: "relu", TypeError, "residual must be a Tensor, got str"),
}


@pytest.mark.parametrize("name", BAD_RESIDUALS)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_bad_residual(name: str, activation: str | None) -> None:
    make, kind, words = BAD_RESIDUALS[name]
    for x, w in roads():
        residual = make(Z.to(x.device, x.dtype))
        for padding in (0, "valid"):
            with pytest.raises(kind, match=r"conv2d: .*residual") as error:
                convkern.conv2d(x, w, padding=padding, activation=activation, residual=residual)
            assert type(error.value) is kind
            assert words in str(error.value)


def test_a_residual_of_another_device() -> None:
    for (x, w), where in zip(roads(), ("meta", "meta", "cpu"), strict=False):
        with pytest.raises(RuntimeError, match="input and residual must be on the same device"):
            convkern.conv2d(x, w, residual=Z.to(where))


def test_a_residual_without_memory() -> None:
    x, w = next(roads())
    freed = Z.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"residual .*its data is not allocated"):
        convkern.conv2d(x, w, residual=freed)


def test_a_residual_of_a_batch_does_not_fit_one_image() -> None:
    x, w = next(roads())
    for residual in (Z, Z[:1], Z[0, 0]):
        with pytest.raises(RuntimeError, match="residual must have the output's shape"):
            convkern.conv2d(x[0], w, residual=residual)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["broadcast", "float64"])
def test_compiled_calls_raise_the_same(name: str) -> None:
    make, kind, words = BAD_RESIDUALS[name]
    for x, w in roads():
        compiled = torch.compile(convkern.conv2d, backend="eager")
        with pytest.raises(kind) as error:
            compiled(x, w, residual=make(Z.to(x.device, x.dtype)))
        assert words in str(error.value)
