"""Checkpoints that are damaged, do not fit, or are written by two processes at the same time."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convkern import cli
from convkern.fashion_mnist import (
    Checkpoint,
    Processes,
    Training,
    TrainResult,
    build_convnet,
    make_loaders,
    sources,
    train_model,
)
from convkern.fashion_mnist.files import SHA256
from fashion_mnist_files import (
    checkpoint_parts,
    data_dir_fixture,  # noqa: F401
    write_checkpoint,
)
from study_cases import small_data

SETTINGS = {"model": "stride", "conv": "convkern", "batch_size": 20, "seed": 0}


def new_training(seed: int = 0) -> Training:
    model, optimizer, _ = build_convnet("stride", seed=seed)
    return Training(model, optimizer, make_loaders(small_data(), 20, seed=seed)[0], Processes())


def state_of(training: Training) -> list[bytes]:
    """Returns everything that `Checkpoint.read` changes."""
    tensors = [
        *training.model.state_dict().values(),
        *(v for s in training.optimizer.state_dict()["state"].values() for v in s.values()),
        training.loader.generator.get_state(),
        torch.get_rng_state(),
    ]
    return [tensor.numpy().tobytes() for tensor in tensors]


@pytest.fixture(name="checkpoint", scope="module")
def checkpoint_fixture(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Returns a checkpoint after two epochs."""
    training = new_training()
    checkpoint = Checkpoint(tmp_path_factory.mktemp("checkpoint"), SETTINGS)
    cost = torch.nn.CrossEntropyLoss()
    result = train_model(
        training.model, training.optimizer, cost, training.loader, 2, progress=False
    )
    checkpoint.write(training, result)
    return checkpoint


@pytest.fixture(name="damaged")
def damaged_fixture(checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """Returns a copy of the checkpoint, which tests damage."""
    copied = Checkpoint(tmp_path, SETTINGS)
    copied.path.write_bytes(checkpoint.path.read_bytes())
    return copied


def refusal(checkpoint: Checkpoint) -> str:
    """Returns the one line that refuses it. The training must stay as it was."""
    training = new_training(seed=1)
    before = state_of(training)
    with pytest.raises(ValueError, match=str(checkpoint.path)) as error:
        checkpoint.read(training)
    assert state_of(training) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_whole_checkpoint_is_read(checkpoint: Checkpoint) -> None:
    training = new_training(seed=1)
    result = checkpoint.read(training)
    assert len(result.epoch_losses) == 2
    parts = checkpoint_parts(checkpoint.path)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, parts["model"][name])
    for number, state in training.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(value, parts["optimizer"]["state"][number][name])
    assert torch.equal(training.loader.generator.get_state(), parts["order"])


def test_every_flipped_bit_is_found(damaged: Checkpoint) -> None:
    """Flips all bits of the heading and the checksum, and some throughout the rest."""
    whole = damaged.path.read_bytes()
    draw = random.Random(0)
    heading = len(whole) - len(whole[whole.index(b"PK") :])
    bits = [*range(8 * heading), *(draw.randrange(8 * len(whole)) for _ in range(200))]
    bits += [8 * len(whole) - 1]
    training = new_training()
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
            damaged.read(training)
    damaged.path.write_bytes(whole)
    damaged.read(training)


def test_every_torn_length_is_found(damaged: Checkpoint) -> None:
    whole = damaged.path.read_bytes()
    for length in (*range(0, 120, 7), len(whole) // 2, len(whole) - 1):
        damaged.path.write_bytes(whole[:length])
        assert "checkpoint.pt is damaged" in refusal(damaged)
    damaged.path.write_bytes(whole + b"\0")
    assert "checkpoint.pt is damaged" in refusal(damaged)


Edit = Callable[[dict[str, Any]], object]


def put(*path_and_value: Any) -> Edit:
    """Returns an edit that sets the value at the path of keys."""
    *path, last, value = path_and_value

    def edit(parts: dict[str, Any]) -> None:
        at: Any = parts
        for key in path:
            at = at[key]
        at[last] = value(at[last]) if callable(value) else value

    return edit


def drop(*path: Any) -> Edit:
    def edit(parts: dict[str, Any]) -> None:
        at: Any = parts
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return edit


def of_other_model(parts: dict[str, Any]) -> None:
    model, _, _ = build_convnet("padding3", seed=0)
    parts["model"] = model.state_dict()


STATE = ("optimizer", "state", 0)
WRONG: dict[str, tuple[str, Edit]] = {
    "no model": ("random_states, result", drop("model")),
    "another part": ("parts", put("epoch", -1)),
    "settings are a number": ("'settings'", put("settings", 3)),
    "settings are of tensors": ("with seed", put("settings", "seed", torch.ones(2))),
    "no seed": ("with seed None", drop("settings", "seed")),
    "True is no seed": ("with seed", put("settings", "seed", False)),
    "result is a list": ("'result'", put("result", [])),
    "result lacks times": ("'result'", drop("result", "epoch_seconds")),
    "result has an epoch": ("'result'", put("result", "epoch", -1)),
    "no epochs": ("0 of epochs", put("result", "epoch_losses", [])),
    "too few times": ("1 times", put("result", "epoch_seconds", [1.0])),
    "too few steps": ("2 losses of steps", put("result", "step_losses", [1.0, 2.0])),
    "losses are text": ("epoch_losses", put("result", "epoch_losses", ["a", "b"])),
    "losses are a tensor": ("epoch_losses", put("result", "epoch_losses", torch.ones(2))),
    "loss is NaN": ("epoch_losses", put("result", "epoch_losses", [1.0, float("nan")])),
    "model is a list": ("'model'", put("model", [])),
    "model lacks a bias": ("'model'", drop("model", "0.bias")),
    "model of other shapes": ("'model'", of_other_model),
    "weight of another shape": ("0.weight", put("model", "0.weight", torch.ones(14, 14))),
    "weight of another dtype": ("0.weight", put("model", "0.weight", lambda w: w.double())),
    "weight is a number": ("0.weight", put("model", "0.weight", 1.0)),
    "weight is NaN": ("0.weight", put("model", "0.weight", lambda w: w * float("nan"))),
    "weight is sparse": ("'model'", put("model", "0.weight", lambda w: w.to_sparse())),
    "optimizer is None": ("'optimizer'", put("optimizer", None)),
    "optimizer lacks its state": ("'optimizer'", drop("optimizer", "state")),
    "no state": ("'optimizer'", put("optimizer", "state", {})),
    "state of a strange parameter": ("'optimizer'", put("optimizer", "state", 99, {})),
    "state lacks a mean": ("exp_avg", drop(*STATE, "exp_avg")),
    "mean of another shape": ("exp_avg of", put(*STATE, "exp_avg", torch.ones(3))),
    "mean is text": ("exp_avg of", put(*STATE, "exp_avg", "mean")),
    "negative square": ("weights", put(*STATE, "exp_avg_sq", lambda v: v * 0 - 1)),
    "negative step": ("step of parameter 0 is -5", put(*STATE, "step", torch.tensor(-5.0))),
    "step is a number": ("step of parameter 0", put(*STATE, "step", 6)),
    "no groups": ("'optimizer'", put("optimizer", "param_groups", [])),
    "group lacks lr": ("'optimizer'", drop("optimizer", "param_groups", 0, "lr")),
    "negative lr": ("lr is -1.0", put("optimizer", "param_groups", 0, "lr", -1.0)),
    "lr is text": ("lr is 'fast'", put("optimizer", "param_groups", 0, "lr", "fast")),
    "order is text": ("'order'", put("order", "random")),
    "order is short": ("'order'", put("order", lambda order: order[:10])),
    "order is of zeros": ("'order'", put("order", lambda order: order * 0)),
    "no random state": ("'random_states'", put("random_states", [])),
    "random state is a number": ("'random_states'", put("random_states", 0, 1)),
    "random states are None": ("'random_states'", put("random_states", None)),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_does_not_fit_is_named(kind: str, damaged: Checkpoint) -> None:
    words, edit = WRONG[kind]
    parts = copy.deepcopy(checkpoint_parts(damaged.path))
    edit(parts)
    write_checkpoint(damaged.path, parts)
    assert words in refusal(damaged)


@pytest.mark.parametrize("parts", [None, [], {}, {"model": {}}, torch.ones(3)])
def test_other_files_of_torch_are_refused(parts: object, damaged: Checkpoint) -> None:
    write_checkpoint(damaged.path, parts)
    assert "is not a checkpoint of `convkern train`" in refusal(damaged)


def test_every_process_s_random_state_is_looked_at(damaged: Checkpoint) -> None:
    parts = checkpoint_parts(damaged.path)
    parts["random_states"].append(torch.zeros(3))
    write_checkpoint(damaged.path, parts)
    assert "'random_states'" in refusal(damaged)


# --- the command ---------------------------------------------------------------------------


def command(data_dir: Path, name: str, *options: str) -> "subprocess.Popen[str]":
    hashes = data_dir.parent / "hashes.json"
    if not hashes.exists():
        hashes.write_text(json.dumps(SHA256))
    program = [str(Path(__file__).with_name("train_process.py")), str(hashes), "-1", "0"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, *program, name, "--data", str(data_dir), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip


def wait_for(process: "subprocess.Popen[str]", start: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return
    pytest.fail(f"it never said {start}")


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("train", ("--checkpoint", "{}", "--epochs", "100000", "--model", "stride"), "epoch 2/"),
        ("compare", ("--out", "{}", "--seeds", "1000", "--timing-epochs", "0"), "plain, seed 0: "),
    ],
)
def test_a_second_training_in_a_folder_is_refused(
    name: str, options: tuple[str, ...], line: str, data_dir: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first training continues, and after it is killed the folder is free."""
    if name == "compare":
        pytest.importorskip("matplotlib")
    folder = tmp_path / "folder"
    given = [option.format(folder) for option in options]
    with command(data_dir, name, *given) as first:
        wait_for(first, line)
        fixed = [name, "--data", str(data_dir), *given, "--resume"]
        assert cli.main(fixed) == 2
        error = capsys.readouterr().err
        sentence = "is in use by another training: wait for its end, or choose another folder"
        assert error == f"convkern: {folder} {sentence}\n"
        assert first.poll() is None
        first.kill()
    if name == "train":
        path = folder / "checkpoint.pt"
        epochs = len(checkpoint_parts(path)["result"]["epoch_losses"])
        last = ["--epochs", str(epochs), "--resume"]
        assert cli.main(["train", "--data", str(data_dir), *given, *last]) == 0
        assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.pt"]


def test_a_run_of_a_study_is_not_trained_by_another(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "plain-seed0"
    options = ("--checkpoint", str(folder), "--epochs", "100000", "--model", "plain")
    with command(data_dir, "train", *options) as first:
        wait_for(first, "epoch 1/")
        fixed = ["--models", "plain", "--seeds", "1", "--resume"]
        assert cli.main(["compare", "--data", str(data_dir), "--out", str(tmp_path), *fixed]) == 2
        assert f"{folder} is in use by another training" in capsys.readouterr().err
        first.kill()


def test_ctrl_c_says_how_to_go_on(data_dir: Path, tmp_path: Path) -> None:
    """Ctrl-C comes at moments spread over the steps and the writing of checkpoints."""
    folder = tmp_path / "a folder"
    draw, epochs = random.Random(0), 0
    for attempt in range(3):
        options = ("--checkpoint", str(folder), "--model", "stride", "--epochs", "100000")
        resume = ("--resume",) if attempt else ()
        with command(data_dir, "train", *options, *resume) as process:
            wait_for(process, f"epoch {epochs + 2}/")  # the next one has been saved by then
            time.sleep(draw.random() / 5)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        assert process.returncode == 130, error
        assert error == (
            f"convkern: interrupted; the last finished epoch is in {folder / 'checkpoint.pt'}. "
            f"To go on: python -m convkern train --data {data_dir} --checkpoint '{folder}' "
            "--model stride --epochs 100000 --resume\n"
        )
        assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
        settings = {"model": "stride", "conv": "convkern", "batch_size": 512, "seed": 0}
        model, optimizer, _ = build_convnet("stride", seed=0)
        found = sources.read_fashion_mnist(data_dir)
        training = Training(model, optimizer, make_loaders(found, seed=0)[0], Processes())
        seen: TrainResult = Checkpoint(folder, settings).read(training)
        assert len(seen.epoch_losses) > epochs
        epochs = len(seen.epoch_losses)


def test_ctrl_c_without_a_checkpoint(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.train, "train_model", interrupt)
    assert cli.main(["train", "--data", str(data_dir)]) == 130
    assert capsys.readouterr().err == (
        "convkern: interrupted; nothing was saved, as --checkpoint DIR would have done\n"
    )
    monkeypatch.setattr(cli.bench, "run_suite", interrupt)
    assert cli.main(["bench"]) == 130
    assert capsys.readouterr().err == "convkern: interrupted\n"


def test_a_pipe_in_the_place_of_the_checkpoint(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "checkpoint.pt")
    options = ("--checkpoint", str(tmp_path), "--resume")
    assert cli.main(["train", "--data", str(data_dir), *options]) == 2
    assert capsys.readouterr().err == f"convkern: {tmp_path / 'checkpoint.pt'} is not a file\n"


def test_fewer_epochs_than_the_checkpoint_has(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--data", str(data_dir), "--model", "stride", "--checkpoint", str(tmp_path))
    assert cli.main(["train", *options, "--epochs", "2"]) == 0
    assert cli.main(["train", *options, "--epochs", "1", "--resume"]) == 2
    file = tmp_path / "checkpoint.pt"
    error = capsys.readouterr().err
    assert error.endswith(f"convkern: {file} is of 2 epochs, more than --epochs 1\n")
