"""Problem strings: the grammar, round trips, and refused strings."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cases import FEW, NON_EMPTY, label
from convkern._C import Problem

EXAMPLE = "n512c1h28w28k1r14s14p2q2u1v1d1e1g1_f32_nchw_fwd+bias+relu"


def test_fields() -> None:
    p = Problem("n2c6h9w8k4r3s5p1q2u2v1d1e2g2_bf16_nhwc_gx")
    assert p.input_size == (2, 6, 9, 8)
    assert p.weight_size == (4, 3, 3, 5)
    assert p.output_size == (2, 4, 5, 4)
    assert (p.padding, p.stride, p.dilation, p.groups) == ((1, 2), (2, 1), (1, 2), 2)
    assert (p.dtype, p.layout, p.pass_, p.bias, p.activation) == ("bf16", "nhwc", "gx", False, None)


def test_flops_and_bytes() -> None:
    p = Problem(EXAMPLE)
    assert p.flops == 2 * 512 * 19 * 19 * 14 * 14
    assert p.min_bytes == 4 * (512 * 28 * 28 + 14 * 14 + 512 * 19 * 19 + 1)


@pytest.mark.parametrize("text", FEW, ids=label)
def test_real_flops_are_the_products_without_padding(text: str) -> None:
    p = Problem(text)
    ones = torch.ones(p.input_size), torch.ones(p.weight_size)
    products = F.conv2d(*ones, None, p.stride, p.padding, p.dilation, p.groups).sum().item()
    assert p.real_flops == 2 * products <= p.flops


@pytest.mark.parametrize("text", [EXAMPLE, *NON_EMPTY], ids=lambda t: label(t) or "example")
def test_round_trip(text: str) -> None:
    canonical = str(Problem(text))
    assert str(Problem(canonical)) == canonical
    assert Problem(canonical) == Problem(text)
    assert hash(Problem(canonical)) == hash(Problem(text))


ACTIVATIONS = {
    # What is written, and what is read back.
    "relu": "relu", "relu6": "relu6", "hardsigmoid": "hardsigmoid", "hardswish": "hardswish",
    "sigmoid": "sigmoid", "silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_tanh",
    "clamp(-1,1)": "clamp(-1,1)", "clamp( -1.50 , 2.25e1 )": "clamp(-1.5,22.5)",
    "clamp(-inf,inf)": "clamp(-inf,inf)", "clamp(3,3)": "clamp(3,3)",
    "leaky_relu(1e-05)": "leaky_relu(1e-05)", "leaky_relu(0.00001)": "leaky_relu(1e-05)",
    "leaky_relu(1e20)": "leaky_relu(1e20)", "leaky_relu(0.1)": "leaky_relu(0.1)",
}  # fmt: skip


@pytest.mark.parametrize("written", ACTIVATIONS)
def test_epilogue(written: str) -> None:
    plain = "n2c3h7w6k4r3s3p0q0u1v1d1e1g1_f32_nchw_fwd"
    read = ACTIVATIONS[written]
    problem = Problem(f"{plain}+residual+{written}+bias#label")
    assert str(problem) == f"{plain}+bias+residual+{read}"
    assert problem.activation == read
    assert (problem.bias, problem.residual) == (True, True)
    assert problem == Problem(str(problem)) != Problem(f"{plain}+bias+residual+clamp(-2,1)")
    assert hash(problem) == hash(Problem(str(problem)))
    without = Problem(f"{plain}+bias+{written}")
    assert problem.min_bytes - without.min_bytes == 4 * 2 * 4 * 5 * 4
    assert problem.flops == without.flops


def test_defaults_and_label() -> None:
    assert str(Problem("n1c2h3w4k5r2s1_f64_nchw_gw#some/label")) == (
        "n1c2h3w4k5r2s1p0q0u1v1d1e1g1_f64_nchw_gw"
    )


TAILS = [
    "gx", "gw", "fwd", "fwd+bias", "fwd+relu", "fwd+bias+relu", "fwd+residual", "fwd+gelu_tanh",
    "fwd+bias+residual+clamp(-1,1)", "fwd+residual+leaky_relu(1e-05)", "fwd+clamp(-inf,0.1)",
    "fwd+leaky_relu(0.30000000000000004)", "fwd+leaky_relu(-1e30)",
]  # fmt: skip


@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    out=st.integers(1, 9), kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(*[st.integers(1, 4)] * 4), padding=st.tuples(*[st.integers(32, 99)] * 2),
    groups=st.integers(1, 3), dtype=st.sampled_from(["f32", "f64", "bf16", "f16"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    tail=st.sampled_from(TAILS),
)  # fmt: skip
def test_canonical_text_is_its_own_form(
    sizes, out, kernel, window, padding, groups, dtype, layout, tail
) -> None:
    n, c, h, w = sizes
    values = (
        n, c * groups, h, w, out * groups, *kernel, *padding, *window, groups
    )  # fmt: skip
    text = "".join(f"{a}{b}" for a, b in zip("nchwkrspquvdeg", values, strict=True))
    text += f"_{dtype}_{layout}_{tail}"
    assert str(Problem(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected sizes_dtype_layout_pass"),
        ("n1c1h5w5k1r3s3_f32_nchw", "expected sizes_dtype_layout_pass"),
        ("c1n1h5w5k1r3s3_f32_nchw_fwd", "'n' is missing or out of order"),
        ("n1c1h5w5k1r3_f32_nchw_fwd", "'s' is missing"),
        ("n1c1h5w5k1r3s3g1p1_f32_nchw_fwd", "unexpected 'p1'"),
        ("n1c1h5w5k1r3s_f32_nchw_fwd", "'s' must be followed by a decimal number"),
        ("n-1c1h5w5k1r3s3_f32_nchw_fwd", "'n' must be followed by a decimal number"),
        ("n99999999999999999999c1h5w5k1r3s3_f32_nchw_fwd", "'n' does not fit int64"),
        ("n1c1h5w5k1r3s3_f31_nchw_fwd", "dtype must be one of f32, f64, bf16, f16, got 'f31'"),
        ("n1c1h5w5k1r3s3_f32_nhcw_fwd", "layout must be one of nchw, nhwc"),
        ("n1c1h5w5k1r3s3_f32_nchw_bwd", "pass must be one of fwd, gx, gw"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+swish", "got activation='swish'"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+", "expected +bias, +residual or +<activation>"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+clamp(1)", "of the form 'clamp(low,high)'"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+clamp(2,1)", "'clamp(low,high)' with low <= high"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+leaky_relu", "of the form 'leaky_relu(slope)'"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+leaky_relu(1e+5)", "of the form 'leaky_relu(slope)'"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+residual+residual", "got activation='residual'"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+relu+gelu", "each once"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+relu+bias+bias", "each once"),
        ("n1c1h5w5k1r3s3_f32_nchw_gw+residual", "belong to the fwd pass"),
        ("n1c1h5w5k1r3s3_f32_nchw_gx+silu", "belong to the fwd pass"),
        ("n1c1h5w5k1r3s3_f32_nchw_fwd+relu+relu", "each once"),
        ("n1c1h5w5k1r3s3_f32_nchw_gx+bias", "belong to the fwd pass"),
        ("n1c1h5w5k1r7s3_f32_nchw_fwd", "Kernel size: (7 x 3)"),
        ("n1c3h5w5k2r3s3g2_f32_nchw_fwd", "channels"),
        ("n1c1h5w5k1r3s3u0_f32_nchw_fwd", "stride=(0, 1)"),
        ("n1c1h5w5k1r3s3g0_f32_nchw_fwd", "groups=0"),
        ("n9000000000c1h90000w90000k1r3s3_f32_nchw_fwd", "input is too large"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="problem string") as error:
        Problem(text)
    assert words in str(error.value)
    assert repr(text)[1:-1] in str(error.value)


def test_flops_count_the_pairs_of_an_output_and_a_tap_in_the_image() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        h, r, p = rng.randint(1, 30), rng.randint(1, 12), rng.randint(0, 25)
        u, d = rng.randint(1, 9), rng.randint(1, 7)
        extent = d * (r - 1) + 1
        outputs = (h + 2 * p - extent) // u + 1 if extent <= h + 2 * p else 0
        if outputs == 0:
            continue
        problem = Problem(f"n1c1h{h}w1k1r{r}s1p{p}q0u{u}v1d{d}e1g1_f32_nchw_fwd")
        rows = [i * u - p + k * d for i in range(outputs) for k in range(r)]
        assert problem.real_flops == 2 * sum(0 <= row < h for row in rows)
