"""What the README shows works as written."""

import re
from pathlib import Path

import pytest
import torch

import convkern

README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.skipif(
    not README.exists(), reason="needs the source tree, not an installed package"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_ten_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[0], {})
    out = capsys.readouterr().out
    assert out.startswith("(19, 19)\n")
    assert "kernel     fwd.direct_batchlane.any.f32." in out


def test_a_model_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[1], {})
    assert capsys.readouterr().out.strip() in blocks("python")[1]


def test_the_onnx_export_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    (example,) = [block for block in blocks("python") if "onnx" in block]
    monkeypatch.chdir(tmp_path)
    model, images = convkern.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8)
    exec(example, {"torch": torch, "convkern": convkern, "model": model, "images": images})
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_training_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, float] = {}
    exec(blocks("python")[-1], names)
    assert 0.55 <= names["loss"] <= 0.62
    assert names["accuracy"] > 0.77


def test_the_explanation_is_the_one_printed() -> None:
    command, _, output = blocks("console")[0].partition("\n")
    problem = command.split('"')[1]
    with convkern.use_isa("avx2"):
        printed = str(convkern.explain(problem)).splitlines()
    shown = output.rstrip().splitlines()
    # The kernel and its workspace depend on the processor, the rest does not.
    fixed = [line for line in shown if line.startswith(("problem", "FLOPs", "bytes"))]
    assert len(fixed) == 3
    assert set(fixed) <= set(printed)
