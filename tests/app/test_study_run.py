"""The `compare` command: what it trains, writes and prints, interrupted or not."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import study_cases
from convkern import _files as files
from convkern import cli
from convkern._show.progress import Progress
from convkern.fashion_mnist.files import SHA256
from convkern.fashion_mnist.study import Plan, Study, run, run_study, time_epochs
from convkern.fashion_mnist.study.progress import TrainingBar, timing_bar
from fashion_mnist_files import (
    checkpoint_parts,
    data_dir_fixture,  # noqa: F401
    interrupted_in_step,
)
from study_cases import small_data

STEPS = 3  # in an epoch: 60 samples in batches of 20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run, "BATCH", 20)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


compare = partial(study_cases.compare, "plain,stride")


def results(out: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Returns the runs without their times, and the trained parameters."""
    runs = json.loads((out / "study.json").read_text())["runs"]
    for each in runs:
        del each["epoch_seconds"]
    weights = {}
    for path in sorted(out.glob("*/checkpoint.pt")):
        for name, weight in checkpoint_parts(path)["model"].items():
            weights[f"{path.parent.name}.{name}"] = weight
    return runs, weights


def assert_same(actual: Path, expected: Path) -> None:
    """Compares to the last bit."""
    runs, weights = results(actual)
    expected_runs, expected_weights = results(expected)
    assert runs == expected_runs
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected_weights[name]), name


@pytest.mark.parametrize("step", [1, STEPS + 2, 2 * STEPS + 5, 6 * STEPS])
def test_an_interrupted_study_goes_on_to_the_same_end(
    step: int, data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", "2")
    assert compare(data_dir, tmp_path / "whole", *options) == 0
    capsys.readouterr()
    with interrupted_in_step(run, step):
        assert compare(data_dir, tmp_path / "parts", *options) == 130
    error = capsys.readouterr().err
    assert error.startswith("convkern: interrupted; ")
    assert error.endswith(" --resume\n")
    assert error.count("\n") == 1
    torch.rand(3)
    assert compare(data_dir, tmp_path / "parts", *options, "--resume") == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_ctrl_c_ends_a_process_with_130(data_dir: Path, tmp_path: Path) -> None:
    hashes = tmp_path / "hashes.json"
    hashes.write_text(json.dumps(SHA256))
    program = [str(Path(__file__).with_name("train_process.py")), str(hashes), "-1", "0"]
    options = ["--out", str(tmp_path / "out"), "--data", str(data_dir), "--timing-epochs", "0"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, *program, "compare", *options, "--seeds", "1000", "--epochs", "50"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("plain, seed 0: "):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.startswith("convkern: interrupted; "), error
    assert error.rstrip().endswith("--resume"), error
    assert error.count("\n") == 1
    assert (tmp_path / "out" / "plain-seed0" / "checkpoint.pt").exists()


def test_more_epochs_and_seeds_go_on_from_a_finished_study(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(data_dir, tmp_path / "whole", "--epochs", "3") == 0
    assert compare(data_dir, tmp_path / "parts", "--epochs", "1", "--seeds", "1") == 0
    capsys.readouterr()
    assert compare(data_dir, tmp_path / "parts", "--epochs", "3", "--resume") == 0
    out = capsys.readouterr().out
    assert out.count("goes on after epoch 1") == 2
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert compare(data_dir, tmp_path / "parts", "--epochs", "2", "--resume") == 2
    assert "has 3 epochs, more than 2" in capsys.readouterr().err


def test_a_run_is_that_of_the_train_command(data_dir: Path, tmp_path: Path, undrawn: None) -> None:
    assert compare(data_dir, tmp_path / "study", "--epochs", "2") == 0
    options = ["--data", str(data_dir), "--out", str(tmp_path), "--batch-size", "20"]
    assert cli.main(["train", *options, "--model", "stride", "--seed", "1", "--epochs", "2"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    of_study = Study.read(tmp_path / "study" / "study.json").of("stride")[1]
    for name in ("step_losses", "epoch_losses", "test_loss", "accuracy"):
        assert getattr(of_study, name) == metrics[name], name


def test_what_it_prints(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(data_dir, tmp_path, "--epochs", "1", "--models", "padding2,plain") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data: {data_dir}"
    assert [line.partition(":")[0] for line in lines[1:5]] == [
        f"{model}, seed {seed}" for model in ("padding2", "plain") for seed in (0, 1)
    ]
    assert any(line.startswith("model ") for line in lines)
    assert lines[-2].startswith("Padding helps: ")
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"


def test_quiet_prints_verdicts_and_the_path_alone(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", "1", "--models", "padding2,plain", "--quiet")
    assert compare(data_dir, tmp_path, *options) == 0
    captured = capsys.readouterr()
    starts = [line.partition(":")[0] for line in captured.out.splitlines()]
    assert starts[-2:] == ["Padding helps", "report"]
    assert len(starts) == 3
    assert captured.err == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--models", "plain,deep"), "models must be among plain,padding2,padding3,stride"),
        (("--models", ","), "give at least one model"),
        (("--models", "plain,plain"), "each model once, not plain,plain"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...], sentence: str, data_dir: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert compare(data_dir, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"convkern: {sentence}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_torchrun_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert compare(data_dir, tmp_path) == 2
    assert "start it without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--seeds", "0"), ("--epochs", "-1"), ("--epochs", "x")])
def test_numbers_out_of_range_are_refused(
    options: tuple[str, ...], data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare(data_dir, tmp_path, *options)


def test_an_earlier_study_is_not_overwritten(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(data_dir, tmp_path, "--epochs", "1") == 0
    assert compare(data_dir, tmp_path, "--epochs", "1") == 2
    assert "checkpoint.pt exists: add --resume to go on from it" in capsys.readouterr().err


def missing(name: str) -> Callable[[str], object]:
    return lambda wanted: None if wanted == name else object()


@pytest.mark.parametrize(
    ("package", "options", "remedy"),
    [
        ("matplotlib", (), "pip install 'convkern[report]'"),
        ("jinja2", (), "pip install 'convkern[report]'"),
        ("tensorboard", ("--tensorboard", "events"), "pip install 'convkern[tensorboard]'"),
    ],
)
def test_what_is_not_installed_is_told_before_training(
    package: str, options: tuple[str, ...], remedy: str, data_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli.compare, "find_spec", missing(package))
    assert compare(data_dir, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert package in error
    assert remedy in error
    assert not (tmp_path / "out").exists()


def test_epochs_are_timed_in_turn() -> None:
    told: list[str] = []
    times = time_epochs(small_data(), ["plain", "stride"], 2, told.append)
    assert {m: {c: len(s) for c, s in by_conv.items()} for m, by_conv in times.items()} == {
        model: {"convkern": 2, "torch": 2} for model in ("plain", "stride")
    }
    assert all(s > 0 for by_conv in times.values() for seconds in by_conv.values() for s in seconds)
    assert told == [
        f"{model} with {conv}"
        for first, second in (("torch", "convkern"), ("convkern", "torch"))
        for model in ("plain", "stride")
        for conv in (first, second)
    ]


def test_times_of_a_finished_study_are_kept(
    data_dir: Path, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--epochs", "1", "--timing-epochs", "1")
    assert compare(data_dir, tmp_path, *options) == 0
    before = Study.read(tmp_path / "study.json").times
    assert set(before) == {"plain", "stride"}
    with monkeypatch.context() as patch:
        patch.setattr(cli.compare, "time_epochs", None)
        assert compare(data_dir, tmp_path, *options, "--resume") == 0
    assert Study.read(tmp_path / "study.json").times == before
    assert compare(data_dir, tmp_path, *options, "--resume", "--timing-epochs", "2") == 0
    after = Study.read(tmp_path / "study.json").times
    assert {len(seconds) for by_conv in after.values() for seconds in by_conv.values()} == {2}


def test_a_torn_study_is_made_anew(
    data_dir: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", "1", "--timing-epochs", "1")
    assert compare(data_dir, tmp_path, *options) == 0
    file = tmp_path / "study.json"
    whole = file.read_bytes()
    expected, _ = results(tmp_path)
    torn = [whole[:length] for length in (0, 1, len(whole) // 2, len(whole) - 3)]
    wrong = json.loads(whole) | {"times": {"plain": [1.0]}}
    for content in (*torn, b"\xff" + whole, b"[" * 100_000, json.dumps(wrong).encode()):
        file.write_bytes(content)
        capsys.readouterr()
        assert compare(data_dir, tmp_path, *options, "--resume") == 0
        captured = capsys.readouterr()
        sentence = f"{file} is damaged: it is made anew, and epochs are timed again"
        assert sentence in captured.out.splitlines()
        assert captured.err == ""
        assert results(tmp_path)[0] == expected
        assert set(Study.read(file).times) == {"plain", "stride"}


@pytest.mark.parametrize("option", ["--out", "--tensorboard"])
def test_a_folder_that_cannot_be_written_is_told_before_training(
    option: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli.compare, "run_study", lambda *_: pytest.fail("trained"))
    assert compare(data_dir, tmp_path / "out", option, "/proc/convkern") == 2
    error = capsys.readouterr().err
    assert error == "convkern: [Errno 2] No such file or directory: '/proc/convkern'\n"


def test_a_full_disk_loses_nothing(
    data_dir: Path, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The disk is full at each of the files that the second half of a study writes."""
    assert compare(data_dir, tmp_path / "whole", "--epochs", "2") == 0
    assert compare(data_dir, tmp_path / "parts", "--epochs", "1") == 0
    for written in (0, 1, 1, 1, 1):  # then it fails
        before = {path: path.read_bytes() for path in (tmp_path / "parts").rglob("*.*")}
        left = written

        def sync(descriptor: int) -> None:
            nonlocal left
            left -= not stat.S_ISDIR(os.fstat(descriptor).st_mode)
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", sync)
            assert compare(data_dir, tmp_path / "parts", "--epochs", "2", "--resume") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"convkern: [Errno 28] No space left on device: '{tmp_path}/parts/")
        assert error.count("\n") == 1
        after = {path: path.read_bytes() for path in (tmp_path / "parts").rglob("*.*")}
        assert after.keys() == before.keys()
        assert sum(after[path] != content for path, content in before.items()) <= written
    assert compare(data_dir, tmp_path / "parts", "--epochs", "2", "--resume") == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_a_terminal_sees_rate_and_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(force_terminal=True, width=120, record=True, file=(tmp_path / "o").open("w"))
    monkeypatch.setattr("convkern._show.progress._terminal", lambda: console)
    plan = Plan(["plain"], [0], 2, tmp_path)
    with Progress() as progress:
        run_study(small_data(), plan, [TrainingBar(progress, plan, 60)])
        report = timing_bar(progress, 2)
        report("plain with torch")
    text = (tmp_path / "o").read_text()
    assert "plain, seed 0, epoch 2/2" in text
    assert "images/s" in text
    assert "100%" in text
    assert "timed plain with torch" in text
    assert "epochs/s" in text


def test_event_files_hold_every_epoch_once(data_dir: Path, tmp_path: Path, undrawn: None) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard's files need tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ("--epochs", "3", "--tensorboard", str(tmp_path / "events"))
    with interrupted_in_step(run, 2 * STEPS + 1):
        assert compare(data_dir, tmp_path / "out", *options) == 130
    assert compare(data_dir, tmp_path / "out", *options, "--resume") == 0
    first = Study.read(tmp_path / "out" / "study.json").runs[0]
    events = EventAccumulator(str(tmp_path / "events" / "plain-seed0")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss/train")]
    assert losses == [(n, pytest.approx(v)) for n, v in enumerate(first.epoch_losses, 1)]
    assert [event.step for event in events.Scalars("accuracy/test")] == [3]
