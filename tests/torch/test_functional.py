"""convkern.conv2d accepts what torch.nn.functional.conv2d accepts, and returns the same."""

import subprocess
import sys
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import convkern
import convkern.bench.peers
import convkern.testing

pytestmark = pytest.mark.filterwarnings(
    "ignore:convkern. the slow reference kernel", "ignore:Using padding='same'"
)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {
    torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3
}  # fmt: skip


def assert_same(*args, **kwargs) -> None:
    y = convkern.conv2d(*args, **kwargs)
    expected = F.conv2d(*args, **kwargs)
    tolerance = TOLERANCE[y.dtype]
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=10 * tolerance)
    assert y.numel() == 0 or y.stride() == expected.stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2},
        {"stride": (2, 3), "padding": (1, 2)},
        {"stride": [2], "padding": [1]},
        {"stride": torch.tensor(2)},
        {"padding": 3, "dilation": 2},
        {"padding": "valid", "stride": 2},
        {"padding": "same"},
        {"padding": "same", "dilation": (2, 3)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 3), (2, 4), (1, 1)])
def test_arguments(dtype: torch.dtype, arguments: dict, kernel: tuple[int, int]) -> None:
    x, w = torch.randn(3, 2, 11, 10, dtype=dtype), torch.randn(4, 2, *kernel, dtype=dtype)
    assert_same(x, w, torch.randn(4, dtype=dtype), **arguments)
    assert_same(x[0], w, None, **arguments)  # unbatched


X = torch.randn(6, 4, 9, 10)
W = torch.randn(8, 4, 3, 3)
LAST = torch.channels_last
VIEWS = {
    "contiguous": X,
    "channels_last": X.to(memory_format=LAST),
    "sliced": X.repeat(1, 2, 1, 2)[:, ::2, :, ::2],
    "sliced_batch": X.repeat(2, 1, 1, 1)[1::2],
    "expanded_batch": X[:1].expand(6, 4, 9, 10),
    "expanded_channels": X[:, :1].expand(6, 4, 9, 10),
    "expanded_all": X[:1, :1, :1, :1].expand(6, 4, 9, 10),
    "transposed": X.transpose(2, 3),
    "permuted": torch.randn(9, 6, 10, 4).permute(1, 3, 0, 2),
    "offset": torch.randn(X.numel() + 1)[1:].view(X.shape),
    "empty": X[:0],
    "empty_channels_last": X[:0].to(memory_format=LAST),
    "one_image": X[:1],
    "one_pixel": X[:, :, :1, :1],
}
WEIGHTS = {
    "contiguous": W,
    "channels_last": W.to(memory_format=LAST),
    "flipped": W.flip(2, 3),
    "transposed": W.transpose(2, 3),
    "expanded": W[:1].expand(8, 4, 3, 3),
}


@pytest.mark.parametrize("x", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("w", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_memory_formats_and_views(x: torch.Tensor, w: torch.Tensor) -> None:
    assert_same(x, w, torch.randn(16)[::2], padding=1)
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y, expected = convkern.conv2d(x, w, padding=1), F.conv2d(x, w, padding=1)
    gy = torch.randn(y.shape)
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, w), gy), torch.autograd.grad(expected, (x, w), gy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_expanded_gradient() -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    ours = torch.autograd.grad(convkern.conv2d(x, w).sum(), (x, w))
    theirs = torch.autograd.grad(F.conv2d(x, w).sum(), (x, w))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [0, "same", (1, 0)])
def test_activation(padding: int | str | tuple[int, int]) -> None:
    x, w, b = (t.clone().requires_grad_() for t in (X, W, torch.randn(8)))
    y = convkern.conv2d(x, w, b, padding=padding, activation="relu")
    expected = F.relu(F.conv2d(x, w, b, padding=padding))
    torch.testing.assert_close(y, expected)
    gy = torch.randn_like(y)
    ours = torch.autograd.grad(y, (x, w, b), gy)
    theirs = torch.autograd.grad(expected, (x, w, b), gy)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_other_dtypes_are_left_to_torch(dtype: torch.dtype) -> None:
    x, w = torch.ones(1, 2, 5, 5, dtype=dtype), torch.ones(3, 2, 3, 3, dtype=dtype)
    assert torch.equal(convkern.conv2d(x, w, padding=1), F.conv2d(x, w, padding=1))
    assert convkern.explain(x, w).kernel == "torch"


def test_no_floating_point_dtype_reaches_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbid(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "convolution" not in func.name()
            seen.add(func.name())
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    for dtype in DTYPES:
        x = torch.randn(2, 3, 6, 6, dtype=dtype, requires_grad=True)
        w = torch.randn(4, 3, 2, 2, dtype=dtype, requires_grad=True)
        with Forbid():
            convkern.conv2d(x, w, padding="same").sum().backward()
    assert {f"convkern::conv2d{kind}" for kind in ("", "_grad_input", "_grad_weight")} <= seen


@given(
    n=st.integers(1, 40), k=st.integers(1, 9), s=st.integers(1, 4),
    p=st.integers(0, 5), d=st.integers(1, 3),
)  # fmt: skip
def test_output_size(n: int, k: int, s: int, p: int, d: int) -> None:
    if d * (k - 1) + 1 > n + 2 * p:
        with pytest.raises(ValueError, match="exceed"):
            convkern.output_size(n, k, s, p, d)
        return
    y = torch.empty(1, 1, n, n, device="meta")
    w = torch.empty(1, 1, k, k, device="meta")
    assert convkern.output_size(n, k, s, p, d) == F.conv2d(y, w, None, s, p, d).shape[2:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((5, 3, 0), "stride"), ((5, 3, 1, -1), "padding"), ((5, 0), "kernel"),
        ((5, 3, 1, 0, 0), "dilation"), ((-1, 1), "input"), ((5, 3, 2, "same"), "same"),
        ((5, 3, 1, "full"), "full"), ((5, (1, 2, 3)), "kernel"),
    ],
)  # fmt: skip
def test_output_size_rejects(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convkern.output_size(*arguments)


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_keeps_the_size(kernel: int, dilation: int) -> None:
    (before, after), _ = convkern.same_padding(kernel, dilation)
    assert before + after == dilation * (kernel - 1)
    assert 0 <= after - before <= 1
    assert convkern.output_size(20, kernel, padding="same", dilation=dilation) == (20, 20)
    if kernel % 2:
        assert before == after == dilation * (kernel - 1) // 2


def test_fallback_to_the_reference_kernel_warns_once() -> None:
    x, w = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    wide = torch.empty(1, 1, 1, 3_000_000, device="meta")  # reads more than a thread's buffers hold
    problem = convkern.explain(wide, wide, padding=(0, 1))
    assert problem.kernel.startswith("fwd.reference")
    assert any("workspace" in reason for _, reason in problem.rejected)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convkern.conv2d(x, w)  # a fast kernel computes it
    assert not caught


sizes = st.integers(1, 20)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_problems(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    n, cg, og = draw(st.integers(0, 18)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    h, v, r, s = draw(sizes), draw(sizes), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    if dilation[0] * (r - 1) >= h + 2 * padding[0] or dilation[1] * (s - 1) >= v + 2 * padding[1]:
        return
    x, w = torch.randn(n, groups * cg, h, v), torch.randn(groups * og, cg, r, s)
    if draw(st.booleans()):
        x = x.to(memory_format=LAST)
    arguments = (torch.randn(groups * og), stride, padding, dilation, groups)
    x.requires_grad_(), w.requires_grad_()
    y = convkern.conv2d(x, w, *arguments)
    expected = F.conv2d(x, w, *arguments)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert y.numel() == 0 or y.stride() == expected.stride()
    gy = torch.randn_like(y)
    ours = torch.autograd.grad(y, (x, w), gy)
    theirs = torch.autograd.grad(expected, (x, w), gy)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor], ids=lambda n: n.__name__)
def test_every_kind_of_integer_is_one(number) -> None:
    x, w = torch.randn(1, 4, 9, 9), torch.randn(2, 2, 3, 3)
    expected = F.conv2d(x, w, None, 2, (1, 2), 1, 2)
    padding = (number(1), number(2))
    y = convkern.conv2d(x, w, None, number(2), padding, number(1), number(2))
    torch.testing.assert_close(y, expected)


def torch_and_ours(*tensors: torch.Tensor, **keywords) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the results of torch's conv2d and of convkern's in its place."""
    expected = F.conv2d(*tensors, **keywords)
    with mock.patch.object(F, "conv2d", convkern.conv2d), mock.patch("torch.conv2d", F.conv2d):
        return expected, torch.nn.functional.conv2d(*tensors, **keywords)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.complex64])
@pytest.mark.parametrize("padding", [0, (1, 2), "same"])
def test_in_the_place_of_torchs_function(dtype: torch.dtype, padding) -> None:
    x, w = (torch.randint(0, 5, t.shape).to(dtype) for t in (X, W))
    expected, y = torch_and_ours(x, w, padding=padding)
    assert torch.equal(y, expected)
    expected, y = torch_and_ours(x[0], w, padding=padding)
    assert torch.equal(y, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit", "ignore:Complex mod")
def test_layers_scripts_and_peers_with_ours_in_the_place_of_torchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = convkern.Conv2d(4, 8, 3, dtype=torch.cfloat), torch.nn.Conv2d(4, 8, 3)
    inputs = X.to(torch.cfloat), X
    expected = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    monkeypatch.setattr(torch, "conv2d", convkern.conv2d)
    monkeypatch.setattr(F, "conv2d", convkern.conv2d)
    for layer, x, y in zip(layers, inputs, expected, strict=True):
        torch.testing.assert_close(layer(x), y, rtol=1e-4, atol=1e-4)
    assert layers[1](X).grad_fn.name() == "Conv2dBackward"
    torch.testing.assert_close(torch.jit.script(layers[0])(inputs[0]), expected[0])
    compiled = torch.compile(F.conv2d, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X.int(), W.int()), convkern.conv2d(X.int(), W.int()))
    # The oracle and the peer of measurements remain torch's.
    problem = convkern.testing.operands("n2c3h8w7k4r3s3_f32_nchw_fwd")
    for torchs in (
        lambda: convkern.testing.run_torch(problem),
        convkern.bench.peers.prepare("torch", problem, "fwd"),
    ):
        with torch.profiler.profile() as profile:
            torchs()
        ran = {event.key for event in profile.key_averages()}
        assert "aten::conv2d" in ran
        assert "convkern::conv2d" not in ran


PATCHED_BEFORE = """
import torch

def conv2d(*args, **kwargs):
    import convkern
    return convkern.conv2d(*args, **kwargs)

torch.conv2d = torch.nn.functional.conv2d = conv2d
x, w = torch.ones(1, 2, 5, 5, dtype=torch.int64), torch.ones(3, 2, 3, 3, dtype=torch.int64)
print(torch.nn.functional.conv2d(x, w).unique().tolist())
"""


def test_torchs_function_is_its_own_even_if_replaced_before_the_import() -> None:
    ran = subprocess.run([sys.executable, "-c", PATCHED_BEFORE], capture_output=True, text=True)
    assert ran.stdout == "[18]\n", ran.stderr
