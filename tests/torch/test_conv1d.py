"""convkern's one-dimensional convolutions against torch's in float64."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import convkern
from as_accurate import assert_as_accurate
from convkern import Conv1d, ConvTranspose1d
from op_calls import Count

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# The shapes of x and w, and the other arguments.
Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]
CONVS: dict[str, Case] = {
    "plain": ((2, 3, 20), (4, 3, 5), {}),
    "short depthwise": ((2, 32, 50), (32, 1, 4), {"groups": 32, "padding": 3}),
    "one step": ((3, 48, 1), (48, 1, 4), {"groups": 48, "padding": 3}),
    "same": ((2, 6, 17), (6, 2, 4), {"groups": 3, "padding": "same", "dilation": 2}),
    "valid": ((2, 6, 17), (6, 6, 4), {"padding": "valid", "stride": (3,)}),
    "waves": ((2, 1, 400), (4, 1, 80), {"stride": 8}),
    "dilation": ((1, 5, 40), (3, 5, 3), {"dilation": (7,), "padding": [7]}),
    "empty batch": ((0, 3, 20), (4, 3, 5), {}),
}
TRANSPOSED: dict[str, Case] = {
    "plain": ((2, 3, 20), (3, 4, 5), {}),
    "upsampling": ((2, 16, 25), (16, 8, 16), {"stride": 8, "padding": 4}),
    "groups": ((2, 6, 9), (6, 2, 3), {"groups": 3, "stride": 2, "output_padding": (1,)}),
    "dilation": ((2, 4, 9), (4, 2, 3), {"dilation": 3, "output_padding": 2, "padding": 1}),
    "empty batch": ((0, 3, 20), (3, 4, 5), {"stride": 2}),
}
FUNCTIONS = {"conv1d": CONVS, "conv_transpose1d": TRANSPOSED}
ALL = [(name, case) for name, cases in FUNCTIONS.items() for case in cases]


def operands(function: str, case: str, dtype: torch.dtype, last: bool) -> list[Tensor]:
    shape, weight, options = FUNCTIONS[function][case]
    outputs = weight[1] * options.get("groups", 1) if function != "conv1d" else weight[0]
    x, w, b = (torch.randn(size, dtype=dtype) for size in (shape, weight, (outputs,)))
    if last:
        x = torch.randn(shape[0], shape[2], shape[1], dtype=dtype).transpose(1, 2)
    return [x, w, b]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("function", "case"), ALL)
def test_values_and_gradients(
    function: str, case: str, bias: bool, dtype: torch.dtype, last: bool
) -> None:
    torch.manual_seed(0)
    options = FUNCTIONS[function][case][2]
    given = operands(function, case, dtype, last)[: 3 if bias else 2]
    mine, torchs = getattr(convkern, function), getattr(F, function)
    with Count() as count:
        y = mine(*given, **options)
    assert count.of_convkern
    assert (y.shape, y.dtype) == (torchs(*given, **options).shape, dtype)
    if last and given[0].shape[2] > 1 and y.numel():
        assert y.transpose(1, 2).is_contiguous()
    gy = torch.randn(y.shape, dtype=dtype)
    assert_as_accurate(mine, torchs, given, gy, options)


@pytest.mark.parametrize(("function", "case"), [pair for pair in ALL if "empty" not in pair[1]])
def test_gradients_of_two_orders(function: str, case: str) -> None:
    x, w, b = (t.requires_grad_() for t in operands(function, case, torch.float64, False))

    def call(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y: Tensor = getattr(convkern, function)(x[:1], w, b, **FUNCTIONS[function][case][2])
        return y

    assert gradcheck(call, (x, w, b), fast_mode=True)
    assert gradgradcheck(call, (x, w, b), fast_mode=True)


@pytest.mark.parametrize(
    ("function", "shape", "weight", "options"),
    [
        ("conv1d", (1, 4, 9), (4, 3, 3), {}),
        ("conv1d", (4,), (4, 4, 3), {}),
        ("conv1d", (1, 4, 9), (4, 4, 3, 3), {}),
        ("conv1d", (1, 4, 9), (4, 4, 3), {"stride": (1, 1)}),
        ("conv_transpose1d", (1, 4, 9), (3, 4, 3), {}),
        ("conv_transpose1d", (1, 4, 9), (4, 4), {}),
        ("conv_transpose1d", (1, 4, 9), (4, 4, 3), {"padding": (1, 1)}),
    ],
)
def test_wrong_arguments_raise_what_torch_raises(
    function: str, shape: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any]
) -> None:
    x, w = torch.randn(shape), torch.randn(weight)
    with pytest.raises(RuntimeError) as theirs:
        getattr(F, function)(x, w, **options)
    with pytest.raises(RuntimeError) as ours:
        getattr(convkern, function)(x, w, **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        ("conv1d", {"stride": 0}, "stride"),
        ("conv1d", {"padding": -1}, "padding"),
        ("conv1d", {"padding": 0, "dilation": 9}, "[Kk]ernel size"),
        ("conv1d", {"bias": torch.randn(3)}, "bias"),
        ("conv_transpose1d", {"stride": 0}, "stride"),
        ("conv_transpose1d", {"output_padding": 1}, "output padding"),
    ],
)
def test_other_wrong_arguments(function: str, options: dict[str, Any], words: str) -> None:
    x, w = torch.randn(1, 4, 9), torch.randn(4, 4, 3)
    for module in (F, convkern):
        with pytest.raises(RuntimeError, match=words):
            getattr(module, function)(x, w, **options)


def test_wrong_kinds() -> None:
    x, w = torch.randn(1, 4, 9), torch.randn(4, 4, 3)
    for function in (convkern.conv1d, convkern.conv_transpose1d):
        with pytest.raises(TypeError, match=f"{function.__name__}: weight must be a Tensor"):
            function(x, [1.0])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="stride must be an integer"):
            function(x, w, stride=1.5)  # type: ignore[arg-type]


LAYERS: dict[str, tuple[type[nn.Module], type[nn.Module], dict[str, Any]]] = {
    "plain": (Conv1d, nn.Conv1d, {}),
    "same": (Conv1d, nn.Conv1d, {"padding": "same"}),
    "circular": (Conv1d, nn.Conv1d, {"padding": 2, "padding_mode": "circular", "stride": 2}),
    "transposed": (ConvTranspose1d, nn.ConvTranspose1d, {"stride": 2, "output_padding": 1}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    ours, theirs, options = LAYERS[name]
    layer, reference = ours(4, 6, 3, **options), theirs(4, 6, 3, **options)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 15)
    with Count() as count:
        y = layer(x)
    assert count.of_convkern
    torch.testing.assert_close(y, reference(x), rtol=1e-4, atol=1e-5)
    scripted = torch.jit.script(layer)  # type: ignore[no-untyped-call]
    net = nn.Sequential(layer, nn.ReLU())
    graph = torch.fx.symbolic_trace(net)
    assert [n.op for n in graph.graph.nodes].count("call_module") == 2
    program = torch.export.export(net, (x,)).module()
    compiled = torch.compile(net, backend="aot_eager", dynamic=True)
    for other in (graph, program, compiled):
        torch.testing.assert_close(other(x), y.relu(), rtol=1e-4, atol=1e-5)
    for other in (scripted, copy.deepcopy(layer)):
        torch.testing.assert_close(other(x), y, rtol=1e-4, atol=1e-5)
    activated = ours(4, 6, 3, **options, activation="silu")
    activated.load_state_dict(layer.state_dict())
    torch.testing.assert_close(activated(x), F.silu(y), rtol=1e-4, atol=1e-5)
    assert "activation='silu'" in repr(activated)
    with pytest.raises(ValueError, match="gelus"):
        ours(4, 6, 3, activation="gelus")


def test_results_are_no_views() -> None:
    """Views could not be changed in place by a function that is differentiated."""
    for function in FUNCTIONS:
        x, w, b = operands(function, "plain", torch.float32, False)
        with torch.no_grad():
            y = getattr(convkern, function)(x, w, b)
        y.add_(torch.zeros(y.shape[1], 1, requires_grad=True))
        assert y.requires_grad
        getattr(convkern, function)(x, w.requires_grad_(), b).detach_()


def test_overrides_of_conv_forward_are_called() -> None:
    class Constant(Conv1d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, weight, bias) * 0 + 7

    assert (Constant(2, 3, 1)(torch.ones(1, 2, 4)) == 7).all()


@pytest.mark.parametrize("ours", [Conv1d, ConvTranspose1d, convkern.ConvTranspose2d])
def test_constructors(ours: type[nn.Module]) -> None:
    layer = torch.nn.utils.skip_init(ours, 4, 4, 3)
    assert layer.weight.shape[:2] == (4, 4)


def test_traces_are_of_torchs_functions() -> None:
    for function in FUNCTIONS:
        x, w, b = operands(function, "plain", torch.float32, False)
        call = getattr(convkern, function)
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(lambda x, call=call, w=w, b=b: call(x, w, b), x)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced(x[:1]), call(x[:1], w, b), rtol=1e-4, atol=1e-5)


def test_layer_of_a_given_length() -> None:
    layer = ConvTranspose1d(4, 6, 3, stride=2)
    x = torch.randn(2, 4, 15)
    assert layer(x, [32]).shape == (2, 6, 32)


def test_transforms_and_autocast() -> None:
    for function in FUNCTIONS:
        x, w, b = operands(function, "plain", torch.float32, False)
        ours, theirs = getattr(convkern, function), getattr(F, function)
        expected = theirs(x, w, b)
        mapped = torch.vmap(ours, (0, None, None))(x, w, b)
        torch.testing.assert_close(mapped, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(x[0], w, b), expected[0], rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = ours(x, w, b)
            assert y.dtype == theirs(x, w, b).dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, rtol=5e-2, atol=5e-2)
