"""convkern.explain for problems, calls and models: its content, text and HTML."""

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
import torch
import torchvision
from torch import Tensor, nn

import convkern
from convkern import _C
from convkern.cli import main
from convkern.explain.explanation import Explanation
from convkern.info import info
from convkern.peaks import Peaks, known_peaks

DTYPES = {row["name"]: row["dtype"] for row in _C.kernels()}
FIRST_LAYER = "n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+bias#fmnist/padding3.conv1"
SHORT = """\
problem    n512c1h28w28k1r14s14p2q2u1v1d1e1g1_f32_nchw_fwd+bias#fmnist/padding3.conv1
kernel     fwd.fft.f32.avx2: the first in order of preference that supports the problem
bound      compute: 30.9 FLOPs a byte, above the ridge of 7.18 (measured: 2 threads do 201 GFLOP/s of float32 and 28 GB/s)
FLOPs      72,454,144
bytes      2,345,748 at least
workspace  174,464 bytes
rejected   24 other kernels, listed by .full() or --full"""  # noqa: E501
MODEL = """\
layer  problem                                                 kernel                          MFLOPs  share  bound
0.0    n2c3h16w16k8r3s3p1q1u1v1d1e1g1_f32_nchw_fwd+bias        fwd.direct_columnlane.f32.avx2    0.22  61.1%  compute
0.1    n2c8h16w16k8r3s3p1q1u2v2d1e1g8_f32_nchw_fwd+bias        torch                            0.018   5.1%
1      n2c8h9w9k8r2s2p0q0u1v1d1e1g1_f32_nchw_gx                torch                            0.066  18.1%
2      n2c8h9w9k4r1s1p0q0u1v1d1e1g1_f32_nchw_fwd+bias          torch                             0.01   2.9%
3      n2c4h9w9k4r3s3p5q5u2v2d1e1g1_f32_nchw_fwd+reflect+relu  fwd.implicit_gemm.f32.avx2       0.047  12.9%  compute
0.1: nn.Conv2d, which convkern.replace_conv2d would run on fwd.direct_channellane.f32.avx2
1: nn.ConvTranspose2d, which convkern.replace_layers would run on gx.implicit_gemm.f32.avx2
2: Doubled, which convkern.replace_conv2d would run on fwd.implicit_gemm.f32.avx2
2 of 5 convolution layers run on convkern, 74.0% of 0.36 MFLOPs"""  # noqa: E501

on_avx2 = pytest.mark.skipif(
    _C.available_isa() == "baseline", reason="pins what is printed with AVX2"
)


@pytest.fixture
def zen3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixes the peaks to those measured on two cores of Zen 3 with AVX2."""
    monkeypatch.setattr(
        "convkern.peaks.known_peaks",
        lambda threads, isa: Peaks(threads, 201e9 / (1 if isa.startswith("avx") else 4), 28e9),
    )


@pytest.fixture
def avx2_and_two_threads() -> Iterator[None]:
    """Fixes both, because kernels depend on the instruction set and workspaces on the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with convkern.use_isa("avx2"):
            yield
    finally:
        torch.set_num_threads(before)


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def small_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(convkern.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1, groups=8)),
        nn.ConvTranspose2d(8, 8, 2),
        Doubled(8, 4, 1),
        convkern.Conv2d(
            4, 4, 3, 2, padding=5, padding_mode="reflect", bias=False, activation="relu"
        ),
        nn.BatchNorm2d(4),
    )


@on_avx2
@pytest.mark.usefixtures("avx2_and_two_threads", "zen3")
def test_the_short_answer() -> None:
    explanation = convkern.explain(FIRST_LAYER)
    assert str(explanation) == SHORT
    facts, full = SHORT.splitlines()[:-1], explanation.full().splitlines()
    assert full[: len(facts)] == facts
    assert full[len(facts) :] == [f"rejected   {name}: {why}" for name, why in explanation.rejected]


def test_rejected_are_the_other_kernels_of_the_dtype() -> None:
    for dtype, also in (("f32", "any"), ("f64", "any"), ("bf16", "half"), ("f16", "half")):
        explanation = convkern.explain(f"n1c8h9w9k8r3s3_{dtype}_nchw_fwd")
        dtypes = {DTYPES[name] for name, _ in explanation.rejected}
        assert dtypes <= {dtype, "any", also}
        assert explanation.kernel not in dict(explanation.rejected)


ISAS = ("baseline", "avx2", "avx512", "avx512bf16")


@pytest.mark.parametrize(
    ("problem", "isa", "share", "bound"),
    [
        ("n8c64h56w56k64r3s3p1q1_f32_nchw_fwd", "avx2", 1, "compute"),
        ("n8c64h56w56k64r3s3p1q1g64_f32_nchw_fwd", "avx2", 1, "memory"),
        ("n8c64h56w56k64r3s3p1q1_f64_nchw_fwd", "avx2", 0.5, "compute"),
        ("n8c64h56w56k64r3s3p1q1_f32_nchw_fwd", "baseline", 0.25, "compute"),
        ("n8c64h56w56k64r3s3p1q1_bf16_nchw_fwd", "avx512bf16", 2, "compute"),
        ("n8c64h56w56k64r3s3p1q1_bf16_nchw_fwd", "avx2", 1, "compute"),
    ],
)
@pytest.mark.usefixtures("zen3")
def test_the_bound_is_the_side_of_the_ridge(
    problem: str, isa: str, share: float, bound: str
) -> None:
    if ISAS.index(isa) > ISAS.index(_C.available_isa()):
        pytest.skip(f"needs {isa}")
    with convkern.use_isa(isa):
        explanation = convkern.explain(problem)
    # The explanation is still that of the instruction set.
    assert explanation.kernel.endswith(isa)
    assert (explanation.bound, explanation.ridge) == (bound, share * 201e9 / 28e9)
    assert explanation.intensity == explanation.flops / explanation.min_bytes
    assert f"bound      {bound}: {explanation.intensity:,.1f} FLOPs a byte" in str(explanation)


def test_the_ridge_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = convkern.explain(FIRST_LAYER)
    isa = explanation.kernel.rpartition(".")[2]
    peaks = known_peaks(torch.get_num_threads(), isa)
    assert isinstance(peaks, Peaks)
    assert explanation.ridge == peaks.peak / peaks.bandwidth
    monkeypatch.setattr("convkern.peaks._measure", None)  # it is not called again
    assert convkern.explain(FIRST_LAYER).ridge == explanation.ridge


def test_without_memory_to_measure_in_nothing_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(isa: str) -> None:
        raise MemoryError

    monkeypatch.setattr("convkern.peaks._known", {})
    monkeypatch.setattr(_C, "measure_peak", no_memory)
    explanation = convkern.explain(FIRST_LAYER)
    assert (explanation.ridge, explanation.bound) == (0, "")
    assert "bound" not in str(explanation)


@pytest.mark.skipif(_C.build_info()["cuda"] is None, reason="needs a build with CUDA")
def test_nothing_is_predicted_for_gpus() -> None:
    explanation = convkern.explain(FIRST_LAYER, device="cuda:sm_90")
    assert (explanation.ridge, explanation.bound) == (0, "")


def test_without_a_kernel_nothing_is_predicted() -> None:
    x, w = torch.ones(1, 1, 4, 4, dtype=torch.int32), torch.ones(1, 1, 2, 2, dtype=torch.int32)
    explanation = convkern.explain(x, w)
    assert (explanation.kernel, explanation.bound) == ("torch", "")
    assert str(explanation).splitlines() == [
        "problem    torch.int32 on cpu",
        "kernel     torch: convkern computes dense float32, float64, bfloat16 and float16 on CPU "
        "and CUDA",
    ]


def cells(html: str) -> list[str]:
    """Returns the texts of a table's cells. The markup must be well-formed."""
    root = ElementTree.fromstring(f"<div>{html}</div>")
    return ["".join(c.itertext()) for c in root.iter() if c.tag in ("td", "th")]


def test_jupyter_shows_tables() -> None:
    explanation = convkern.explain(FIRST_LAYER.replace("padding3", "<b>&"))
    shown = cells(explanation._repr_html_())
    assert shown[0] == "problem"
    assert shown[1].endswith("#fmnist/<b>&.conv1")
    for name, reason in explanation.rejected:
        assert reason in shown[shown.index(name) :]
    shown = cells(convkern.explain(small_model(), torch.empty(2, 3, 16, 16))._repr_html_())
    assert shown[:4] == ["layer", "problem", "kernel", "MFLOPs"]
    assert shown[6:8] == ["0.0", "n2c3h16w16k8r3s3p1q1u1v1d1e1g1_f32_nchw_fwd+bias"]


@on_avx2
@pytest.mark.usefixtures("avx2_and_two_threads", "zen3")
def test_a_model_is_a_table_of_its_layers() -> None:
    explanation = convkern.explain(small_model(), torch.empty(2, 3, 16, 16))
    assert [name for name, _ in explanation] == ["0.0", "0.1", "1", "2", "3"]
    assert str(explanation) == MODEL
    assert explanation.full().count("rejected ") > 20


def test_a_layer_of_a_model_is_explained_as_its_call() -> None:
    model, x = small_model(), torch.randn(2, 3, 16, 16)
    layers = dict(convkern.explain(model, x))
    first = model[0][0]
    assert layers["0.0"] == convkern.explain(x, first.weight, first.bias, padding=1)
    with torch.profiler.profile() as profile:
        model(x)
    seen = [e.key for e in profile.key_averages()]
    for explanation in layers.values():
        assert explanation.kernel in seen or explanation.kernel == "torch"


def test_explaining_leaves_the_model_as_it_is() -> None:
    model = small_model().append(nn.Dropout()).train()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    explanation = convkern.explain(model, torch.empty(2, 3, 16, 16))
    assert len(explanation) == 5
    assert torch.equal(torch.get_rng_state(), random)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name]), name
        assert type(t) is Tensor
    assert not any(module._forward_hooks for module in model.modules())


def test_layouts_dtypes_autocast_and_devices_of_models() -> None:
    model, x = convkern.Conv2d(3, 8, 3), torch.empty(2, 3, 16, 16)

    def of(model: nn.Module, x: Tensor, device: str | None = None) -> Explanation:
        ((_, explanation),) = convkern.explain(model, x, device=device)
        return explanation

    assert "_nhwc_" in of(model, x.to(memory_format=torch.channels_last)).problem
    assert "_bf16_" in of(copy.deepcopy(model).bfloat16(), x.bfloat16()).problem
    with torch.autocast("cpu"):
        assert "_bf16_" in of(model, x).problem
    assert of(copy.deepcopy(model).to("meta"), x.to("meta")) == of(model, x)
    if _C.build_info()["cuda"] is not None:
        assert of(model, x, device="cuda:sm_90").kernel.endswith(".cuda")


def test_tensors_without_data_stand_for_those_of_the_model() -> None:
    model, x = small_model(), torch.empty(2, 3, 16, 16)
    expected = str(convkern.explain(model, x))
    assert str(convkern.explain(model, x.to("meta"))) == expected
    without = copy.deepcopy(model).to("meta")
    assert str(convkern.explain(without, x.to("meta"))) == expected
    assert str(convkern.explain(without, x)) == expected
    last = x.to(memory_format=torch.channels_last).to("meta")
    assert "nhwc" in str(convkern.explain(model, last))

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = convkern.Conv2d(3, 3, 3)

        def forward(self, images: dict[str, list[Tensor]]) -> Tensor:
            return self.layer(images["left"][0]) + torch.ones(1)

    ((_, plan),) = convkern.explain(Nested(), ({"left": [x.to("meta")]},))
    assert plan.problem.startswith("n2c3h16w16k3r3s3")


def test_models_of_several_inputs_and_shared_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = convkern.Conv2d(3, 3, 3)

        def forward(self, x: Tensor, scale: float, y: Tensor) -> Tensor:
            return self.layer(self.layer(x) * scale) + torch.ones(1) * y.sum()

    explanation = convkern.explain(Twice(), (torch.empty(1, 3, 9, 9), 0.5, torch.empty(4)))
    assert [name for name, _ in explanation] == ["layer", "layer"]
    assert ["h9w9" in e.problem for _, e in explanation] == [True, False]
    assert str(convkern.explain(nn.Linear(3, 4), torch.empty(3))) == (
        "0 of 0 convolution layers run on convkern, 0.0% of 0 MFLOPs"
    )


def test_models_that_cannot_be_traced() -> None:
    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="depends on values, not only on shapes"):
        convkern.explain(Choosy(), torch.ones(3))
    with pytest.raises(ValueError, match="run it once"):
        convkern.explain(convkern.LazyConv2d(3, 3), torch.ones(1, 3, 9, 9))
    with pytest.raises(TypeError, match=r"example of its input, a Tensor or a tuple.*got NoneType"):
        convkern.explain(small_model(), None)  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="3 channels"):
        convkern.explain(small_model(), torch.ones(1, 4, 9, 9))


def test_torchvision_models_are_explained_whole() -> None:
    model = torchvision.models.resnet18()
    convkern.replace_conv2d(model)
    explanation = convkern.explain(model, torch.empty(8, 3, 224, 224, device="cpu"))
    assert len(explanation) == 20
    assert explanation.flops == sum(e.flops for _, e in explanation)
    assert all(e.kernel.startswith("fwd.") for _, e in explanation)


def test_the_command_explains_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "squeezenet1_1", "--input", "1x3x64x64"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^features\.0 +n1c3h64w64k64r3s3", out, re.MULTILINE)
    assert "26 of 26 convolution layers run on convkern, 100.0%" in out
    assert main(["explain", "squeezenet1_1", "--input", "1x3x64x64", "--full"]) == 0
    assert capsys.readouterr().out.count("\nlayer ") == 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet0", "--input", "1x3x64x64"], "Unknown model resnet0"),
        (["resnet18", "--input", "1x4x64x64"], "resnet18 does not take an input of 1x4x64x64"),
        (["resnet18"], "give its input, e.g. --input"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1


def test_the_command_needs_torchvision_for_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convkern.cli.explain.find_spec", lambda name: None)
    assert main(["explain", "resnet18", "--input", "1x3x64x64"]) == 2
    assert "pip install 'convkern[data]'" in capsys.readouterr().err


def test_the_commands_do_without_torchvision() -> None:
    code = "import sys; sys.modules['torchvision'] = None; from convkern.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "info"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_info_tells_compiled_detected_and_active_isa() -> None:
    facts = info()
    assert facts["ISA compiled"].split()[0] == "baseline"
    assert facts["ISA detected"] == _C.available_isa()
    with convkern.use_isa("baseline"):
        assert info()["ISA active"] == "baseline (the cap is baseline)"
    assert f"torchvision {torchvision.__version__.partition('+')[0]}" in facts["packages"]


def test_info_says_what_is_missing_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convkern.info._version", lambda package: None)
    monkeypatch.setattr(_C, "build_info", lambda: {"compiler": "", "torch": "", "cuda": None})
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    missing = lines[next(i for i, line in enumerate(lines) if line.startswith("missing")) :]
    assert "CONVKERN_CUDA=1 pip install" in missing[0]
    assert any(
        "matplotlib, for bench --report and compare: pip install 'convkern[report]'" in m
        for m in missing
    )
