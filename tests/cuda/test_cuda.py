"""Questions about the CUDA kernels that can be answered without a GPU."""

import pytest
import torch

import convkern
from cases import FEW
from convkern import _C
from convkern.bench import read_shapes
from convkern.bench.suite import SHAPES
from convkern.cli import main
from convkern.testing import variant

CUDA_KERNELS = [k["name"] for k in _C.kernels() if k["device"] == "cuda"]
needs_build = pytest.mark.skipif(not CUDA_KERNELS, reason="a build without CUDA")


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes float32 exact, because kernels that use TF32 would be chosen by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@needs_build
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_explain_needs_no_gpu(pass_: str) -> None:
    explanation = convkern.explain(
        variant("n2c16h9w9k32r3s3_f32_nchw_fwd", pass_=pass_), device="cuda"
    )
    assert explanation.kernel == f"{pass_}.implicit_gemm.f32.cuda"
    depthwise = convkern.explain(
        variant("n2c8h9w9k8r3s3p1q1g8_f32_nchw_fwd", pass_=pass_), device="cuda"
    )
    assert depthwise.kernel == f"{pass_}.direct.f32.cuda"
    double = convkern.explain(variant(FEW[0], pass_=pass_, dtype="f64"), device="cuda")
    assert double.kernel == f"{pass_}.direct.f64.cuda"


@needs_build
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_no_layer_of_the_suite_needs_the_reference(
    layout: str, dtype: str, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    for shapes in SHAPES.glob("*.txt"):
        for text in read_shapes(str(shapes)):
            for pass_ in ("fwd", "gx", "gw"):
                problem = variant(text, pass_=pass_, dtype=dtype, layout=layout)
                assert ".reference." not in convkern.explain(problem, device="cuda").kernel, problem


@needs_build
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_depthwise_and_large_kernels_run_plane_by_plane(dtype: str) -> None:
    for shapes in ("fmnist", "replknet"):
        for text in read_shapes(shapes):
            explanation = convkern.explain(variant(text, dtype=dtype), device="cuda")
            assert explanation.kernel == f"fwd.direct.{dtype}.cuda"


@needs_build
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_half_precision_runs_on_tensor_cores(pass_: str, dtype: str) -> None:
    for layout in ("nchw", "nhwc"):
        problem = variant("n2c16h9w9k32r3s3_f32_nchw_fwd", pass_=pass_, dtype=dtype, layout=layout)
        explanation = convkern.explain(problem, device="cuda")
        assert explanation.kernel == f"{pass_}.implicit_gemm_mma.{dtype}.cuda"


@needs_build
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_tf32_is_used_where_torch_allows_it(pass_: str) -> None:
    problem = variant("n2c16h9w9k32r3s3_f32_nchw_fwd", pass_=pass_)
    tf32 = f"{pass_}.implicit_gemm_mma.f32.cuda"
    forbidden = convkern.explain(problem, device="cuda")
    assert "TF32" in dict(forbidden.rejected)[tf32]
    assert forbidden.kernel == f"{pass_}.implicit_gemm.f32.cuda"
    with torch.backends.cudnn.flags(allow_tf32=True):
        assert convkern.explain(problem, device="cuda").kernel == tf32
    of_conv = torch.backends.cudnn.conv
    before = of_conv.fp32_precision
    try:
        of_conv.fp32_precision = "tf32"
        assert convkern.explain(problem, device="cuda").kernel == tf32
        of_conv.fp32_precision = "ieee"
        assert convkern.explain(problem, device="cuda").kernel == forbidden.kernel
    finally:
        of_conv.fp32_precision = before


@needs_build
def test_explain_for_a_compute_capability(capsys: pytest.CaptureFixture[str]) -> None:
    problem = "n8c64h56w56k64r3s3p1q1_f32_nhwc_fwd"
    assert main(["explain", problem, "--device", "cuda:sm_90"]) == 0
    assert "fwd.implicit_gemm.f32.cuda" in capsys.readouterr().out
    with pytest.raises(ValueError, match="device must be sm_80 or later for CUDA"):
        convkern.explain(problem, device="cuda:sm_75")


@pytest.mark.skipif(bool(CUDA_KERNELS), reason="a build with CUDA")
def test_explain_without_the_build_says_so() -> None:
    with pytest.raises(ValueError, match="this build has no kernels for cuda"):
        convkern.explain(FEW[0], device="cuda")
