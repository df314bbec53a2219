"""Padding modes, asymmetric padding and padding by ONNX's names, against torch's pad and its
convolution in float64."""

from __future__ import annotations

import copy
import io
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, vmap

import convkern
from as_accurate import assert_as_accurate
from convkern.functional import torchs_conv2d
from convkern.window import pad_by_torch
from op_calls import Count

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MODES = ("zeros", "reflect", "replicate", "circular")
# The shapes of x and w, and the other arguments.
Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    "asymmetric": ((2, 3, 7, 9), (4, 3, 3, 2), {"padding": ((2, 0), (1, 3))}),
    "one side": ((2, 3, 7, 9), (4, 3, 3, 3), {"padding": ((0, 0), (0, 2)), "stride": 2}),
    "symmetric": ((3, 4, 8, 6), (6, 2, 3, 3), {"padding": (1, 2), "groups": 2}),
    "depthwise": ((2, 20, 9, 8), (20, 1, 5, 5), {"padding": ((2, 3), (4, 1)), "groups": 20}),
    "dilation": ((2, 2, 9, 9), (2, 2, 3, 3), {"padding": ((4, 2), (3, 4)), "dilation": 2}),
    "stride": ((2, 3, 9, 10), (5, 3, 3, 4), {"padding": ((1, 2), (3, 0)), "stride": (3, 2)}),
    "as wide as can be": ((2, 2, 4, 5), (3, 2, 5, 5), {"padding": ((3, 3), (4, 4))}),
    "upper": ((2, 3, 8, 7), (4, 3, 3, 4), {"padding": "same_upper", "stride": 2}),
    "lower": ((2, 3, 8, 7), (4, 3, 3, 4), {"padding": "same_lower", "stride": (2, 3)}),
    "same": ((2, 3, 8, 7), (4, 3, 2, 4), {"padding": "same", "dilation": (1, 2)}),
    "empty batch": ((0, 3, 8, 7), (4, 3, 3, 3), {"padding": ((1, 2), (0, 1))}),
}
ALL = [(case, mode) for case, mode in product(CASES, MODES)]


def operands(case: str, dtype: torch.dtype, last: bool = False) -> list[Tensor]:
    shape, weight, _ = CASES[case]
    torch.manual_seed(0)
    x, w, b = (torch.randn(size, dtype=dtype) for size in (shape, weight, weight[:1]))
    return [x.to(memory_format=torch.channels_last) if last else x, w, b]


def by_hand(x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
    """Pads by torch, and calls torch's convolution without padding."""
    stride, dilation = (options.get(name, 1) for name in ("stride", "dilation"))
    padding, mode = options["padding"], options["padding_mode"]
    if isinstance(padding, str):
        lower = padding == "same_lower"
        padding = convkern.same_padding(
            w.shape[2:], dilation, input=x.shape[2:], stride=stride, lower=lower
        )
    if not isinstance(padding[0], tuple):
        padding = tuple((n, n) for n in padding)
    x = pad_by_torch(x, [*padding[0], *padding[1]], mode)
    return F.conv2d(x, w, b, stride, 0, dilation, options.get("groups", 1))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "mode"), ALL)
def test_values_and_gradients(case: str, mode: str, dtype: torch.dtype, last: bool) -> None:
    options = {**CASES[case][2], "padding_mode": mode}
    given = operands(case, dtype, last)
    with Count() as count:
        y = convkern.conv2d(*given, **options)
    assert count.of_convkern == {"convkern::conv2d": 1}
    if y.numel():
        memory_format = torch.channels_last if last else torch.contiguous_format
        assert y.is_contiguous(memory_format=memory_format)
    gy = torch.randn(y.shape, dtype=dtype)
    assert_as_accurate(convkern.conv2d, by_hand, given, gy, options)


@pytest.mark.parametrize(("case", "mode"), [pair for pair in ALL if pair[0] != "empty batch"])
def test_gradients_of_two_orders(case: str, mode: str) -> None:
    x, w, b = operands(case, torch.float64)
    leaves = [t.requires_grad_() for t in (x[:1], w[: len(w) // 2 or 1], b[: len(w) // 2 or 1])]
    if CASES[case][2].get("groups", 1) > 1:
        leaves = [t.requires_grad_() for t in (x[:1], w, b)]

    def call(*tensors: Tensor) -> Tensor:
        return convkern.conv2d(*tensors, **CASES[case][2], padding_mode=mode)

    assert gradcheck(call, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_results_do_not_depend_on_threads_or_parts(mode: str) -> None:
    """The batch is padded in several parts, of which the last is smaller."""
    threads = torch.get_num_threads()
    x, w = torch.randn(67, 3, 24, 26), torch.randn(6, 3, 3, 3, requires_grad=True)
    x.requires_grad_()

    def step() -> list[Tensor]:
        y = convkern.conv2d(x, w, padding=((1, 2), (2, 0)), padding_mode=mode)
        return [y, *torch.autograd.grad(y, (x, w), y.detach())]

    try:
        first = step()
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            for one, other in zip(first, step(), strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)
    expected = by_hand(x[60:].double(), w.double(), padding=((1, 2), (2, 0)), padding_mode=mode)
    torch.testing.assert_close(first[0][60:].double(), expected, rtol=1e-5, atol=1e-5)


def test_many_parts_are_summed() -> None:
    """The gradient of the weights is summed over more parts than it has partial sums."""
    x, w = torch.randn(11, 16, 90, 90), torch.randn(16, 1, 3, 3)
    options = {"padding": 1, "groups": 16, "padding_mode": "reflect"}

    def theirs(x: Tensor, w: Tensor, **_: Any) -> Tensor:
        return torchs_conv2d(x, w, None, 1, 1, 1, 16, padding_mode="reflect")

    y = convkern.conv2d(x, w, **options)
    gy = torch.randn_like(y)
    assert_as_accurate(convkern.conv2d, theirs, [x, w], gy, options)


def test_the_batch_is_not_copied() -> None:
    explanation = convkern.explain("n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+reflect")
    assert explanation.workspace_bytes < 512 * 28 * 28 * 4
    text = "n64c64h56w56k64r3s3p1q1g64_f32_nhwc_gx+circular"
    assert convkern.explain(text).workspace_bytes < 64 * 64 * 56 * 56 * 4 / 4


SAME = list(product((1, 5, 8, 9), (1, 2, 3, 4), (1, 2, 3), (1, 2)))


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation"), SAME)
def test_same_as_onnx_defines_it(size: int, kernel: int, stride: int, dilation: int) -> None:
    """The output has ceil(size / stride) cells, by the formula of ONNX's Conv."""
    for name in ("same_upper", "same_lower"):
        out = -(-size // stride)
        total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        half, rest = total // 2, total - total // 2
        sides = (half, rest) if name == "same_upper" else (rest, half)
        lower = name == "same_lower"
        given = {"input": size, "stride": stride, "lower": lower}
        assert convkern.same_padding(kernel, dilation, **given) == (sides, sides)
        x, w = torch.randn(1, 1, size, size), torch.randn(1, 1, kernel, kernel)
        y = convkern.conv2d(x, w, None, stride, name, dilation)
        assert y.shape[2:] == (out, out)
        assert convkern.output_size(size, kernel, stride, name, dilation) == (out, out)
        assert torch.equal(y, convkern.conv2d(x, w, None, stride, (sides, sides), dilation))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0)])
def test_vmap(mode: str, in_dims: tuple[int | None, int | None]) -> None:
    x, w = torch.randn(3, 2, 4, 7, 6).double(), torch.randn(3, 6, 2, 3, 3).double()
    x, w = (t if d == 0 else t[0] for t, d in zip((x, w), in_dims, strict=True))
    options = {"padding": ((1, 2), (0, 2)), "groups": 2, "padding_mode": mode}

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return convkern.conv2d(x, w, **options).square().sum()

    def expected(x: Tensor, w: Tensor) -> Tensor:
        return by_hand(x, w, **options).square().sum()

    for which in (0, 1):
        ours = vmap(grad(loss, which), in_dims)(x, w)
        torch.testing.assert_close(ours, vmap(grad(expected, which), in_dims)(x, w))


class Net(nn.Module):
    def __init__(self, padding: Any, mode: Any, stride: int = 1) -> None:
        super().__init__()
        self.conv = convkern.Conv2d(
            2, 4, 3, stride, padding=padding, padding_mode=mode, activation="relu"
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


NETS = [(((1, 2), (0, 1)), mode, 1) for mode in MODES] + [("same_upper", "zeros", 2)]


@pytest.mark.parametrize(("padding", "mode", "stride"), NETS, ids=str)
def test_graphs_and_copies(padding: Any, mode: str, stride: int) -> None:
    torch._dynamo.reset()
    net, x = Net(padding, mode, stride), torch.randn(3, 2, 8, 7)
    expected = net(x)
    dynamic = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    exported = torch.export.export(net, (x,))
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    makers = [
        dynamic, exported.module(), copy.deepcopy(net), torch.fx.symbolic_trace(net),
        torch.load(buffer, weights_only=False), convkern.optimize(net.eval(), x),
    ]  # fmt: skip
    if not isinstance(padding, str):
        makers.append(torch.jit.script(net))
    makers.append(torch.jit.trace(net, x))
    for made in makers:
        torch.testing.assert_close(made(x), expected)
    torch.testing.assert_close(dynamic(x[:, :, :6]), net(x[:, :, :6]))


def test_sizes_that_are_not_known() -> None:
    """Padding by ONNX's names with a stride depends on the sizes of the images."""
    net, x = Net("same_upper", "zeros", 2), torch.randn(2, 2, 12, 10)
    sizes = [torch.randn(2, 2, h, w) for h, w in ((9, 9), (12, 10), (11, 14), (30, 7))]
    dims = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    for strict in (False, True):
        program = torch.export.export(net, (x,), dynamic_shapes={"x": dims}, strict=strict).module()
        for images in sizes:
            torch.testing.assert_close(program(images), net(images))
    with pytest.warns(torch.jit.TracerWarning, match="Converting a tensor to a Python integer"):
        torch.jit.trace(net, x)


@pytest.mark.parametrize("mode", MODES)
def test_onnx(mode: str, tmp_path: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = Net(((1, 2), (0, 1)), mode).eval(), torch.randn(2, 2, 8, 7)
    program = torch.export.export(net, (x,))
    table = convkern.onnx_translations()
    file = str(tmp_path / "net.onnx")
    torch.onnx.export(program, (), file, custom_translation_table=table, opset_version=20)
    session = runtime.InferenceSession(file)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_opcheck(mode: str) -> None:
    x, w = torch.randn(2, 4, 6, 7, requires_grad=True), torch.randn(4, 2, 3, 3, requires_grad=True)
    window = [[2, 1], [1, 2, 0, 3], [1, 1], 2]
    torch.library.opcheck(
        torch.ops.convkern.conv2d.default, (x, w, None, *window, None, None, mode)
    )


def test_other_dtypes_are_torchs() -> None:
    x, w = torch.randint(5, (2, 3, 6, 7)), torch.randint(5, (4, 3, 3, 3))
    for options in ({"padding": ((1, 0), (2, 1))}, {"padding": "same_upper", "stride": 2}):
        y = convkern.conv2d(x, w, **options)
        expected = convkern.conv2d(x.double(), w.double(), **options)
        assert torch.equal(y, expected.long())


@pytest.mark.parametrize("mode", MODES)
def test_forward_mode(mode: str) -> None:
    x, w = torch.randn(2, 2, 5, 6).double(), torch.randn(2, 2, 3, 3).double()
    options = {"padding": ((1, 0), (2, 1)), "padding_mode": mode}
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        y = convkern.conv2d(forward_ad.make_dual(x, tangent), w, **options)
        ours = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(ours, by_hand(tangent, w, **options))


def test_layers() -> None:
    layer = convkern.Conv2d(3, 4, 3, padding=((0, 1), (2, 3)), padding_mode="replicate")
    assert "padding=((0, 1), (2, 3)), padding_mode=replicate" in repr(layer)
    plain = nn.Conv2d(3, 4, 3)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 6, 5)
    padded = F.pad(x, (2, 3, 0, 1), mode="replicate")
    torch.testing.assert_close(layer(x), plain(padded))
    torch.testing.assert_close(layer(x[0]), plain(padded)[0])
    lazy = convkern.LazyConv2d(4, 3, stride=2, padding="same_lower")
    assert lazy(x).shape == (2, 4, 3, 3)
    assert type(lazy) is convkern.Conv2d
    causal = convkern.Conv1d(3, 4, 3, dilation=2, padding=((4, 0),), padding_mode="circular")
    plain_1d = nn.Conv1d(3, 4, 3, dilation=2)
    causal.load_state_dict(plain_1d.state_dict())
    row = torch.randn(2, 3, 9)
    torch.testing.assert_close(causal(row), plain_1d(F.pad(row, (4, 0), mode="circular")))
    torch.testing.assert_close(torch.jit.script(causal)(row), causal(row))
    torch.testing.assert_close(torch.jit.trace(causal, row)(row), causal(row))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [((3, 0),), ((0, 2),), "same_upper", "same", 2])
def test_conv1d(padding: Any, mode: str) -> None:
    x, w = torch.randn(2, 8, 20), torch.randn(8, 1, 4)
    sides = {((3, 0),): (3, 0), ((0, 2),): (0, 2), 2: (2, 2)}.get(padding, (1, 2))

    def theirs(x: Tensor, w: Tensor, **_: Any) -> Tensor:
        padded = F.pad(x, sides, mode={"zeros": "constant"}.get(mode, mode))
        return F.conv1d(padded, w, groups=8)

    gy = torch.randn(theirs(x, w).shape)
    options = {"padding": padding, "padding_mode": mode, "groups": 8}
    assert_as_accurate(convkern.conv1d, theirs, [x, w], gy, options)
    integers = convkern.conv1d(x.long(), w.long(), **options)
    assert torch.equal(integers, theirs(x.long(), w.long()))
