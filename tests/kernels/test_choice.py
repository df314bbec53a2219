"""How a kernel is chosen: explain, forcing, the environment, fallbacks and the command line."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest
import torch

import convkern
from convkern import _C
from convkern.cli import main

FIRST_LAYER = "n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+bias#fmnist/padding3.conv1"
TINY = "import torch, convkern; x = torch.ones(1, 1, 4, 4); convkern.conv2d(x, x)"
# An output reads more than a thread's buffers can hold.
CALL = "convkern.conv2d(w, w, padding=(0, 1))"
WIDE = f"import torch, convkern; w = torch.ones(1, 1, 1, 3_000_000); {CALL}"

DEVICES = ["cpu", *["cuda"] * (_C.build_info()["cuda"] is not None)]  # that have kernels


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CONVKERN_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True
    )


def test_explain_names_kernel_costs_and_reasons() -> None:
    with convkern.use_isa("baseline"):
        explanation = convkern.explain(FIRST_LAYER)
    assert explanation.kernel == "fwd.fft.f32.baseline"
    reasons = dict(explanation.rejected)
    if _C.available_isa().startswith("avx512"):
        assert reasons["fwd.fft.f32.avx512"] == (
            "needs an instruction set above the configured cap"
        )
    assert explanation.flops == 2 * 512 * 19 * 19 * 14 * 14
    assert explanation.workspace_bytes > 0
    text = str(explanation)
    for word in ("#fmnist/padding3.conv1", explanation.kernel, "FLOPs", "bytes", "workspace"):
        assert word in text


@pytest.mark.parametrize("channels_last", [False, True])
def test_explain_of_tensors_is_explain_of_their_problem(channels_last: bool) -> None:
    x, w = torch.empty(2, 4, 9, 8, device="meta"), torch.empty(6, 2, 3, 5, device="meta")
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    explanation = convkern.explain(x, w, None, 2, (1, 2), (2, 1), 2, activation="relu")
    layout = "nhwc" if channels_last else "nchw"
    text = f"n2c4h9w8k6r3s5p1q2u2v2d2e1g2_f32_{layout}_fwd+relu"
    assert explanation == convkern.explain(text)


def test_explain_takes_what_conv2d_takes() -> None:
    x, w = torch.empty(3, 9, 8), torch.empty(4, 3, 4, 3)
    padded = "n1c3h9w8k4r4s3p1-2q1u1v1d1e1g1_f32_nchw_fwd"  # the even extent has one more below
    assert convkern.explain(x, w, padding="same").problem == padded
    with pytest.raises(RuntimeError, match="3 channels"):
        convkern.explain(torch.empty(1, 3, 9, 8), torch.empty(4, 2, 3, 3))
    with pytest.raises(RuntimeError, match="padding"):
        convkern.explain(x, w, padding=-1)
    with pytest.raises(ValueError, match="swish"):
        convkern.explain(x, w, activation="swish")


def test_explain_what_runs_and_what_does_not() -> None:
    x, w = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    with torch.profiler.profile() as profile:
        convkern.conv2d(x, w)
    assert convkern.explain(x, w).kernel in {e.key for e in profile.key_averages()}
    with pytest.raises(ValueError, match="problem string"):
        convkern.explain("n1")
    with pytest.raises(TypeError, match="weight"):
        convkern.explain(x)


def test_forcing() -> None:
    x, w = torch.randn(2, 1, 5, 5), torch.randn(1, 1, 3, 3)
    name = "fwd.reference.any.baseline"
    other = "fwd.direct_batchlane.f32.baseline"
    with convkern.use_kernel(name):
        assert convkern.explain(x, w).kernel == name
        assert convkern.explain(x, w).reason == "forced"
        with convkern.use_kernel(other):
            assert convkern.explain(x, w).kernel == other
        assert convkern.explain(x, w).kernel == name
    assert convkern.explain(x, w).kernel != name
    with (
        convkern.use_kernel(other),
        pytest.raises(RuntimeError, match=f"forced kernel {other} computes another dtype"),
    ):
        convkern.conv2d(x.double(), w.double())
    with (
        pytest.raises(ValueError, match=r"no kernel is named 'fast'.*fwd\.reference"),
        convkern.use_kernel("fast"),
    ):
        pass
    with pytest.raises(ValueError, match="sse9"), convkern.use_isa("sse9"):
        pass


def test_contexts_are_left_in_any_order() -> None:
    """Contexts of threads, generators and asynchronous tasks end in any order."""
    x, w = torch.randn(2, 1, 9, 9), torch.randn(1, 1, 3, 3)
    chosen = convkern.explain(x, w).kernel
    names = ["fwd.reference.any.baseline", "fwd.direct_batchlane.f32.baseline",
             "fwd.direct_columnlane.f32.baseline"]  # fmt: skip
    for order in itertools.permutations(range(3)):
        contexts = [convkern.use_kernel(name) for name in names]
        for context in contexts:
            context.__enter__()
        left: set[int] = set()
        for i in order:
            contexts[i].__exit__(None, None, None)
            left.add(i)
            entered = [j for j in range(3) if j not in left]
            expected = names[entered[-1]] if entered else chosen
            assert convkern.explain(x, w).kernel == expected
    a, b = convkern.use_isa("avx2"), convkern.use_isa("baseline")
    a.__enter__(), b.__enter__()
    a.__exit__(None, None, None)
    assert _C.isa_cap() == "baseline"
    b.__exit__(None, None, None)
    assert _C.isa_cap() == "avx512bf16"


def test_an_abandoned_generator_leaves_its_context() -> None:
    def kernels() -> Iterator[str]:
        with convkern.use_kernel("fwd.reference.any.baseline"):
            yield convkern.explain("n1c1h9w9k1r3s3_f32_nchw_fwd").kernel

    generator = kernels()
    assert ".reference." in next(generator)
    with convkern.use_kernel("fwd.direct_batchlane.f32.baseline"):
        generator.close()
        assert "batchlane" in convkern.explain("n1c1h9w9k1r3s3_f32_nchw_fwd").kernel
    assert ".reference." not in convkern.explain("n1c1h9w9k1r3s3_f32_nchw_fwd").kernel


def test_fallback_to_the_reference_kernel_warns_once_with_the_reason() -> None:
    loop = f"{WIDE}; {CALL}"
    result = run_python(loop)
    assert result.returncode == 0
    assert result.stderr.count("the slow reference kernel fwd.reference.any.baseline") == 1
    assert "would need more workspace" in result.stderr
    assert "another dtype" not in result.stderr
    assert run_python(TINY).stderr == ""


def test_strict_environment() -> None:
    result = run_python(WIDE, CONVKERN_STRICT="1")
    assert result.returncode == 1
    assert "RuntimeError: convkern: only the reference kernel" in result.stderr
    assert run_python(TINY, CONVKERN_STRICT="1").returncode == 0


def test_float32_precision() -> None:
    problem = "n8c64h14w14k64r3s3p1q1_f32_nchw_fwd"
    isa = _C.available_isa().removesuffix("bf16")
    winograd = f"fwd.winograd_4x4.f32.{isa}"
    large = "n4c32h56w56k32r31s31p15q15u1v1d1e1g32_f32_nchw_fwd"
    assert convkern.get_float32_precision() == "high"
    explanation = convkern.explain(problem)
    assert "winograd_2x2" in explanation.kernel
    assert "fft" in convkern.explain(large).kernel
    assert "less accurate than the precision" in dict(explanation.rejected)[winograd]
    with convkern.use_kernel(winograd), pytest.raises(RuntimeError, match="is less accurate"):
        convkern.conv2d(torch.ones(1, 16, 8, 8), torch.ones(16, 16, 3, 3))
    try:
        convkern.set_float32_precision("highest")
        assert "winograd" not in convkern.explain(problem).kernel
        assert "direct" in convkern.explain(large).kernel
        convkern.set_float32_precision("medium")
        assert convkern.explain(problem).kernel == winograd
        # Two rows of outputs leave half of a 4x4 tile empty, and one channel is too few.
        assert "winograd_2x2" in convkern.explain(problem.replace("h14w14", "h2w2")).kernel
        assert "winograd" not in convkern.explain(problem.replace("c64", "c1")).kernel
    finally:
        convkern.set_float32_precision("high")
    with pytest.raises(ValueError, match="must be highest, high or medium, got 'low'"):
        convkern.set_float32_precision("low")  # type: ignore[arg-type]
    shown = run_python("import convkern; print(convkern.get_float32_precision())",
                       CONVKERN_PRECISION="medium")  # fmt: skip
    assert shown.stdout == "medium\n"


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_isa_environment(isa: str) -> None:
    result = run_python(TINY, CONVKERN_ISA=isa, CONVKERN_VERBOSE="dispatch")
    assert result.returncode == 0
    levels = ["baseline", "avx2", "avx512", "avx512bf16"]
    expected = min(isa, _C.available_isa(), key=levels.index)
    problem = "n1c1h4w4k1r4s4p0q0u1v1d1e1g1_f32_nchw_fwd"
    kernel = f"fwd.skinny_gemm.f32.{expected}"
    assert result.stderr == f"convkern: {problem} -> {kernel}\n"


def test_kernel_and_verbosity_environment() -> None:
    name = "fwd.reference.any.baseline"
    result = run_python(TINY, CONVKERN_KERNEL=name, CONVKERN_VERBOSE="profile")
    assert f"-> {name}\n" in result.stderr
    assert re.search(
        r"^convkern: +[\d.]+ ms, [\d.]+ GFLOP/s, \d+% of the roof$", result.stderr, re.M
    )
    plan = run_python(TINY, CONVKERN_ISA="baseline", CONVKERN_VERBOSE="plan").stderr
    if _C.available_isa() != "baseline":
        assert "not fwd.fft.f32.avx512 needs an instruction set" in plan
        assert "; fwd.direct_batchlane.f32.avx512 needs an instruction set" in plan


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONVKERN_ISA", "sse9"),
        ("CONVKERN_PRECISION", "low"),
        ("CONVKERN_KERNEL", "fast"),
        ("CONVKERN_VERBOSE", "loud"),
    ],
)
def test_bad_environment(variable: str, value: str) -> None:
    result = run_python("import convkern", **{variable: value})
    assert result.returncode == 1
    assert "ValueError" in result.stderr
    assert value in result.stderr


@pytest.mark.parametrize("sizes", ["n0c8h8w8k4 g4", "n2c0h8w8k4 g4", "n2c0h8w8k4 ", "n0c1h0w0k1 "])
@pytest.mark.parametrize("pass_", ["fwd", "gx", "gw"])
def test_problems_without_products_are_explained(sizes: str, pass_: str) -> None:
    for dtype in ("f32", "f64", "bf16"):
        for window in ("r3s3p2q2", "r1s1", "r2s4u2v4"):
            problem = f"{sizes.replace(' ', window)}_{dtype}_nhwc_{pass_}"
            if "h0w0" in sizes and window != "r3s3p2q2":
                continue  # windows need images
            assert convkern.explain(problem).kernel == f"{pass_}.reference.any.baseline"


def test_strides_and_padding_beyond_any_memory_are_planned() -> None:
    """Buffer sizes would overflow, and lists of the stride's residues, or of taps that a stride
    keeps apart, would take all the memory."""
    for sizes, pass_ in product(
        (
            "n7c340h4w10k220r2s3p18q311344964856094590v3286289052267249e6g20",
            "n1c64h9w9k64r3s3p1000000000q1",
            "n1c1h5000w5000k1r3s3u5000v5000",
            "n1c1h1w20000000k1r1s10000000u1v10000000",
            "n1c1h1w1099511627776k1r1s549755813888u1v1099511627776",
        ),
        ("fwd", "gx", "gw"),
    ):
        for device in DEVICES:
            explanation = convkern.explain(f"{sizes}_f32_nchw_{pass_}", device=device)
            assert explanation.workspace_bytes >= 0
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    y = convkern.conv2d(x, w, padding=(0, 2**40), stride=(1, 2**40))
    assert y.tolist() == [[[[0, 4, 0]] * 3]]


def test_cli_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", FIRST_LAYER]) == 0
    assert capsys.readouterr().out == f"{convkern.explain(FIRST_LAYER)}\n"
    assert main(["explain", "n1"]) == 2
    assert "problem string 'n1'" in capsys.readouterr().err


def test_cli_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in (convkern.__version__, torch.__version__, _C.available_isa(), "threads"):
        assert word in out
