"""convkern.conv_transpose2d and convkern.ConvTranspose2d against torch's in float64, with what they
leave to torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import convkern
from as_accurate import assert_as_accurate
from convkern import ConvTranspose2d, conv_transpose2d
from op_calls import Count

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FORMATS = (torch.contiguous_format, torch.channels_last)

# The shapes of x and w, and the other arguments.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 5, 6), (3, 4, 3, 3), {}),
    "gan": ((4, 16, 4, 4), (16, 8, 4, 4), {"stride": 2, "padding": 1}),
    "latent": ((3, 20, 1, 1), (20, 8, 4, 4), {}),
    "unet": ((2, 8, 7, 7), (8, 4, 2, 2), {"stride": 2}),
    "super-resolution": (
        (1, 8, 9, 8), (8, 1, 9, 9), {"stride": 3, "padding": 4, "output_padding": 2}
    ),
    "groups": ((2, 6, 5, 4), (6, 2, 3, 2), {"groups": 3, "stride": (1, 2)}),
    "depthwise": ((2, 5, 6, 6), (5, 1, 3, 3), {"groups": 5, "stride": 2, "padding": 1}),
    "dilation": ((2, 3, 5, 5), (3, 2, 3, 2), {"dilation": (2, 3), "stride": 2, "padding": (2, 1)}),
    "extra whole steps": (
        (2, 3, 4, 5), (3, 2, 2, 2), {"dilation": 3, "output_padding": 2, "stride": (1, 2)}
    ),
    "gaps": ((1, 2, 3, 3), (2, 2, 1, 2), {"stride": 4, "output_padding": (3, 1)}),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "empty batch": ((0, 3, 5, 5), (3, 2, 3, 3), {"stride": 2}),
}  # fmt: skip


def operands(case: str, dtype: torch.dtype, format: torch.memory_format) -> list[Tensor]:
    shape, weight, options = CASES[case]
    outputs = weight[1] * options.get("groups", 1)
    sizes = (shape, weight, (outputs,))
    x, w, b = (torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes)
    return [x.detach().contiguous(memory_format=format).requires_grad_(), w, b]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(
    case: str, bias: bool, dtype: torch.dtype, format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    options = CASES[case][2]
    given = operands(case, dtype, format)[: 3 if bias else 2]
    reference = F.conv_transpose2d(*given, **options)
    with Count() as count:
        y = conv_transpose2d(*given, **options)
    assert count.of_convkern
    assert (y.shape, y.dtype) == (reference.shape, dtype)
    if format == torch.channels_last and not given[0].is_contiguous():
        assert y.is_contiguous(memory_format=format)
    gy = torch.randn_like(y)
    assert_as_accurate(conv_transpose2d, F.conv_transpose2d, given, gy, options)


@pytest.mark.parametrize("case", [name for name in CASES if "empty" not in name])
def test_gradients_of_two_orders(case: str) -> None:
    x, w, b = operands(case, torch.float64, torch.contiguous_format)

    def call(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return conv_transpose2d(x[:1, :, :2, :2], w, b, **CASES[case][2])

    assert gradcheck(call, (x, w, b), fast_mode=True)
    assert gradgradcheck(call, (x, w, b), fast_mode=True)


@pytest.mark.parametrize("activation", ["relu", "silu", "leaky_relu(0.2)"])
def test_activation(activation: str) -> None:
    x, w, b = operands("gan", torch.float32, torch.contiguous_format)
    options = CASES["gan"][2]
    y = conv_transpose2d(x, w, b, **options, activation=activation)  # type: ignore[arg-type]
    plain = F.conv_transpose2d(x, w, b, **options)
    expected = convkern.activations.activated(plain, activation)  # type: ignore[arg-type]
    torch.testing.assert_close(y, expected)


def test_images_without_a_batch() -> None:
    x, w, b = operands("gan", torch.float32, torch.contiguous_format)
    torch.testing.assert_close(
        conv_transpose2d(x[0], w, b, 2, 1), F.conv_transpose2d(x[0], w, b, 2, 1)
    )


BAD: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "channels": ((1, 4, 5, 5), (3, 4, 3, 3), {}),
    "rank of input": ((4, 5), (4, 4, 3, 3), {}),
    "rank of weight": ((1, 4, 5, 5), (4, 4, 3), {}),
    "groups": ((1, 4, 5, 5), (4, 4, 3, 3), {"groups": 3}),
    "three strides": ((1, 4, 5, 5), (4, 4, 3, 3), {"stride": [1, 1, 1]}),
    "no groups": ((1, 4, 5, 5), (4, 4, 3, 3), {"groups": 0}),
    "stride": ((1, 4, 5, 5), (4, 4, 3, 3), {"stride": 0}),
    "padding": ((1, 4, 5, 5), (4, 4, 3, 3), {"padding": -1}),
    "dilation": ((1, 4, 5, 5), (4, 4, 3, 3), {"dilation": 0}),
    "output padding": ((1, 4, 5, 5), (4, 4, 3, 3), {"output_padding": 1}),
    "negative output padding": ((1, 4, 5, 5), (4, 4, 3, 3), {"output_padding": -1}),
    "all cut off": ((1, 4, 2, 2), (4, 4, 3, 3), {"padding": 4}),
    "empty image": ((1, 4, 0, 5), (4, 4, 3, 3), {}),
    "bias": ((1, 4, 5, 5), (4, 4, 3, 3), {"bias": torch.randn(3)}),
    "dtype": ((1, 4, 5, 5), (4, 4, 3, 3), {"weight": torch.randn(4, 4, 3, 3).double()}),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_raise_what_torch_raises(case: str) -> None:
    shape, weight, options = BAD[case]
    x, given = torch.randn(shape), {"weight": torch.randn(weight), **options}
    with pytest.raises(RuntimeError) as theirs:
        F.conv_transpose2d(x, **given)
    with pytest.raises(type(theirs.value)) as ours:
        conv_transpose2d(x, **given)
    assert str(ours.value).splitlines()[0] == str(theirs.value).splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "error_class", "words"),
    [
        ({"input": [1.0]}, TypeError, "conv_transpose2d: input must be a Tensor, got list"),
        ({"stride": 1.5}, TypeError, r"conv_transpose2d: stride must be an integer or two.*1\.5"),
        ({"padding": "same"}, TypeError, "conv_transpose2d: padding must be an integer or two"),
        ({"output_padding": 2**63}, ValueError, "conv_transpose2d: output_padding must fit int64"),
        ({"activation": "gelus"}, ValueError, "gelus"),
        (
            {"groups": 1.0},
            TypeError,
            r"conv_transpose2d: groups.*got groups=1\.0",
        ),
        ({"groups": True}, TypeError, "conv_transpose2d: groups must be an integer"),
    ],
)
def test_wrong_kinds(arguments: dict[str, Any], error_class: type, words: str) -> None:
    given = {"input": torch.randn(1, 2, 3, 3), "weight": torch.randn(2, 2, 3, 3), **arguments}
    with pytest.raises(error_class, match=words):
        conv_transpose2d(**given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast(dtype: torch.dtype) -> None:
    x, w, b = operands("gan", dtype, torch.contiguous_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = [f(x, w, b, 2, 1) for f in (conv_transpose2d, F.conv_transpose2d)]
    expected = torch.float64 if dtype == torch.float64 else torch.bfloat16
    assert results[0].dtype == results[1].dtype == expected
    torch.testing.assert_close(*results, rtol=2e-2, atol=2e-2)


def test_transforms_and_compilers() -> None:
    x, w, b = operands("gan", torch.float32, torch.contiguous_format)
    options = CASES["gan"][2]
    expected = F.conv_transpose2d(x, w, b, **options)

    def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return conv_transpose2d(x, w, b, **options)

    mapped = torch.vmap(ours, (0, None, None))(x.unsqueeze(1), w, b).squeeze(1)
    torch.testing.assert_close(mapped, expected, rtol=1e-4, atol=1e-4)
    tangents = tuple(torch.randn_like(t) for t in (x, w, b))
    mine, theirs = (
        torch.func.jvp(f, (x, w, b), tangents)[1]
        for f in (ours, lambda x, w, b: F.conv_transpose2d(x, w, b, **options))
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(ours, backend="aot_eager", dynamic=True)
    for images in (x, x[:2, :, :3]):
        torch.testing.assert_close(compiled(images, w, b), ours(images, w, b))
    traced = torch.jit.trace(ours, (x, w, b))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(x, w, b), expected, rtol=1e-4, atol=1e-4)


class _Sized(nn.Module):
    """Calls a layer with an output size."""

    def __init__(self, layer: nn.Module, output_size: list[int] | None) -> None:
        super().__init__()
        self.layer, self.output_size = layer, output_size

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x, output_size=self.output_size)
        return y


@pytest.mark.parametrize("output_size", [None, [9, 10]])
def test_layer(output_size: list[int] | None) -> None:
    options: dict[str, Any] = {"stride": 2, "padding": 1}
    layer, theirs = ConvTranspose2d(4, 6, 3, **options), nn.ConvTranspose2d(4, 6, 3, **options)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 5, 5)
    with Count() as count:
        y = layer(x, output_size)
    assert count.of_convkern
    torch.testing.assert_close(y, theirs(x, output_size), rtol=1e-4, atol=1e-5)
    scripted = torch.jit.script(layer)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(scripted(x, output_size), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(layer)(x, output_size), y)
    traced = torch.fx.symbolic_trace(_Sized(layer, output_size))
    assert [n.op for n in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(traced(x), y)
    if output_size is None:
        net = nn.Sequential(layer, nn.ReLU())
        graph = torch.fx.symbolic_trace(net)
        assert [n.op for n in graph.graph.nodes] == [
            "placeholder",
            "call_module",
            "call_module",
            "output",
        ]
        torch.testing.assert_close(graph(x), net(x))
        program = torch.export.export(net, (x,)).module()
        torch.testing.assert_close(program(x), net(x))


def test_layer_with_an_activation() -> None:
    layer = ConvTranspose2d(4, 6, 3, activation="relu")
    assert "activation='relu'" in repr(layer)
    x = torch.randn(2, 4, 5, 5)
    plain = F.conv_transpose2d(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), plain.relu(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="gelus"):
        ConvTranspose2d(4, 6, 3, activation="gelus")  # type: ignore[arg-type]
