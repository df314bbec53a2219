"""convkern.linear and convkern.Linear against torch's in float64, and what they leave to torch."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import convkern
from convkern import functional
from op_calls import Count

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Sizes of the leading axes, of which the products are at the limit of what torch gets or above it.
LEADING = ((2048,), (64, 32), (3, 683), (2, 32, 33), (2, 4, 16, 17), (1, 2048, 1), (2049,))


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the smallest product run on convkern's kernels."""
    monkeypatch.setattr(functional, "_LEAST_PRODUCTS", 0)


def is_ours(x: Tensor, w: Tensor, b: Tensor | None = None) -> bool:
    with Count() as count:
        convkern.linear(x, w, b)
    return bool(count.of_convkern)


def error(y: Tensor, expected: Tensor) -> float:
    """Returns the largest error relative to the root mean square of the results."""
    wide = y.detach().double() - expected.detach()
    return float(wide.abs().max() / expected.detach().square().mean().sqrt())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients(leading: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = [(*leading, 16), (64, 16)] + [(64,)] * bias
    ours = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    gy = torch.randn(*leading, 64, dtype=dtype)
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    wide = [t.detach().double().requires_grad_() for t in ours]
    with Count() as count:
        y = convkern.linear(*ours)
    assert count.of_convkern
    y.backward(gy)
    F.linear(*wide).backward(gy.double())
    reference = F.linear(*theirs)
    reference.backward(gy)
    assert y.is_contiguous()
    assert (y.shape, y.dtype) == (reference.shape, dtype)
    results = [(y, reference, F.linear(*wide))]
    results += [(a.grad, b.grad, c.grad) for a, b, c in zip(ours, theirs, wide, strict=True)]
    for result, torchs, expected in results:
        assert result is not None
        assert torchs is not None
        assert expected is not None
        assert result.stride() == torchs.stride()
        # The reference of float64 is rounded as much itself.
        least = (256 if dtype == torch.float64 else 4) * torch.finfo(dtype).eps
        assert error(result, expected) <= max(least, 2 * error(torchs, expected))


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 1, 3), (2, 1, 2, 2)], ids=str)
def test_gradients_of_two_orders(leading: tuple[int, ...]) -> None:
    x = torch.randn(*leading, 5, dtype=torch.float64, requires_grad=True)
    w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 5), (4,)))
    assert gradcheck(convkern.linear, (x, w, b))
    assert gradgradcheck(convkern.linear, (x, w, b))


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(9, 7)[:, ::2],
        torch.randn(4, 9).t(),
        torch.randn(1, 4).expand(5, 4),
        torch.randn(2, 4, 3, 3).permute(0, 2, 3, 1),
        torch.randn(2, 3, 4, 5).transpose(2, 3)[..., :4],
        torch.randn(3, 2, 2, 2, 8)[..., 2:6],
    ],
    ids=["sliced", "transposed", "expanded", "channels_last", "exchanged", "five axes"],
)
def test_any_strides(x: Tensor) -> None:
    w, b = torch.randn(6, 4), torch.randn(6)
    assert is_ours(x, w, b)
    y, expected = convkern.linear(x, w, b), F.linear(x, w, b)
    torch.testing.assert_close(y, expected)
    assert y.stride() == expected.stride()


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(16, 2048).t(),
        torch.randn(1, 16, 2048).transpose(1, 2),
        torch.randn(16).expand(2048, 16),
        torch.randn(2, 16, 32, 32).permute(0, 2, 3, 1),
        torch.randn(8, 256, 1, 16).transpose(1, 2),
        torch.randn(2048, 1, 1, 16),
    ],
    ids=["transposed", "of a sequence", "expanded", "NCHW", "axes of one", "images of a pixel"],
)
def test_results_are_contiguous_and_no_views(x: Tensor) -> None:
    layer = convkern.Linear(16, 64)
    assert is_ours(x, layer.weight, layer.bias)
    with torch.no_grad():
        y = layer(x)
    expected = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(y, expected.detach())
    assert y.stride() == expected.stride()
    assert not y._is_view()
    y += layer.bias  # a view that was made under no_grad would raise
    layer(x).detach_()


def test_nested_tensors_are_torchs() -> None:
    layer = convkern.Linear(16, 64)
    parts = [torch.randn(2048, 16), torch.randn(2000, 16)]
    y = layer(torch.nested.nested_tensor(parts))
    for result, part in zip(y.unbind(), parts, strict=True):
        torch.testing.assert_close(result, F.linear(part, layer.weight, layer.bias))


def test_compiled_for_any_batch() -> None:
    layer = convkern.Linear(16, 64)
    compiled = torch.compile(
        lambda x, mask: layer(x[mask]), fullgraph=True, backend="eager", dynamic=True
    )
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for n in (2048, 3000):
            x = torch.randn(n, 16)
            torch.testing.assert_close(compiled(x, x[:, 0] > 0), layer(x[x[:, 0] > 0]))


def test_what_torch_gets() -> None:
    x, w, b = torch.randn(2048, 16), torch.randn(64, 16), torch.randn(64)
    assert is_ours(x, w, b)
    assert is_ours(x, w)
    assert not is_ours(x[:-1], w)  # fewer products than two million
    assert not is_ours(x.long(), w.long())
    assert not is_ours(torch.randn(1 << 20), torch.randn(1 << 20))  # dot product
    assert not is_ours(torch.randn(4096, 256), torch.randn(256))
    assert not is_ours(x.to("meta"), w.to("meta"))
    assert not is_ours(x, w.t().contiguous().t())
    assert convkern.linear(torch.randn(0, 16), w, b).shape == (0, 64)
    x, w = x[0, :4], w[:, :4]  # a vector
    torch.testing.assert_close(convkern.linear(x, w, b), F.linear(x, w, b))


@pytest.mark.parametrize(
    ("shapes", "dtypes"),
    [
        (((2048, 16), (64, 17), (64,)), "fff"),
        (((2048, 16), (64, 16), (63,)), "fff"),
        (((2048, 16), (64, 16, 1), (64,)), "fff"),
        (((2048, 16), (64, 16), (64,)), "fdf"),
        (((2048, 16), (64, 16), (64,)), "ffd"),
        (((), (64, 16), (64,)), "fff"),
    ],
)
def test_errors_are_torchs(shapes: tuple[tuple[int, ...], ...], dtypes: str) -> None:
    of = {"f": torch.float32, "d": torch.float64}
    args = [torch.randn(s, dtype=of[d]) for s, d in zip(shapes, dtypes, strict=True)]
    with pytest.raises(RuntimeError) as theirs:
        F.linear(*args)
    with pytest.raises(type(theirs.value)):
        convkern.linear(*args)


@pytest.mark.parametrize("at", range(3))
def test_wrong_types(at: int) -> None:
    args: list[object] = [torch.randn(2048, 16), torch.randn(64, 16), torch.randn(64)]
    args[at] = "text"
    with pytest.raises(TypeError):
        convkern.linear(*args)  # type: ignore[arg-type]


def test_layer_loads_torchs_state() -> None:
    theirs, ours = nn.Linear(16, 64), convkern.Linear(16, 64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2048, 16)
    torch.testing.assert_close(ours(x), theirs(x))
    assert repr(ours) == repr(theirs)
    assert type(copy.deepcopy(ours)) is convkern.Linear


def test_layer_in_graphs() -> None:
    layer, x = convkern.Linear(16, 64), torch.randn(2048, 16)
    expected = layer(x)
    for compiled in (
        torch.compile(layer, fullgraph=True, backend="eager"),
        torch.jit.script(layer),
        torch.export.export(layer, (x,)).module(),
        torch.fx.symbolic_trace(nn.Sequential(layer)),
    ):
        torch.testing.assert_close(compiled(x), expected)
    nodes = torch.fx.symbolic_trace(nn.Sequential(layer)).graph.nodes
    assert [node.op for node in nodes] == ["placeholder", "call_module", "output"]


def test_transforms_and_autocast() -> None:
    x, w = torch.randn(4, 2048, 16), torch.randn(64, 16)
    torch.testing.assert_close(torch.func.vmap(convkern.linear, (0, None))(x, w), F.linear(x, w))
    with torch.autocast("cpu", torch.bfloat16):
        y = convkern.linear(x, w)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, F.linear(x, w))
        assert is_ours(x.bfloat16(), w)  # the weight is cast
        torch.testing.assert_close(convkern.linear(x.bfloat16(), w), F.linear(x.bfloat16(), w))


def test_replace_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(64, 64), nn.TransformerEncoderLayer(64, 2)
    ).eval()
    x = torch.randn(64, 3, 32, 32)
    expected = model(x)
    report = convkern.replace_layers(model)
    assert report.replaced == ["0", "2", "3.linear1", "3.linear2"]
    assert report.kept == {
        "3.self_attn.out_proj": "it is a subclass of nn.Linear, NonDynamicallyQuantizableLinear"
    }
    assert type(model[2]) is convkern.Linear
    torch.testing.assert_close(model(x), expected)
    assert convkern.restore_conv2d(model) == ["0"]
    assert convkern.restore_layers(model) == ["2", "3.linear1", "3.linear2"]
    assert convkern.restore_layers(model) == []
    assert convkern.replace_conv2d(model).replaced == ["0"]
    kept = convkern.replace_layers(model, when=lambda name, layer: name == "2").kept
    assert kept["0"] == "it is a convkern.Conv2d"
    assert kept["3.linear1"] == "`when` is False for it"
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        convkern.replace_layers(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16"])
def test_models_of_linear_layers(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = model(x)
        report = convkern.replace_layers(model)
        assert len(report.replaced) > 20
        with Count() as count:
            y = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4)
    assert count.calls["convkern::conv2d"] > 20


@pytest.mark.parametrize("leading", [(1, 1 << 12), (1 << 12, 1)], ids=str)
def test_widths_around_whole_vectors(leading: tuple[int, int]) -> None:
    for c, o in itertools.product((31, 32, 33), (31, 32, 33, 64)):
        x, w = torch.randn(*leading, c), torch.randn(o, c)
        assert is_ours(x, w)
        torch.testing.assert_close(convkern.linear(x, w), F.linear(x, w), rtol=1e-4, atol=1e-5)
