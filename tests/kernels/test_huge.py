"""Sizes whose products exceed int64, and tensors with more than 2^31 elements."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkern
from convkern import _C
from convkern.testing import Operands, assert_accurate

OPS = torch.ops.convkern


def of(size: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Returns a tensor of any size in the memory of one element."""
    return torch.zeros(1, device=device).expand(size)


# input, weight and keywords, by what overflows.
OVERFLOWS = {
    "input": ((2**31, 1, 2**31, 1), (1, 1, 1, 1), {}),
    "input_bytes": ((2**30, 1, 2**30, 1), (1, 1, 1, 1), {}),
    "input_channels": ((1, 2**40, 2**20, 1), (1, 2**40, 1, 1), {}),
    "weight": ((1, 2**20, 2**20, 1), (2**20, 2**20, 2**20, 1), {}),
    "weight_taps": ((1, 1, 2**31, 2**30), (1, 1, 2**31, 2**30), {}),
    "output_channels": ((2**31, 1, 1, 1), (2**31, 1, 1, 1), {}),
    "output_rows": ((2**30, 1, 1, 1), (1, 1, 1, 1), {"padding": (2**31, 0)}),
    "output_area": ((1, 1, 1, 1), (1, 1, 1, 1), {"padding": 2**31}),
    "groups": ((1, 2**62, 1, 1), (2**31, 2**31, 1, 1), {"groups": 2**31}),
    "padding": ((1, 1, 1, 1), (1, 1, 1, 1), {"padding": (2**62, 0)}),
    "twice_the_padding": ((1, 1, 1, 1), (1, 1, 1, 1), {"padding": (2**62 - 1, 0)}),
    "dilated_kernel": ((1, 1, 9, 9), (1, 1, 9, 1), {"dilation": (2**60, 1)}),
    "dilation": ((1, 1, 9, 9), (1, 1, 2, 2), {"dilation": 2**62}),
    "stride": ((1, 1, 9, 9), (1, 1, 1, 1), {"stride": 2**62, "padding": 2**61 - 1}),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", OVERFLOWS)
def test_overflow_raises_before_memory_is_asked_for(name: str, device: str) -> None:
    x, w, keywords = OVERFLOWS[name]
    with pytest.raises(RuntimeError, match="too large") as error:
        convkern.conv2d(of(x, device), of(w, device), **keywords)
    assert "must fit int64" in str(error.value)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("op", ["conv2d_grad_input", "conv2d_grad_weight"])
@pytest.mark.parametrize("name", OVERFLOWS)
def test_gradients_overflow_alike(name: str, op: str, device: str) -> None:
    x, w, keywords = OVERFLOWS[name]
    gy = of((1, 1, 1, 1), device)
    operand, size = (of(w, device), x) if op == "conv2d_grad_input" else (of(x, device), w)
    window = {k: [v, v] if isinstance(v, int) and k != "groups" else v for k, v in keywords.items()}
    with pytest.raises(RuntimeError, match="too large"):
        getattr(OPS, op)(gy, operand, list(size), **window)


EDGES = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**32, 2**61, 2**62 - 1, 2**62]


def test_every_pair_of_extreme_sizes_raises_or_fits() -> None:
    """Combines each of the 14 sizes with each other on meta tensors. No size may wrap."""
    names = "nchwkrspquvdeg"
    ordinary = dict(zip(names, (2, 2, 9, 9, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1), strict=True))
    answers = 0
    for one, other in itertools.combinations(names, 2):
        for a, b in itertools.product(EDGES[::2], EDGES[1::2]):
            n, c, h, w, k, r, s, p, q, u, v, d, e, g = {**ordinary, one: a, other: b}.values()
            try:
                x = torch.empty(1, device="meta").expand(n, c, h, w)
                weight = torch.empty(1, device="meta").expand(k, c // max(g, 1), r, s)
                y = convkern.conv2d(x, weight, None, (u, v), (p, q), (d, e), g)
            except RuntimeError:
                continue
            rows = (h + 2 * p - d * (r - 1) - 1) // u + 1
            columns = (w + 2 * q - e * (s - 1) - 1) // v + 1
            assert y.shape == (n, k if c else 0, rows, columns)
            assert 0 <= math.prod(y.shape) * 16 < 2**63
            answers += 1
    assert answers > 100


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_more_than_int32_elements_on_meta_tensors(memory_format: torch.memory_format) -> None:
    x = torch.empty(64, 64, 1024, 1024, device="meta").to(memory_format=memory_format)
    w = torch.empty(128, 64, 3, 3, device="meta")
    assert x.numel() > 2**31
    x.requires_grad_()
    w.requires_grad_()
    y = convkern.conv2d(x, w, padding=1)
    assert y.shape == F.conv2d(x, w, padding=1).shape
    assert y.is_contiguous(memory_format=memory_format)
    gx, gw = torch.autograd.grad(y, (x, w), torch.empty_like(y))
    assert (gx.shape, gx.stride(), gw.shape) == (x.shape, x.stride(), w.shape)


def test_an_impossible_size_is_torchs_out_of_memory_and_the_next_call_works() -> None:
    """2^48 bytes fit int64, but no memory."""
    x, w = of((1, 1, 1, 1)), torch.ones(1, 1, 1, 1)
    for conv in (F.conv2d, convkern.conv2d):
        with pytest.raises(RuntimeError):
            conv(x, w, padding=2**22)
    assert convkern.conv2d(torch.ones(1, 1, 2, 2), w).sum() == 4


# The results take 4.5 GB at most. The inputs take no memory: x is expanded, and in NHWC with one
# channel it is made dense only where it is read.
@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_output_of_more_than_int32_elements(dtype: str, layout: str) -> None:
    """The output has 2^16 + 2 rows of 2^15 columns. The last rows are checked against float64."""
    rows, columns, kernel = 2**16 + 2, 2**15, 3
    kind = {"bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    x = torch.zeros(1, 1, 8, columns, dtype=kind)
    x[0, 0] = torch.randn(8, columns).to(kind)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    w = torch.randn(1, 1, kernel, kernel).to(kind).contiguous(memory_format=memory_format)
    # Padding rows below and above the 8 rows of the input make up the size.
    padding = ((rows - 8 + kernel - 1) // 2, 1)
    y = convkern.conv2d(x, w, padding=padding)
    assert y.numel() > 2**31
    top = padding[0] - kernel + 1
    assert not y[:, :, :top].any()
    assert not y[:, :, top + 8 + kernel - 1 :].any()
    part = y[:, :, top : top + 8 + kernel - 1]
    text = f"n1c1h8w{columns}k1r{kernel}s{kernel}p{kernel - 1}q1_{dtype}_nchw_fwd"
    assert_accurate(part, Operands(_C.Problem(text), x, w, None, part))
