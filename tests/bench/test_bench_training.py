"""Training steps of whole models: what is measured, written and read. No test checks a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from convkern.bench import (
    Sample,
    TrainingRow,
    TrainingTimes,
    check_training,
    time_training,
    training_table,
)
from convkern.cli import main


def sample(milliseconds: float) -> Sample:
    seconds = milliseconds * 1e-3
    return Sample(seconds, 0.9 * seconds, 1.1 * seconds, 9)


def row(model: str, **times: float) -> TrainingRow:
    samples = {name: sample(t) for name, t in times.items()}
    return TrainingRow(model, 8, samples, {"torch": 300.2, "convkern": 200.0})


def test_steps_are_timed_and_saved_activations_counted(tmp_path: Path) -> None:
    done: list[str] = []
    times = time_training(
        ["mnasnet0_5"], ["torch"], 0.01, batch=2, size=32, medium=True, report=done.append
    )
    assert done == ["mnasnet0_5"]
    (timed,) = times.rows
    assert timed.samples.keys() == {"torch", "convkern", "recompute", "medium", "layers"}
    assert timed.saved["torch"] > timed.saved["convkern"] > timed.saved["recompute"] > 0
    path = tmp_path / "training.json"
    times.write(path)
    assert TrainingTimes.read(path) == times


def test_the_table_compares_with_the_faster_peer() -> None:
    rows = [row("a", torch=30, inductor=20, convkern=10), row("b", torch=45, convkern=10)]
    assert rows[0].ratio() == pytest.approx(2)
    assert row("a", convkern=10).ratio() is None
    table = [list(cells) for cells in training_table(rows).rows]
    assert table[0] == [
        "a", "30.0 ±10%", "20.0 ±10%", "10.0 ±10%", "2.00x", "300", "200"
    ]  # fmt: skip
    assert table[1] == ["b", "45.0 ±10%", "", "10.0 ±10%", "4.50x", "300", "200"]
    assert table[2] == ["geometric mean", "", "", "", "3.00x", "", ""]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "training.json"
    size = ["--size", "32", "--batch", "2", "--seconds", "0.01"]
    assert main(["bench", "training", "mnasnet0_5", *size, "--out", str(path)]) == 0
    assert "best peer / convkern" in capsys.readouterr().out
    assert TrainingTimes.read(path).rows[0].batch == 2


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="peers must be among torch, inductor, got 'onnx'"):
        check_training(["resnet18"], ["onnx"])
    with pytest.raises(ValueError, match="models must be among"):
        check_training(["resnet0"], [])
    with pytest.raises(ValueError, match="name must be one of"):
        TrainingRow("a", 8, {"convkern": sample(1), "other": sample(2)}, {})
    with pytest.raises(ValueError, match="samples must have times of convkern"):
        TrainingRow("a", 8, {"torch": sample(1)}, {})
