"""Networks that do not learn are reported once, with the ReLU that is dead."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import convkern
from convkern import cli
from convkern.fashion_mnist import build_convnet, train_model
from convkern.fashion_mnist.dead import DeadWatch, dead_relu
from fashion_mnist_files import (
    bright_rows,
    data_dir_fixture,  # noqa: F401
)


def batches(count: int = 60, size: int = 20) -> DataLoader[tuple[Tensor, ...]]:
    images, labels = bright_rows(count)
    return DataLoader(TensorDataset(images.unsqueeze(1) / 255, labels.long()), size)


def kill(layer: nn.Module) -> None:
    """Makes all outputs of a convolution negative."""
    assert isinstance(layer, nn.Conv2d)
    with torch.no_grad():
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.fill_(-1)


def network(dead: int | None) -> tuple[nn.Module, torch.optim.Optimizer, nn.CrossEntropyLoss]:
    """Returns a network of three layers. If `dead` is given, from 1, that layer is dead and the
    network guesses."""
    model, optimizer, cost = build_convnet("padding3", lr=0.02, seed=0)
    assert isinstance(model, nn.Sequential)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.ones_(layer.bias)  # so that no layer is dead by chance
    if dead is not None:
        kill(model[2 * (dead - 1)])
        nn.init.zeros_(model[-1].bias)
    return model, optimizer, cost


@pytest.mark.parametrize("dead", [1, 2, 3])
def test_the_first_dead_relu_is_named(dead: int) -> None:
    images, _ = next(iter(batches()))
    model, _, _ = network(dead)
    assert dead_relu(model, images) == f"ReLU {dead} of 3 (module '{2 * dead - 2}')"
    assert dead_relu(network(None)[0], images) is None


def test_fused_relus_and_modes_are_heeded() -> None:
    model = nn.Sequential(
        convkern.Conv2d(1, 1, 3, activation="relu"), nn.Dropout(), nn.BatchNorm2d(1),
        convkern.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    model[2].eval()
    modes = [module.training for module in model.modules()]
    kill(model[0])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert dead_relu(model, torch.ones(2, 1, 6, 6)) == "ReLU 1 of 2 (module '0')"
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_training_warns_once() -> None:
    model, optimizer, cost = network(3)
    with pytest.warns(RuntimeWarning, match=r"^convkern: the loss stays at 2\.3\d\d") as found:
        train_model(model, optimizer, cost, batches(), 4, progress=False)
    assert len(found) == 1
    words = str(found[0].message)
    assert "that of guessing 1 of 10 classes: ReLU 3 of 3 (module '4') gives 0" in words
    assert found[0].filename == __file__


def test_training_that_learns_does_not_warn() -> None:
    model, optimizer, cost = build_convnet("stride", lr=0.02, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_model(model, optimizer, cost, batches(200, 10), 2, progress=False)


def test_the_warning_does_not_change_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(dead: bool, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        model, optimizer, cost = network(3)
        told: list[str] = []
        with monkeypatch.context() as patch:
            if not dead:
                patch.setattr(DeadWatch, "epoch_done", lambda *_: None)
            result = train_model(
                model, optimizer, cost, batches(), 3, progress=False, warn=told.append
            )
        assert len(told) == dead
        return result.losses

    assert losses(True, monkeypatch) == losses(False, monkeypatch)


def test_guessing_without_a_dead_relu_is_told_later() -> None:
    told: list[str] = []
    model, images = network(None)[0], next(iter(batches()))[0]
    watch = DeadWatch(model, told.append)
    guess = [math.log(10)] * 90
    watch.epoch_done(guess, images, 10)
    watch.epoch_done([1.5] * 90, images, 10)  # it learns something, and the count begins again
    watch.epoch_done(guess, images, 10)
    watch.epoch_done(guess, images, 10)
    assert told == []
    watch.epoch_done(guess, images, 10)
    watch.epoch_done(guess, images, 10)
    assert told == ["the loss stays at 2.303, that of guessing 1 of 10 classes: no ReLU is dead"]


@pytest.mark.parametrize("classes", [0, 1])
def test_what_is_no_classifier_is_left_alone(classes: int) -> None:
    told: list[str] = []
    DeadWatch(nn.Identity(), told.append).epoch_done([0.0] * 1000, torch.ones(1), classes)
    assert told == []


def test_the_command_says_it_in_a_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.train, "build_convnet", lambda *_, **__: network(3))
    assert cli.main(["train", "--data", str(data_dir), "--epochs", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("convkern: the loss stays at 2.30")
    assert "ReLU 3 of 3 (module '4') gives 0 for every image of a batch" in captured.err
    assert captured.err.count("\n") == 1
    assert "accuracy 0.1" in captured.out


def test_the_study_has_its_own_words(data_dir: Path, tmp_path: Path) -> None:
    from convkern.fashion_mnist.study import Plan, run, run_study
    from study_cases import small_data

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(run, "build_convnet", lambda *_, **__: network(1))
        warnings.simplefilter("error")
        study, _ = run_study(small_data(), Plan(["padding3"], [0], 2, tmp_path))
    assert study.runs[0].dead_layer == 1
