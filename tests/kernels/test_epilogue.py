"""The epilogue of the forward pass, y = activation(convolution + bias + residual): every kernel,
forced by name, with every activation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import activations
import convkern
from activations import BOUNDS
from convkern.activations import activated
from convkern.testing import Accuracy, Operands, operands, oracle, run, run_torch
from counts import count
from named_kernels import (
    AVAILABLE,
    EXACT,
    ROWS,
    WINOGRAD_ERRORS,
    algorithm,
    check_accurate,
    check_equal,
    check_winograd,
    every_failure,
    first_element,
    forced,
    supporting,
)

NAN, INF = float("nan"), float("inf")
# Which bias and layout a problem has with an activation follows from the place in this list.
ACTIVATIONS = [*activations.ACTIVATIONS[:4], "leaky_relu(-2)", *activations.ACTIVATIONS[4:]]
DTYPES, LAYOUTS = ["f32", "f64", "bf16", "f16"], ["nchw", "nhwc"]
FORWARD = [name for name in AVAILABLE if ROWS[name]["pass_"] == "fwd"]

# Channels and images are one below, at and one above the vectors and panels. Every algorithm
# computes some of the problems, and with each kind of step that an epilogue sees: sums in one block
# and in several, whole and partial tiles, results in place and in buffers, and tasks that have some
# of the rows, of the columns, of the channels or of the images.
SIZES = [
    "n2c15h5w6k16r3s3p1q1",
    "n1c16h6w7k17r3s3p1q1",
    "n3c65h5w4k33r3s3p1q1",
    "n2c33h3w5k15r1s1",
    "n1c5h4w9k33r1s1",
    "n1c1100h3w3k18r1s1",
    "n1c3h2w300k4r1s1",
    "n3c40h1w1k33r1s1",
    "n17c30h1w1k3r1s1",
    "n3c3h6w10k17r2s2u2v2",
    "n17c2h6w7k3r3s3p1q1",
    "n16c1h9w8k2r5s4p2q2",
    "n3c4h9w13k6r3s2p2q1u2v2",
    "n2c4h11w21k6r3s3p1q2u1v3d2e1",
    "n1c130h3w40k3r2s4p1q2",
    "n2c15h7w9k15r3s3p1q1g15",
    "n1c16h8w9k16r3s3p1q1u2v2g16",
    "n2c33h5w7k33r3s3p1q1g33",
    "n2c32h5w6k32r3s3p1q1g8",
    "n2c17h13w12k17r7s7p3q3g17",
    "n17c1h13w12k2r7s6p3q3",
    "n2c5h3w4k130r3s3p1q1",
    "n2c34h3w9k36r3s3p1q1g2",
    "n1c17h1w700k18r1s3q1",
    "n3c1h4w310k1r2s31q15",
    "n1c17h3w280k17r2s31q15g17",
]


def problem(sizes: str, dtype: str, layout: str, *words: str) -> str:
    return "+".join([f"{sizes}_{dtype}_{layout}_fwd", *filter(None, words)])


def check(name: str, accuracy: Accuracy, ops: Operands) -> None:
    """Checks the result of one kernel by the rule of its kind. `accuracy` has torch's error."""
    result, torchs_error = forced(name, ops), accuracy.torchs_error
    rounds_sums = ROWS[name]["dtype"] == "bf16"
    finishes = ops.residual is not None or ops.problem.activation not in (None, *BOUNDS)
    if algorithm(name) in WINOGRAD_ERRORS:
        check_winograd(name, accuracy, result)
    elif rounds_sums and finishes:
        # This kernel rounds the sum to bfloat16 before the residual and the activation, and then
        # the result. torch rounds the sum, the sum with the residual, and the result, so its own
        # error is the measure.
        bound = 2 * (run_torch(ops).double() - accuracy.expected).abs().max()
        wrong = ~((result.double() - accuracy.expected).abs() <= bound)
        if wrong.any():
            raise AssertionError(first_element(result, accuracy.expected, wrong, bound.item()))
    else:
        if algorithm(name) == "fft":  # as in test_kernels: as many roundings as the sum has
            accuracy.torchs_error = None
        check_accurate(accuracy, result)
        accuracy.torchs_error = torchs_error


@pytest.mark.usefixtures("medium_precision")
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_kernels(activation: str | None) -> None:
    """Bias and layout alternate, so that each problem has all four combinations in a few
    activations, in each dtype."""
    turn = [None, *ACTIVATIONS].index(activation)
    computed = set()
    with every_failure(activation) as failures:
        for i, sizes in enumerate(SIZES):
            for j, dtype in enumerate(DTYPES):
                layout, bias = LAYOUTS[(turn + i) % 2], (turn // 2 + j) % 2
                plain = operands(problem(sizes, dtype, layout))
                names = supporting(plain, FORWARD)
                computed.update(names)
                for residual in ("", "residual"):
                    words = ("bias" * bias, residual, activation or "")
                    ops = operands(problem(sizes, dtype, layout, *words))
                    accuracy = Accuracy(ops)
                    for name in names:
                        with failures.of(f"{name} on {ops.problem}"):
                            check(name, accuracy, ops)
                            count("epilogues: results of kernels against float64, forced in turn")
    assert computed == set(FORWARD)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_chunks(dtype: str, activation: str) -> None:
    """Batches that are converted in several parts, of which the last is smaller."""
    ops = operands(problem("n7c4h130w161k4r3s3p1q1", dtype, "nchw", "residual", activation))
    accuracy = Accuracy(ops)
    with every_failure(ops.problem) as failures:
        for name in supporting(ops, FORWARD):
            if algorithm(name) in ("implicit_gemm", "direct_columnlane"):
                with failures.of(name):
                    check(name, accuracy, ops)


# ------------------------------------------------------------------------------------------------
# Special values

SPECIAL = [
    0.0, -0.0, NAN, INF, -INF, 1e4, -1e4, 90.0, -90.0, 110.0, -110.0, 87.5, -87.5, 104.5, -104.5,
    1e20, -1e20, 3e38, -3e38, 1e-40, -1e-40, 1.4e-45, -1.4e-45, 3.0, -3.0, 5.5, -5.5, 5.7, -5.7,
    6.5, -6.5, -2.9999998, -3.0000002, 0.5, -0.5, 20.0, -20.0,
]  # fmt: skip


def bound_of_error(activation: str, x: Tensor, expected: Tensor, eps: float) -> Tensor:
    """Returns the error that the result for the float64 argument x may have. Multiples of `eps` are
    relative to the result where no digits cancel. Elsewhere they are relative to the argument."""
    x = x.nan_to_num(0, 0, 0)
    if activation in BOUNDS or activation.startswith("leaky_relu"):
        relative = 2 * eps * expected.abs()
    elif activation in ("sigmoid", "silu", "gelu_tanh"):
        # The error of an exponential's argument, at most cubic in x, is relative to the argument.
        relative = 4 * eps * (1 + x.square()) * expected.abs()
        relative += 1e-37  # where float32 underflows, or the sums of torch's formula cancel
    else:
        relative = 4 * eps * x.abs() + (4 * eps if activation == "hardsigmoid" else 0)
    return relative.nan_to_num(0) + 3e-45


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("where", ["input", "sum", "residual"])
def test_special_values(activation: str, where: str) -> None:
    """The values are those of the sum: of the input without a residual, of the input with one of
    zeros, or of the residual. torch in float64 says what is right, because its float32 functions
    are not of one mind: gelu(inf) is NaN in its vectors."""
    for dtype, eps in (("f32", 2.0**-23), ("f64", 2.0**-40)):
        sizes = f"n1c1h1w{3 * len(SPECIAL)}k1r1s1"  # every value in several lanes
        words = ["residual"] * (where != "input")
        ops = operands(problem(sizes, dtype, "nchw", *words, activation))
        ops.w.fill_(1)
        values = torch.tensor(SPECIAL * 3, dtype=ops.x.dtype).view(ops.x.shape)
        ops.x.copy_(values if where != "residual" else torch.zeros_like(values))
        if ops.residual is not None:
            ops.residual.copy_(values if where == "residual" else torch.zeros_like(values))
        expected = activated(values.double(), activation)
        bound = bound_of_error(activation, values.double(), expected, eps)
        with every_failure(ops.problem) as failures:
            for name in supporting(ops, EXACT):
                if algorithm(name) == "fft":
                    continue  # its transforms are tested below
                with failures.of(name):
                    result = forced(name, ops).double()
                    rounded = expected.to(ops.x.dtype).double()  # may overflow
                    finite = rounded.isfinite()
                    right = same_kind(result, rounded)
                    right &= ~finite | ((result - expected).abs() <= bound)
                    if not right.all():
                        index = (~right).nonzero()[0, -1].item()
                        message = first_element(result, expected, ~right, bound.flatten()[index])
                        raise AssertionError(f"{message}, of {values.flatten()[index].item()}")
                    count("epilogues: results of kernels with special values")


def same_kind(actual: Tensor, expected: Tensor) -> Tensor:
    """Returns where both are finite, both NaN, or both infinities of one sign."""
    kinds = (torch.isnan, torch.isposinf, torch.isneginf)
    return torch.stack([kind(actual) == kind(expected) for kind in kinds]).all(0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan_in_every_dtype(activation: str) -> None:
    for dtype in DTYPES:
        for residual in ("", "residual"):
            ops = operands(problem("n3c2h5w5k1r3s3", dtype, "nchw", residual, activation))
            ops.x[1, 0, 0, 0] = NAN
            with every_failure(ops.problem) as failures:
                for name in supporting(ops, FORWARD):
                    with failures.of(name):
                        found = forced(name, ops).isnan().nonzero().tolist()
                        assert found == [[1, 0, 0, 0]]


@pytest.mark.usefixtures("medium_precision")
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("value", [INF, NAN, 3e38, 1e8], ids=str)
@pytest.mark.parametrize(
    "sizes", ["n3c4h9w8k5r3s3p1q1", "n3c16h9w8k16r5s5p2q2g16", "n19c1h12w11k2r6s7p2q3"]
)
def test_images_that_transforms_leave_to_the_direct_sum(
    sizes: str, value: float, activation: str | None
) -> None:
    """Such an image is next to ordinary images. Its results must have the epilogue once."""
    for layout in LAYOUTS:
        ops = operands(problem(sizes, "f32", layout, "bias", "residual", activation or ""))
        names = [n for n in supporting(ops, FORWARD) if algorithm(n) in (*WINOGRAD_ERRORS, "fft")]
        assert names
        ordinary = oracle(ops)
        ops.x[1, 0, 4, 3] = value
        direct = forced("fwd.implicit_gemm.f32.baseline", ops)  # its sums overflow in float32 too
        with every_failure(ops.problem) as failures:
            for name in names:
                if value == 1e8 and algorithm(name) != "fft":
                    continue  # Winograd's errors are those of the tile, as the bound says
                with failures.of(name):
                    result = forced(name, ops)
                    for image in range(len(result)):
                        wanted = direct[1].double() if image == 1 else ordinary[image]
                        near = 1e-5 * wanted.abs() + 1e-4
                        right = (result[image] - wanted).abs() <= near
                        right |= ~wanted.isfinite() & same_kind(result[image], wanted)
                        if not right.all():
                            message = first_element(result[image], wanted, ~right, "near")
                            raise AssertionError(f"image {image}: {message}")
                    count("epilogues: results of transforms with images that they leave")


# ------------------------------------------------------------------------------------------------
# The residual as a tensor


def residuals(like: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Returns tensors of the shape of `like` whose memory is laid out in many ways."""
    n, c, h, w = like.shape

    def random(*size: int) -> Tensor:
        return torch.randn(size).to(like.dtype)

    yield "contiguous", random(n, c, h, w)
    yield "channels_last", random(n, c, h, w).contiguous(memory_format=torch.channels_last)
    yield "expanded", random(n, 1, h, 1).expand(n, c, h, w)
    yield "one number", random(1, 1, 1, 1).expand(n, c, h, w)
    yield "every second column", random(n, c, h, 2 * w)[..., ::2]
    yield "some channels", random(n, c + 3, h, w)[:, 2 : 2 + c]
    yield "transposed", random(w, h, c, n).permute(3, 2, 1, 0)
    yield "unaligned", random(n * c * h * w + 1)[1:].view(n, c, h, w)
    yield (
        "unaligned channels_last",
        (random(n * c * h * w + 1)[1:].view(n, h, w, c).permute(0, 3, 1, 2)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_the_residual_may_have_any_strides_and_is_not_written(
    activation: str | None, dtype: torch.dtype
) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x, w = torch.randn(2, 5, 6, 7).to(dtype), torch.randn(18, 5, 3, 3).to(dtype)
        x = x.contiguous(memory_format=layout)
        like = convkern.conv2d(x, w)
        for kind, residual in residuals(like):
            before, version = residual.clone(), residual._version
            y = convkern.conv2d(x, w, activation=activation, residual=residual)
            dense = residual.contiguous(memory_format=layout)
            expected = convkern.conv2d(x, w, activation=activation, residual=dense)
            assert torch.equal(y, expected), kind
            assert y.stride() == like.stride(), kind
            assert torch.equal(residual, before), kind
            assert residual._version == version, kind
            assert y.untyped_storage().data_ptr() != residual.untyped_storage().data_ptr(), kind


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_input_may_be_the_residual(layout: str) -> None:
    ops = operands(problem("n2c16h5w6k16r3s3p1q1", "f32", layout, "residual", "relu"))
    same = Operands(ops.problem, ops.x, ops.w, ops.b, ops.gy, ops.x)
    before = ops.x.clone()
    accuracy = Accuracy(same)
    with every_failure(ops.problem) as failures:
        for name in supporting(same, EXACT):
            with failures.of(name):
                check(name, accuracy, same)
                assert torch.equal(ops.x, before)


# ------------------------------------------------------------------------------------------------
# Results do not depend on the batch or on threads


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_restored", "medium_precision")
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_results_do_not_depend_on_threads(activation: str | None) -> None:
    with every_failure(activation) as failures:
        for i, sizes in enumerate(SIZES):
            dtype = DTYPES[i % 4]
            ops = operands(problem(sizes, dtype, LAYOUTS[i // 4 % 2], "residual", activation or ""))
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(run(ops))
            for other in results[1:]:
                with failures.of(str(ops.problem)):
                    check_equal(other, results[0])


@pytest.fixture
def batch_invariant() -> Iterator[None]:
    convkern.set_batch_invariant(True)
    yield
    convkern.set_batch_invariant(False)


@pytest.mark.usefixtures("threads_restored", "batch_invariant")
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_batch_invariance(activation: str | None) -> None:
    with every_failure(activation) as failures:
        for i, sizes in enumerate(SIZES):
            batch = f"n19{sizes[sizes.index('c') :]}"
            dtype = DTYPES[i % 4]
            words = ("bias", "residual", activation or "")
            ops = operands(problem(batch, dtype, LAYOUTS[i // 4 % 2], *words))
            assert ops.residual is not None
            torch.set_num_threads(1)
            whole = run(ops)
            torch.set_num_threads(2)
            for first, n in ((0, 1), (16, 2), (1, 17)):
                images = slice(first, first + n)
                y = convkern.conv2d(
                    ops.x[images], ops.w, ops.b, *ops.window,
                    activation=activation, residual=ops.residual[images],
                )  # fmt: skip
                with failures.of(f"{ops.problem}, {n} images"):
                    check_equal(y, whole[images])
