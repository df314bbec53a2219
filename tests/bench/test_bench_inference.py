"""Whole models against other libraries: what is measured, written and read. No test checks a
time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convkern.bench import (
    InferenceRow,
    InferenceTimes,
    Sample,
    check_inference,
    inference_table,
    time_inference,
)
from convkern.bench.nets import NETS
from convkern.cli import main
from convkern.optimize import optimize


def sample(milliseconds: float) -> Sample:
    seconds = milliseconds * 1e-3
    return Sample(seconds, 0.9 * seconds, 1.1 * seconds, 9)


def row(batch: int, **times: float) -> InferenceRow:
    return InferenceRow("resnet18", batch, {name: sample(t) for name, t in times.items()})


def test_models_are_timed_for_each_batch(tmp_path: Path) -> None:
    done: list[str] = []
    times = time_inference(
        ["detector"], [1, 2], ["torch", "onnxruntime"], 0.01, 64, medium=True, report=done.append
    )
    assert done == ["detector"]
    assert [(r.model, r.batch) for r in times.rows] == [("detector", 1), ("detector", 2)]
    expected = {"convkern", "medium", "torch", "onnxruntime"}
    assert all(r.samples.keys() == expected for r in times.rows)
    path = tmp_path / "inference.json"
    times.write(path)
    assert InferenceTimes.read(path) == times


def test_the_table_compares_with_the_fastest_peer() -> None:
    rows = [
        row(1, convkern=4, medium=2, torch=8, onnxruntime=6),
        row(8, convkern=10, medium=5, torch=60, openvino=24),
    ]
    assert rows[0].ratio() == pytest.approx(1.5)
    assert row(1, convkern=4).ratio() is None
    table = [list(cells) for cells in inference_table(rows).rows]
    assert table[0] == [
        "resnet18", "1", "4.00 ±10%", "2.00 ±10%", "8.00 ±10%", "6.00 ±10%", "", "1.50x", "3.00x"
    ]  # fmt: skip
    assert table[1][6:] == ["24.00 ±10%", "2.40x", "4.80x"]
    assert table[2] == ["geometric mean", *[""] * 6, "1.90x", "3.79x"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "inference.json"
    arguments = ["bench", "inference", "detector", "--batches", "1", "--seconds", "0.01"]
    assert main([*arguments, "--out", str(path)]) == 0
    assert "best peer / convkern" in capsys.readouterr().out
    assert InferenceTimes.read(path).rows[0].samples.keys() == {"convkern", "torch"}
    pytest.importorskip("matplotlib")
    assert main(["bench", "report", str(tmp_path / "report"), str(path)]) == 0
    assert (tmp_path / "report" / "inference-convkern.png").exists()


CLASSIFICATION = "models must be among torchvision's models for classification or unet or detector"
WRONG: list[tuple[list[str], list[int], list[str], str]] = [
    (["detector", "resnet0"], [1], ["torch"], f"{CLASSIFICATION}, got 'resnet0'"),
    (["resnet18", "fcn_resnet50"], [1], [], f"{CLASSIFICATION}, got 'fcn_resnet50'"),
    ([], [1], ["torch"], "models must be one name or several, got none"),
    (["detector"], [], ["torch"], "batches must be one number or several, got none"),
    (["detector"], [8, 0], ["torch"], "batches must be at least 1, got 0"),
    (["detector"], [1], ["torch", "tvm"],
     "peers must be among torch, inductor, onnxruntime, openvino, got 'tvm'"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "batches", "peers", "message"), WRONG)
def test_what_cannot_be_timed_is_said_before_anything_is(
    names: list[str], batches: list[int], peers: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("convkern.bench.inference.time_in_turn", lambda *_: pytest.fail("timed"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        time_inference(names, batches, peers)
    if 0 in batches:  # the parser refuses it
        return
    numbers = ",".join(map(str, batches))
    out = tmp_path / "new" / "out.json"
    options = ["--batches", numbers, "--peers", ",".join(peers), "--out", str(out)]
    assert main(["bench", "inference", ",".join(names), *options]) == 2
    assert capsys.readouterr().err == f"convkern: {message}\n"
    assert not out.parent.exists()


@pytest.mark.parametrize("batches", ["0", "one", "8,-1"])
def test_the_command_needs_whole_numbers_of_images(
    batches: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "inference", "detector", f"--batches={batches}"])
    assert "argument --batches: " in (error := capsys.readouterr().err)
    assert "is not a whole number of at least 1" in error


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("inference", "models"):
        monkeypatch.setattr(f"convkern.bench.{module}.find_spec", lambda name: None)
    check_inference(["detector"], [1], ["torch"])
    with pytest.raises(ValueError, match="peer openvino needs onnx and openvino: pip install"):
        check_inference(["detector"], [1], ["openvino"])
    with pytest.raises(ValueError, match="model resnet18 is torchvision's: pip install"):
        check_inference(["resnet18"], [1], ["torch"])


def test_torchvision_is_imported_only_for_its_models() -> None:
    code = (
        "import sys; from convkern.bench import INFERENCE_MODELS, check_inference; "
        "check_inference(['detector', 'unet'], [1], ['torch', 'inductor']); "
        "assert 'torchvision' not in sys.modules; check_inference(INFERENCE_MODELS, [1], [])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str) -> None:
    model = NETS[name]().eval()
    x = torch.randn(2, 3, 64, 64)
    fast = optimize(model, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)
    assert fast.plans[0].parts == 2
