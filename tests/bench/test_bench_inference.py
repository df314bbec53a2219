"""Whole models against other libraries: what is measured, written and read. No test checks a
time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convkern.bench import (
    INFERENCE_PEERS,
    InferenceRow,
    InferenceTimes,
    Sample,
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


def test_unknown_peers() -> None:
    with pytest.raises(ValueError, match="peers must be among torch, inductor, onnxruntime"):
        time_inference(["detector"], [1], ["tvm"])
    assert [*INFERENCE_PEERS] == ["torch", "inductor", "onnxruntime", "openvino"]


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str) -> None:
    model = NETS[name]().eval()
    x = torch.randn(2, 3, 64, 64)
    fast = optimize(model, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)
    assert fast.plans[0].parts == 2
