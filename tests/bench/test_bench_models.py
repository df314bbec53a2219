"""Whole models: what is measured, written and read, and the script that tabulates and draws it. No
test checks a time."""

from functools import partial
from pathlib import Path

import pytest

import models_chart
from convkern.bench import (
    LAYOUT_NAMES,
    ModelRow,
    ModelTimes,
    Sample,
    Suite,
    models_table,
    time_models,
)
from convkern.cli import main
from dots import LAYOUT_COLOURS
from svg import dots

SMALL = "shufflenet_v2_x0_5"
KEYS = [(layout, what) for layout in ("nchw", "nhwc") for what in ("inference", "training")]
# Milliseconds of torch and of convkern, in the order of KEYS.
TIMES = {
    "resnet18": [(185, 185), (532, 266), (60, 50), (4, 16)],
    "resnet50": [(1440.4, 360.1), (50, 100), (60, 50), (1, 1)],
}
TABLE = """\
| model | NCHW inference | NCHW training step | channels_last inference | channels_last training step |
|---|---|---|---|---|
| resnet18 | 185 / 185 ms = 1.00x | 532 / 266 ms = 2.00x | 60 / 50 ms = 1.20x | 4 / 16 ms = 0.25x |
| resnet50 | 1440 / 360 ms = 4.00x | 50 / 100 ms = 0.50x | 60 / 50 ms = 1.20x | 1 / 1 ms = 1.00x |
| geometric mean | 2.00x | 1.00x | 1.20x | 0.50x |
"""  # noqa: E501


def sample(milliseconds: float) -> Sample:
    seconds = milliseconds * 1e-3
    return Sample(seconds, 0.9 * seconds, 1.1 * seconds, 9)


def rows(keys: list[tuple[str, str]] = KEYS) -> list[ModelRow]:
    return [
        ModelRow(model, *key, {"torch": sample(torch_), "convkern": sample(convkern)})
        for model, of_key in TIMES.items()
        for key, (torch_, convkern) in zip(KEYS, of_key, strict=True)
        if key in keys
    ]


def test_models_are_timed_in_both_layouts(tmp_path: Path) -> None:
    done: list[str] = []
    times = time_models([SMALL], ["nchw", "nhwc"], 0.01, batch=2, size=32, report=done.append)
    assert done == [SMALL]
    assert [(row.model, row.layout, row.what) for row in times.rows] == [
        (SMALL, *key) for key in KEYS
    ]
    assert all(row.samples.keys() == {"torch", "convkern"} for row in times.rows)
    assert "threads" in times.machine
    path = tmp_path / "models.json"
    times.write(path)
    assert ModelTimes.read(path) == times


def test_the_table_ends_with_geometric_means() -> None:
    columns = [list(column) for column in zip(*models_table(rows()).rows, strict=True)]
    assert columns[0] == [*["resnet18"] * 4, *["resnet50"] * 4, *["geometric mean"] * 4]
    assert columns[3][:2] == ["185.0 ±10%", "532.0 ±10%"]
    assert columns[4][:2] == ["185.0 ±10%", "266.0 ±10%"]
    assert columns[5] == [
        "1.00x", "2.00x", "1.20x", "0.25x", "4.00x", "0.50x", "1.20x", "1.00x",
        "2.00x", "1.00x", "1.20x", "0.50x",
    ]  # fmt: skip


def test_results_of_the_suite_and_of_models_are_not_taken_for_each_other(tmp_path: Path) -> None:
    models, suite = tmp_path / "models.json", tmp_path / "suite.json"
    ModelTimes({}, "", rows()).write(models)
    with pytest.raises(ValueError, match=r"models\.json is not a result of the benchmark suite"):
        Suite.read(models)
    suite.write_text('{"machine": {}, "started": "", "rows": [{"problem": "", "samples": {}}]}')
    with pytest.raises(ValueError, match=r"suite\.json is not a result of bench models"):
        ModelTimes.read(suite)


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convkern.cli.bench.time_models", partial(time_models, batch=2, size=32))
    calls: list[None] = []  # keep_memory would change the memory of the tests after this one
    monkeypatch.setattr("convkern.cli.bench.keep_memory", lambda: calls.append(None))
    out = tmp_path / "models.json"
    arguments = ["models", SMALL, "--layout", "nhwc", "--seconds", "0", "--out", str(out)]
    assert main(["bench", *arguments]) == 0
    assert calls == [None]
    heading, inference, training, *means = capsys.readouterr().out.splitlines()
    assert heading.startswith("model")
    assert inference.split()[:3] == [SMALL, "nhwc", "inference"]
    assert training.split()[:3] == [SMALL, "nhwc", "training"]
    assert [line.startswith("geometric mean") for line in means] == [True, True]
    read = [(row.model, row.layout, row.what) for row in ModelTimes.read(out).rows]
    assert read == [(SMALL, "nhwc", "inference"), (SMALL, "nhwc", "training")]
    assert main(["bench", "models", "resnet0"]) == 2
    assert "resnet0" in capsys.readouterr().err


def test_the_script_prints_the_table_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models.json"
    ModelTimes({}, "", rows()).write(path)
    monkeypatch.setattr("sys.argv", ["models_chart.py", str(path)])
    models_chart.main()
    assert capsys.readouterr().out == TABLE
    head = "".join(TABLE.splitlines(keepends=True)[:2])
    assert head in Path(models_chart.__file__).with_name("README.md").read_text()


@pytest.mark.parametrize("layouts", [["nchw", "nhwc"], ["nhwc"]], ids=",".join)
def test_the_chart_has_a_dot_for_each_model_and_the_mean(
    layouts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    path, chart = tmp_path / "models.json", tmp_path / "models.svg"
    ModelTimes({}, "", rows([key for key in KEYS if key[0] in layouts])).write(path)
    monkeypatch.setattr("sys.argv", ["models_chart.py", str(path), "--chart", str(chart)])
    models_chart.main()
    text = chart.read_text()
    for name in (*TIMES, "geometric mean", "inference", "training step"):
        assert name in text
    # The dots of both panels and of the legend.
    colours = [LAYOUT_COLOURS[LAYOUT_NAMES[layout]] for layout in layouts]
    assert dots(chart) == dict.fromkeys(colours, 2 * (len(TIMES) + 1) + 1)
