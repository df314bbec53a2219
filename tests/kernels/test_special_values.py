"""NaN, infinities, subnormal numbers and -0.0 end up where the direct sum puts them: in results
whose windows contain them, and nowhere else.

One liberty is taken, as in torch's own kernels. A weight (in grad_weight, an element of
grad_output) that is not finite may meet a zero of the padding. Their product may be left out or be
NaN.
"""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkern
from convkern.testing import Operands, operands, oracle, variant
from counts import count
from named_kernels import (
    AVAILABLE,
    EXACT,
    check_equal,
    every_failure,
    first_element,
    forced,
    supporting,
)

NAN, INF = float("nan"), float("inf")

# Some problems for every kernel: dense, wide and narrow, depthwise and grouped, with every kind of
# step.
PROBLEMS = [
    "n5c2h6w7k2r3s3p1q1_f32_nchw_fwd+bias",
    "n3c4h9w13k6r3s2p2q1u2v2_f32_nchw_fwd",
    "n2c4h11w21k6r3s3p1q2u1v3d2e1_f32_nchw_fwd+relu",
    "n2c16h7w9k16r3s3p1q1g16_f32_nchw_fwd+bias+relu",
    "n2c16h8w9k16r3s3p1q1u2v2g16_f32_nchw_fwd",
    "n1c16h5w6k16r3s3p1q1g8_f32_nchw_fwd",
    "n2c32h6w7k36r3s3p1q1_f32_nchw_fwd+bias",
    "n1c2h4w5k2r1s1p2q3_f32_nchw_fwd",
    "n2c2h5w4k2r5s7p4q6_f32_nchw_fwd",
]


def place(t: Tensor, values: list[float], at: int) -> None:
    """Puts the values at corners, edges and the middle of t. The first place is number `at`."""
    flat = t.reshape(-1) if t.is_contiguous() else t.permute(0, 2, 3, 1).reshape(-1)
    spots = torch.tensor([0, flat.numel() - 1, flat.numel() // 2, t.shape[-1] - 1])
    for i, value in enumerate(values):
        flat[spots[(at + i) % 4]] = value


def same_kind(actual: Tensor, expected: Tensor) -> Tensor:
    """Returns where both are finite, both NaN, or both infinities of one sign."""
    kinds = (torch.isnan, torch.isposinf, torch.isneginf)
    return torch.stack([kind(actual) == kind(expected) for kind in kinds]).all(0)


def surrounded(size: tuple[int, ...], margin: Sequence[int]) -> Tensor:
    """Returns zeros between margins of ones."""
    rows, columns = margin
    zeros = torch.zeros(size, dtype=torch.float64)
    return F.pad(zeros, (columns, columns, rows, rows), value=1)


def meets_padding(ops: Operands) -> Tensor:
    """Returns which results have a product with padding, or with what is beyond the last output,
    whose other factor is not finite. That factor is a weight, or in grad_weight an element of
    grad_output."""
    p = ops.problem
    taps = ops.gy if p.pass_ == "gw" else ops.w
    bad = (~taps.isfinite()).double()
    if p.pass_ == "gx":
        extents = zip(p.dilation, p.weight_size[2:], p.stride, strict=True)
        margin = [-(-d * (k - 1) // s) for d, k, s in extents]
        outside = surrounded(p.output_size, margin)
        reached = F.conv_transpose2d(outside, bad, None, p.stride, 0, 0, p.groups, p.dilation)
        top, left = (q + m * s for q, m, s in zip(p.padding, margin, p.stride, strict=True))
        (h, w), (rows, columns) = p.input_size[2:], reached.shape[2:]
        reached = F.pad(reached, (0, max(0, left + w - columns), 0, max(0, top + h - rows)))
        return reached[:, :, top : top + h, left : left + w] > 0
    outside = surrounded(p.input_size, p.padding)
    w = bad if p.pass_ == "fwd" else torch.zeros(p.weight_size, dtype=torch.float64)
    y = F.conv2d(outside, w.requires_grad_(), None, p.stride, 0, p.dilation, p.groups)
    return (y if p.pass_ == "fwd" else torch.autograd.grad(y, w, bad)[0]).detach() > 0


def direct_sum(ops: Operands) -> tuple[Tensor, Tensor]:
    """Returns the sum by the plain loop, and where NaN may stand instead. Elsewhere torch
    agrees."""
    plain = forced(f"{ops.problem.pass_}.reference.any.baseline", ops).double()
    free = meets_padding(ops)
    assert (same_kind(plain, oracle(ops)) | free).all()
    return plain, free


@pytest.mark.usefixtures("medium_precision")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(c, d) for c in PROBLEMS for d in ("f32", "bf16")]
    + [(c, d) for c in PROBLEMS[::3] for d in ("f64", "f16")],
)
def test_nan_and_infinities_stay_in_their_windows(
    case: str, dtype: str, pass_: str, layout: str
) -> None:
    text = variant(case, dtype=dtype, layout=layout, pass_=pass_)
    names = supporting(operands(text), AVAILABLE)
    with every_failure(text) as failures:
        for at, (values, where) in enumerate([
            ([INF], "xg"), ([NAN], "xg"), ([INF, -INF, NAN], "xg"), ([-INF], "w"), ([NAN], "w"),
            ([NAN, -INF], "b"), ([INF, INF], "xwg"),
        ]):  # fmt: skip
            ops = operands(text, seed=at)
            for letter, t in (("x", ops.x), ("g", ops.gy), ("w", ops.w)):
                if letter in where:
                    place(t, values, at)
            if "b" in where:
                if ops.b is None:
                    continue
                ops.b[-1] = values[at % 2]
            expected, free = direct_sum(ops)
            for name in names:
                with failures.of(f"{name} with {values} in {where}, choice {at}"):
                    result = forced(name, ops).double()
                    right = same_kind(result, expected) | (free & result.isnan())
                    if not right.all():
                        raise AssertionError(first_element(result, expected, ~right, "its kind"))
                    count("special values: results of kernels with NaN or infinities")


@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
@pytest.mark.parametrize("case", PROBLEMS)
def test_subnormal_numbers_count(case: str, pass_: str) -> None:
    """Kernels for bfloat16 on AVX512-BF16 take them for 0, as the instruction does."""
    with every_failure(case) as failures:
        for dtype in ("f32", "f64", "bf16", "f16"):
            ops = operands(variant(case, dtype=dtype, pass_=pass_).replace("+bias", ""))
            info = torch.finfo(ops.x.dtype)
            ones = ops.map(lambda t: t.sign())
            # The operands are whole multiples of the smallest number, so that sums of fewer than
            # 2^10 of them are exact.
            scale = 4 * info.smallest_normal * info.eps
            if pass_ == "fwd":
                ones.x.mul_(scale)
            else:
                ones.gy.mul_(scale)
            expected = oracle(ones)
            for name in supporting(ones, EXACT):
                with failures.of(f"{name} in {dtype}"):
                    result = forced(name, ones)
                    flushed = name.endswith("avx512bf16")
                    rounded = expected.to(result.dtype).double()
                    wanted = torch.zeros_like(expected) if flushed else rounded
                    check_equal(result.double(), wanted)
                    count("special values: results of kernels with subnormal numbers")


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("case", PROBLEMS)
def test_negative_zeros_are_zeros(case: str, dtype: str) -> None:
    """If all operands are -0.0 or 0.0, every result is a zero. Its sign is free, as in torch."""
    with every_failure(case) as failures:
        for pass_ in ("fwd", "gx", "gw"):
            ops = operands(variant(case, dtype=dtype, pass_=pass_)).map(
                lambda t: torch.where(t > 0, 0.0, -0.0).to(t.dtype)
            )
            for name in supporting(ops, EXACT):
                with failures.of(name):
                    result = forced(name, ops)
                    check_equal(result, torch.zeros_like(result))
                    count("special values: results of kernels that are zeros")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_relu_passes_nan_on_and_so_does_its_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([NAN, 1.0, -1.0, INF, -INF, 0.0, -0.0], dtype=dtype).view(1, 1, 1, 7)
    w, b = torch.ones(1, 1, 1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    inputs = [t.requires_grad_() for t in (x, w, b)]
    gy = torch.arange(1, 8, dtype=dtype).view(1, 1, 1, 7)
    results = []
    for conv in (
        lambda: convkern.conv2d(x, w, b, activation="relu"),
        lambda: torch.relu(torch.nn.functional.conv2d(x, w, b)),
    ):
        y = conv()
        results.append([y.detach(), *torch.autograd.grad(y, inputs, gy)])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)
