"""The CUDA kernels, simulated, at the limits of their arguments and with infinities and NaN."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
import torch

import convkern
from convkern import _C
from convkern.testing import assert_accurate, operands, variant
from cuda_simulator import Simulator

PASSES = ("fwd", "gx", "gw")
# Steps that do not fit int or whose products do not, although every tensor is tiny. Paddings larger
# than the kernel. More residues than a block has threads.
EXTREME = [
    "n1c1h5w5k1r3s3u4294967296v1_f32_nchw_fwd",
    "n1c1h5w5k1r1s1d4294967296e1_f32_nchw_fwd",
    "n1c1h5w5k1r1s1u16384v16384_f32_nchw_fwd",
    "n1c1h5w5k1r2s1u1099511627776v1d3e1_f32_nhwc_fwd",
    "n1c1h33w10k1r1s1u16383v1024d256e128_f32_nchw_fwd",
    "n1c4h1w1k4r2s1p32768q0d65536e1_f32_nhwc_fwd",
    "n2c20h40w40k4r1s1u39v39_f32_nhwc_fwd",
    "n1c3h4w4k2r2s2p9q11_f32_nchw_fwd",
    "n1c3h33w33k3r3s3p18q18d18e18g3_f32_nchw_fwd",
    "n1c3h33w33k3r3s3p18q18d18e18g3_f32_nhwc_fwd",
    "n1c2h50w50k2r3s3u32v32g2_f32_nchw_fwd",
    "n1c2h41w40k2r3s3p20q20u2v3d20e19g2_f32_nchw_fwd",
]


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("text", EXTREME)
def test_extreme_arguments(simulator: Simulator, text: str, pass_: str, dtype: str) -> None:
    """Each kernel is right or says that it does not support the problem. direct supports all."""
    ops = operands(variant(text, pass_=pass_, dtype=dtype))
    ran = []
    for name in simulator.kernels():
        kernel_pass, algorithm, of = simulator.fields(name)
        if (
            kernel_pass != pass_
            or of not in ("any", dtype)
            or (algorithm, of) == ("implicit_gemm_mma", "f32")
        ):
            continue
        if simulator.rejection(name, str(ops.problem)) == "":
            assert_accurate(simulator.run(name, ops), ops, peer=False)
            ran.append(algorithm)
    assert {"direct", "reference"} <= set(ran)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("n1c1h120000000w1k1r120000000s1_f64_nchw_fwd", "needs more shared memory"),
        ("n1c1h70000w70000k1r1s1_f64_nchw_fwd", "32 bits"),
        ("n3000000000c1h2w2k1r1s1_f64_nchw_fwd", "32 bits"),
        ("n1c1h400w400k1r300s300_f64_nchw_fwd", "needs more shared memory"),
    ],
)
def test_what_direct_does_not_support(
    simulator: Simulator, text: str, why: str, pass_: str
) -> None:
    problem = variant(text, pass_=pass_)
    reason = simulator.rejection(f"{pass_}.direct.f64.cuda", problem)
    # The taps of grad_weight are gy. A block holds a part of them, so they may have any size.
    assert reason == "" if pass_ == "gw" and "memory" in why else why in reason


@pytest.mark.parametrize(
    "text",
    [
        "n64c256h128w128k256r3s3p1q1_f64_nchw_fwd",
        "n8c256h33w33k256r3s3p18q18d18e18g256_f64_nhwc_fwd",
        "n8c256h65w65k256r3s3p36q36d36e36g256_f64_nchw_fwd",
    ],
)
@pytest.mark.parametrize("pass_", PASSES)
def test_large_and_dilated_layers_are_supported(
    simulator: Simulator, text: str, pass_: str
) -> None:
    assert simulator.rejection(f"{pass_}.direct.f64.cuda", variant(text, pass_=pass_)) == ""


@pytest.mark.skipif(_C.build_info()["cuda"] is None, reason="a build without CUDA")
def test_a_kernel_that_declines_runs_rather_than_the_reference() -> None:
    problem = "n1c1h400w400k1r300s300_bf16_nchw_fwd"
    explanation = convkern.explain(problem, device="cuda")
    assert "shared memory" in dict(explanation.rejected)["fwd.direct.bf16.cuda"]
    assert explanation.kernel == "fwd.implicit_gemm_mma.bf16.cuda"


# Padding, several chunks of taps, strides, dilations and groups, all in small blocks.
GEOMETRIES = [
    "n2c2h6w9k2r3s3p1q1", "n2c3h9w11k4r3s3p2q2d2e2", "n2c8h9w10k8r3s3p1q1g8",
    "n1c2h11w12k2r3s3p1q1u2v2", "n3c1h13w21k1r5s9p3q3", "n2c16h7w7k16r3s3",
]  # fmt: skip


@pytest.mark.parametrize("value", [inf, nan])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_infinities_and_nan_stay_where_the_sum_puts_them(
    simulator: Simulator, geometry: str, pass_: str, dtype: str, layout: str, value: float
) -> None:
    """The operands are x, and gy for gx. What a kernel multiplies beside a window never gets into a
    result."""
    relu = "+relu" if pass_ == "fwd" else ""
    ops = operands(f"{geometry}_{dtype}_{layout}_{pass_}{relu}")
    which = "gy" if pass_ == "gx" else "x"
    tensor = getattr(ops, which).clone()
    tensor[0, 0, 0, 0] = tensor[-1, -1, -2, tensor.shape[3] // 2] = value
    spoilt = replace(ops, **{which: tensor})
    expected = simulator.run(f"{pass_}.reference.any.cuda", spoilt)
    for name in simulator.kernels():
        kernel_pass, _, of = simulator.fields(name)
        if kernel_pass == pass_ and of == dtype:
            result = simulator.run(name, spoilt)
            assert torch.equal(result.isnan(), expected.isnan()), name
            assert torch.equal(result == inf, expected == inf), name
            assert torch.equal(result == -inf, expected == -inf), name
