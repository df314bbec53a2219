"""Checkpoints of the `train` command, in one process and in those that torchrun starts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convkern import _files as files
from convkern import cli
from convkern.fashion_mnist import checkpoint
from convkern.fashion_mnist.files import SHA256
from fashion_mnist_files import (
    data_dir_fixture,  # noqa: F401
    interrupted_in_step,
)

STEPS = 3  # in an epoch: 60 samples in batches of 20
SECONDS = 240  # for a torchrun, which takes about 10 on an idle machine


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Uses one thread, as torchrun's processes do. It is enough for these images."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(data_dir: Path, out: Path, *options: str) -> int:
    fixed = ["train", "--data", str(data_dir), "--out", str(out), "--batch-size", "20"]
    return cli.main([*fixed, "--model", "stride", *options])


def results(out: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns what the training wrote, without times and its own arguments, and the model."""
    metrics = json.loads((out / "metrics.json").read_text())
    kept = ("step_losses", "epoch_losses", "test_loss", "accuracy")
    return {name: metrics[name] for name in kept}, torch.load(out / "model.pt", weights_only=True)


def assert_same(actual: Path, expected: Path) -> None:
    """Compares to the last bit."""
    metrics, model = results(actual)
    expected_metrics, expected_model = results(expected)
    assert metrics == expected_metrics
    assert len(set(metrics["epoch_losses"])) == len(metrics["epoch_losses"])
    assert model.keys() == expected_model.keys()
    for name, parameter in model.items():
        assert torch.equal(parameter, expected_model[name]), name


def assert_close(actual: Path, expected: Path) -> None:
    """Compares within the rounding of sums in another order."""
    metrics, model = results(actual)
    expected_metrics, expected_model = results(expected)
    for name, value in metrics.items():
        assert value == pytest.approx(expected_metrics[name], rel=1e-4), name
    for name, parameter in model.items():
        torch.testing.assert_close(parameter, expected_model[name], rtol=1e-3, atol=1e-4)


# --- one process ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "workers"), [(1, "0"), (STEPS + 2, "0"), (STEPS + 2, "1"), (2 * STEPS + 1, "0")]
)
def test_resumed_training_is_that_without_interruption(
    data_dir: Path, tmp_path: Path, step: int, workers: str
) -> None:
    options = ("--epochs", "3", "--workers", workers)
    assert train(data_dir, tmp_path / "whole", *options) == 0
    options = (*options, "--checkpoint", str(tmp_path / "checkpoint"), "--resume")
    with interrupted_in_step(cli.train, step):
        assert train(data_dir, tmp_path / "parts", *options) == 130
    assert not (tmp_path / "parts" / "metrics.json").exists()
    torch.rand(3)
    assert train(data_dir, tmp_path / "parts", *options) == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_more_epochs_go_on_from_a_finished_training(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data_dir, tmp_path / "whole", "--epochs", "3") == 0
    options = ("--checkpoint", str(tmp_path), "--resume")
    assert train(data_dir, tmp_path / "parts", "--epochs", "1", *options) == 0
    capsys.readouterr()
    assert train(data_dir, tmp_path / "parts", "--epochs", "3", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"resumed after epoch 1: {tmp_path / 'checkpoint.pt'}"
    assert [line.partition(":")[0] for line in lines[2:4]] == ["epoch 2/3", "epoch 3/3"]
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert train(data_dir, tmp_path / "again", "--epochs", "3", *options) == 0
    assert_same(tmp_path / "again", tmp_path / "whole")


def test_checkpoints_do_not_change_the_training(data_dir: Path, tmp_path: Path) -> None:
    assert train(data_dir, tmp_path / "without", "--epochs", "2") == 0
    folder = tmp_path / "new" / "folder"
    assert train(data_dir, tmp_path / "with", "--epochs", "2", "--checkpoint", str(folder)) == 0
    assert_same(tmp_path / "with", tmp_path / "without")
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    arguments = json.loads((tmp_path / "with" / "metrics.json").read_text())["arguments"]
    assert arguments["checkpoint"] == str(folder)
    assert "resume" not in arguments


@pytest.mark.parametrize("moment", ["half", "unsynced"])
def test_interrupted_writing_leaves_the_checkpoint_before(
    data_dir: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--epochs", "3", "--checkpoint", str(tmp_path), "--resume")
    assert train(data_dir, tmp_path / "whole", "--epochs", "3") == 0
    with interrupted_in_step(cli.train, STEPS + 1):
        assert train(data_dir, tmp_path / "parts", *options) == 130
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def half(state: object, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    def unsynced(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "half":
            patch.setattr(checkpoint.torch, "save", half)
        else:
            patch.setattr(files.os, "fsync", unsynced)
        assert train(data_dir, tmp_path / "parts", *options) == 130
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert train(data_dir, tmp_path / "parts", *options) == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def refusal(data_dir: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert train(data_dir, out, "--epochs", "2", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("convkern: ")
    assert error.count("\n") == 1
    return str(error)


def test_what_cannot_be_resumed_is_one_line(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*options: str) -> str:
        return refusal(data_dir, tmp_path / "out", capsys, *options)

    assert "--resume needs --checkpoint DIR" in refused("--resume")
    where = ("--checkpoint", str(tmp_path))
    path = tmp_path / "checkpoint.pt"
    assert train(data_dir, tmp_path / "out", "--epochs", "1", *where) == 0
    assert f"{path} exists: add --resume" in refused(*where)
    assert "with seed 0, not 1" in refused(*where, "--resume", "--seed", "1")
    assert "with conv 'convkern', not 'torch'" in refused(*where, "--resume", "--conv", "torch")
    other = refused(*where, "--resume", "--batch-size", "10", "--model", "plain")
    assert "with model 'stride', not 'plain'; batch_size 20, not 10" in other
    whole = path.read_bytes()
    for length in (0, 1, 30, 31, 96, 97, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert f"{path} is damaged" in refused(*where, "--resume"), length
    torch.save({"model": {}}, path)  # early checkpoints had no checksum
    assert "not a checkpoint of this version of `convkern train`" in refused(*where, "--resume")
    (tmp_path / "file").touch()
    assert "file" in refused("--checkpoint", str(tmp_path / "file"))


# --- several processes ---------------------------------------------------------------------


@pytest.fixture
def hashes(data_dir: Path, tmp_path: Path) -> Path:
    """Writes the hashes of the files in `data_dir` for `train_process`."""
    path = tmp_path / "hashes.json"
    path.write_text(json.dumps(SHA256))
    return path


def torchrun(
    count: int,
    data_dir: Path,
    hashes: Path,
    out: Path,
    *options: str,
    killed: str = "-1 0",
) -> subprocess.CompletedProcess[str]:
    program = [str(Path(__file__).with_name("train_process.py")), str(hashes), *killed.split()]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    fixed = ["train", "--data", str(data_dir), "--out", str(out), "--batch-size", "20"]
    command = [
        *start, "--nproc-per-node", str(count), *program, *fixed, "--model", "stride", *options
    ]  # fmt: skip
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out_text, err_text = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out_text, err_text)


def test_processes_train_as_one_and_survive_a_kill(
    data_dir: Path, hashes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process is killed in the second of three epochs. The resumed training has the same bits as
    an uninterrupted one."""
    options = ("--epochs", "3")
    done = torchrun(2, data_dir, hashes, tmp_path / "whole", *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == [
        "data", "epoch 1/3", "epoch 2/3", "epoch 3/3"
    ]  # fmt: skip
    assert len(lines) == 5
    assert lines[4].startswith("test loss ")

    assert train(data_dir, tmp_path / "alone", *options) == 0
    assert_close(tmp_path / "whole", tmp_path / "alone")

    options = (*options, "--checkpoint", str(tmp_path / "checkpoint"), "--resume")
    killed = f"1 {STEPS + 2}"
    failed = torchrun(2, data_dir, hashes, tmp_path / "parts", *options, killed=killed)
    assert failed.returncode != 0
    assert "Signal 9" in failed.stderr
    assert failed.stdout.count("epoch ") == 1
    assert not (tmp_path / "parts" / "metrics.json").exists()

    shutil.copytree(tmp_path / "checkpoint", tmp_path / "copy")
    fewer = ("--epochs", "3", "--checkpoint", str(tmp_path / "copy"), "--resume")
    assert train(data_dir, tmp_path / "fewer", *fewer) == 0  # resumes in one process
    assert_close(tmp_path / "fewer", tmp_path / "whole")

    resumed = torchrun(2, data_dir, hashes, tmp_path / "parts", *options)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[1].startswith("resumed after epoch 1: ")
    assert resumed.stdout.count("epoch ") == 3  # the line of the resumption, and two epochs
    assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("count", "killed", "epochs_before", "options"),
    [
        (2, "0 2", 0, ()),  # nothing is saved yet
        (2, f"0 {2 * STEPS + 3}", 2, ("--workers", "1")),
        (4, f"3 {STEPS + 1}", 1, ()),
    ],
)
def test_kill_of_any_process_at_any_time(
    count: int,
    killed: str,
    epochs_before: int,
    options: tuple[str, ...],
    data_dir: Path,
    hashes: Path,
    tmp_path: Path,
) -> None:
    options = ("--epochs", "3", *options)
    whole = torchrun(count, data_dir, hashes, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    options = (*options, "--checkpoint", str(tmp_path / "checkpoint"), "--resume")
    failed = torchrun(count, data_dir, hashes, tmp_path / "parts", *options, killed=killed)
    assert failed.returncode != 0
    assert (tmp_path / "checkpoint" / "checkpoint.pt").exists() == (epochs_before > 0)
    resumed = torchrun(count, data_dir, hashes, tmp_path / "parts", *options)
    assert resumed.returncode == 0, resumed.stderr
    assert (f"resumed after epoch {epochs_before}: " in resumed.stdout) == (epochs_before > 0)
    assert_close(tmp_path / "parts", tmp_path / "whole")
    if count == 2:  # the order of larger sums changes after DDP's first step
        assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.exhaustive
def test_errors_under_torchrun_are_told_once(data_dir: Path, hashes: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--data", str(tmp_path / "none")), "convkern: Fashion-MNIST is not in"),
        (("--batch-size", "1"), "convkern: --batch-size must be at least 2, the number of"),
    ):
        done = torchrun(2, data_dir, hashes, tmp_path / "out", *options)
        assert done.returncode != 0
        assert done.stdout == ""
        assert done.stderr.count(message) == 1
        assert "Traceback" not in done.stderr.partition("torch/distributed")[0]
