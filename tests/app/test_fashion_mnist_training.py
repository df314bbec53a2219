"""Training, testing and the `train` command, on synthetic data."""

import hashlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from convkern import cli, fashion_mnist
from convkern.fashion_mnist import build_convnet, training
from convkern.fashion_mnist.loaders import Loader
from fashion_mnist_files import bright_rows, data_dir_fixture  # noqa: F401


def loader(count: int, batch_size: int) -> Loader:
    images, labels = bright_rows(count)
    return DataLoader(TensorDataset(images.unsqueeze(1) / 255, labels.long()), batch_size)


class Constant(nn.Module):
    """Its logits are its one parameter, whatever the images."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.arange(10.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), 10)


def frozen(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.0)


# --- train_model ---------------------------------------------------------------------------


def test_training_lowers_the_loss_and_learns() -> None:
    model, optimizer, cost = build_convnet("stride", lr=0.02, seed=1)
    result = training.train_model(model, optimizer, cost, loader(200, 10), 4, progress=False)
    assert result.epoch_losses[-1] < 0.5 * result.epoch_losses[0]
    _, accuracy = training.test_model(model, cost, loader(100, 50))
    assert accuracy > 0.9


def test_losses_are_kept_by_step_then_by_epoch() -> None:
    seen: list[float] = []

    def cost(logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, labels)
        seen.append(loss.item())
        return loss

    model = Constant()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    result = training.train_model(model, optimizer, cost, loader(50, 20), 3, progress=False)
    epochs = [seen[:3], seen[3:6], seen[6:]]
    means = [(20 * first + 20 * second + 10 * third) / 50 for first, second, third in epochs]
    assert len(set(seen)) == 9
    assert result.step_losses == epochs[0]
    assert result.epoch_losses == pytest.approx(means)
    assert result.losses == pytest.approx([*epochs[0], *means[1:]])
    assert len(result.epoch_seconds) == 3
    assert min(result.epoch_seconds) > 0


def test_step_loss_is_that_before_the_step() -> None:
    model, cost = Constant(), nn.CrossEntropyLoss()
    images, labels = next(iter(loader(20, 20)))
    before = cost(model(images), labels).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = training.train_model(model, optimizer, cost, loader(20, 20), 1, progress=False)
    assert result.step_losses == [before]
    assert cost(model(images), labels).item() < before


def test_gradients_do_not_add_up_over_steps() -> None:
    model, cost = Constant(), nn.CrossEntropyLoss()
    start = model.logits.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training.train_model(model, optimizer, cost, loader(40, 20), 1, progress=False)
    expected = start.clone()
    for _, labels in loader(40, 20):
        share = labels.bincount(minlength=10) / len(labels)
        expected -= 0.1 * (expected.softmax(0) - share)
    torch.testing.assert_close(model.logits.detach(), expected)


def test_training_is_in_training_mode() -> None:
    modes = []

    class Watching(Constant):
        def forward(self, images: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(images)

    model = Watching().eval()
    training.train_model(
        model, frozen(model), nn.CrossEntropyLoss(), loader(20, 10), 1, progress=False
    )
    assert modes == [True, True]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_training_stops_before_its_step(value: float) -> None:
    model = Constant()
    start = model.logits.detach().clone()
    factors = iter([1.0, 1.0, 1.0, value])

    def cost(logits: Tensor, labels: Tensor) -> Tensor:
        return 0 * logits.sum() + next(factors)

    with pytest.raises(FloatingPointError, match=f"epoch 2/3, step 2: the loss is {value}"):
        training.train_model(
            model, torch.optim.Adam(model.parameters()), cost, loader(20, 10), 3, progress=False
        )
    assert torch.equal(model.logits, start)


def test_failing_model_is_not_hidden() -> None:
    model, optimizer, cost = build_convnet("plain")
    images = torch.rand(4, 1, 20, 20)
    wrong = DataLoader(TensorDataset(images, torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(RuntimeError):
        training.train_model(model, optimizer, cost, wrong, 1, progress=False)


def test_no_batches_are_an_error() -> None:
    model = Constant()
    empty: Sequence[Sequence[Tensor]] = []
    with pytest.raises(ValueError, match="no batches"):
        training.train_model(model, frozen(model), nn.CrossEntropyLoss(), empty, progress=False)
    with pytest.raises(ValueError, match="no batches"):
        training.test_model(model, nn.CrossEntropyLoss(), empty)


def test_plain_progress_is_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    model = Constant()
    result = training.train_model(model, frozen(model), nn.CrossEntropyLoss(), loader(20, 10), 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"epoch {epoch}/2: loss {loss:.4f}, {seconds:.1f} s"
        for epoch, loss, seconds in zip(
            (1, 2), result.epoch_losses, result.epoch_seconds, strict=True
        )
    ]


def test_terminal_progress_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal() -> Console:
        return Console(file=screen, force_terminal=True, width=80, highlight=False)

    monkeypatch.setattr("convkern._show.progress._terminal", terminal)
    model = Constant()
    training.train_model(model, frozen(model), nn.CrossEntropyLoss(), loader(20, 10), 1)
    assert "epoch 1/1: loss" in screen.getvalue()
    assert "100%" in screen.getvalue()


def test_no_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model = Constant()
    training.train_model(
        model, frozen(model), nn.CrossEntropyLoss(), loader(20, 10), 1, progress=False
    )
    assert capsys.readouterr() == ("", "")


# --- test_model ----------------------------------------------------------------------------


def test_mean_loss_and_accuracy_are_over_samples() -> None:
    model, cost = Constant(), nn.CrossEntropyLoss()
    batches = loader(47, 20)
    images, labels = next(iter(loader(47, 47)))
    loss, accuracy = training.test_model(model, cost, batches)
    assert loss == pytest.approx(cost(model(images), labels).item())
    assert accuracy == 4 / 47  # it always answers 9, the label of samples 9, 19, 29 and 39


@pytest.mark.parametrize("mode", [True, False])
def test_testing_restores_the_mode_also_after_a_failure(mode: bool) -> None:
    seen = []

    class Watching(Constant):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(images)

    model = Watching().train(mode)
    training.test_model(model, nn.CrossEntropyLoss(), loader(20, 20))
    assert model.training is mode
    with pytest.raises(FloatingPointError, match="test, step 1: the loss is nan"):
        training.test_model(model, lambda *_: torch.tensor(math.nan), loader(20, 20))
    assert model.training is mode
    assert seen == [(False, False)] * 2


# --- the command ---------------------------------------------------------------------------


def train(data_dir: Path, *options: str) -> int:
    return cli.main(["train", "--data", str(data_dir), "--batch-size", "25", *options])


def test_train_prints_and_writes_its_results(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "first"
    assert train(data_dir, "--epochs", "2", "--model", "stride", "--out", str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((out / "metrics.json").read_text())
    assert lines[0] == f"data: {data_dir}"
    assert [line.partition(":")[0] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[3:] == [
        f"test loss {metrics['test_loss']:.4f}, accuracy {metrics['accuracy']:.4f}"
    ]
    assert metrics["arguments"] == {
        "model": "stride",
        "conv": "convkern",
        "epochs": 2,
        "batch_size": 25,
        "seed": 0,
        "workers": 0,
        "data": str(data_dir),
        "out": str(out),
    }
    assert len(metrics["step_losses"]) == 3
    assert len(metrics["epoch_losses"]) == 2
    assert metrics["seconds"] == sum(metrics["epoch_seconds"])


def test_written_model_has_the_reported_loss(data_dir: Path, tmp_path: Path) -> None:
    assert train(data_dir, "--epochs", "1", "--model", "plain", "--out", str(tmp_path)) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    model, _, cost = build_convnet("plain", seed=77)
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    _, test_loader = fashion_mnist.load_fashion_mnist(25, 0, data_dir=data_dir)
    loss, accuracy = training.test_model(model, cost, test_loader)
    assert loss == pytest.approx(metrics["test_loss"])
    assert accuracy == metrics["accuracy"]


def test_seed_decides_the_run(data_dir: Path, tmp_path: Path) -> None:
    def losses(name: str, seed: str) -> list[float]:
        out = tmp_path / name
        options = ("--epochs", "1", "--model", "plain", "--conv", "torch", "--seed", seed)
        assert train(data_dir, *options, "--out", str(out)) == 0
        steps: list[float] = json.loads((out / "metrics.json").read_text())["step_losses"]
        return steps

    first = losses("first", "1")
    torch.rand(5)
    assert losses("again", "1") == pytest.approx(first)
    assert losses("other", "2") != pytest.approx(first)


def test_both_convolutions_train_alike(data_dir: Path, tmp_path: Path) -> None:
    metrics = {}
    for conv in ("convkern", "torch"):
        out = tmp_path / conv
        assert train(data_dir, "--epochs", "1", "--conv", conv, "--out", str(out)) == 0
        metrics[conv] = json.loads((out / "metrics.json").read_text())
    assert metrics["convkern"]["step_losses"] == pytest.approx(
        metrics["torch"]["step_losses"], rel=1e-3
    )


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("convkern: ")
    assert error.count("\n") == 1
    return str(error)


def test_missing_data_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "none") == 2
    assert str(tmp_path / "none") in one_line_error(capsys)


def test_corrupt_data_is_one_line_and_exit_code_2(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_dir / "t10k-labels-idx1-ubyte").write_bytes(b"rubbish")
    assert train(data_dir) == 2
    assert hashlib.sha256(b"rubbish").hexdigest() in one_line_error(capsys)


def test_unusable_output_fails_before_training(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert train(data_dir, "--out", str(tmp_path / "file")) == 2
    assert str(tmp_path / "file") in one_line_error(capsys)


def test_divergence_is_told_and_exit_code_1(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reckless(model: str, conv: str, seed: int) -> object:
        return build_convnet(model, conv, lr=math.inf, seed=seed)

    monkeypatch.setattr(cli.train, "build_convnet", reckless)
    assert train(data_dir) == 1
    assert "the loss is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "padding4"], "padding3"),
        (["--conv", "fast"], "convkern"),
        (["--epochs", "0"], "'0' is not a whole number of at least 1"),
        (["--epochs", "two"], "'two' is not a whole number of at least 1"),
        (["--batch-size", "-1"], "at least 1"),
        (["--workers", "-1"], "at least 0"),
        (["--seed", "1.5"], "argument --seed: '1.5' is not a whole number"),
        (["--seed", f"{10**20}"], "argument --seed: '100000000000000000000' does not fit 64 bits"),
        (["--batch-size", f"{10**20}"], "argument --batch-size: '1000"),
    ],
)
def test_wrong_arguments_are_usage_errors(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_command_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convkern", "train", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("convkern: Fashion-MNIST is not in")
    assert "Traceback" not in done.stderr
