"""Several processes share loaders, training and testing."""

import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import TensorDataset

from convkern import fashion_mnist
from convkern.fashion_mnist import build_convnet, training
from convkern.fashion_mnist.loaders import Loader
from convkern.fashion_mnist.parallel import Processes as Team
from processes import Processes


def numbered(train: int, test: int) -> fashion_mnist.FashionMNISTData:
    """Returns samples whose images are noise. Labels in the training split are the samples'
    numbers."""
    generator = torch.Generator().manual_seed(4)
    splits = [
        TensorDataset(
            torch.rand((count, 1, 28, 28), generator=generator), torch.arange(count) % top
        )
        for count, top in ((train, train), (test, 10))
    ]
    return fashion_mnist.FashionMNISTData("made up", *splits)


def labels(loader: Loader) -> list[list[int]]:
    return [batch.tolist() for _, batch in loader]


# --- loaders -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("samples", [40, 41, 45, 50, 57])
def test_training_shares_are_the_batches_of_one_process(samples: int, count: int) -> None:
    whole = numbered(samples, 1)
    alone, _ = fashion_mnist.make_loaders(whole, 8, seed=3)
    shared = [
        fashion_mnist.make_loaders(whole, 8, seed=3, processes=Team(r, count))[0]
        for r in range(count)
    ]
    for _ in range(2):  # epochs
        batches = labels(alone)
        shares = [labels(loader) for loader in shared]
        assert [len(loader) for loader in shared] == [len(batches)] * count
        assert sorted(label for batch in batches for label in batch) == list(range(samples))
        for batch, *parts in zip(batches, *shares, strict=True):
            seen = Counter(label for part in parts for label in part)
            assert {len(part) for part in parts} == {
                -(-len(batch) // count)
            }  # the least equal share
            assert set(seen) == set(batch)
            assert sum(seen.values()) - len(batch) == -len(batch) % count


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("samples", [1, 7, 16, 17])
def test_test_shares_have_each_sample_once(samples: int, count: int) -> None:
    whole = numbered(1, samples)
    loaders = [
        fashion_mnist.make_loaders(whole, 8, seed=3, processes=Team(r, count))[1]
        for r in range(count)
    ]
    images = [image for loader in loaders for batch, _ in loader for image in batch]
    assert len(images) == samples
    found = {image.sum().item() for image in images}
    assert found == {image.sum().item() for image in whole.test.tensors[0]}
    for loader in loaders:
        assert len(loader) == len(labels(loader))


def test_shares_need_a_seed_and_large_batches() -> None:
    whole = numbered(8, 8)
    with pytest.raises(ValueError, match=r"3 processes need a seed .* seed=None, batch_size=8"):
        fashion_mnist.make_loaders(whole, 8, processes=Team(0, 3))
    with pytest.raises(ValueError, match=r"3 processes .* batch size .* seed=1, batch_size=2"):
        fashion_mnist.make_loaders(whole, 2, seed=1, processes=Team(0, 3))


# --- training and testing ------------------------------------------------------------------


def here() -> Team:
    return Team(dist.get_rank(), dist.get_world_size())


def trained(team: Team, epochs: int = 2) -> tuple[list[float], float, float]:
    """Returns the losses of 48 samples in batches of 12, and the result on 13 in batches of 5."""
    whole = numbered(48, 13)
    whole.train.tensors[1].remainder_(10)
    loaders = fashion_mnist.make_loaders(whole, 12, seed=3, processes=team)
    model, optimizer, cost = build_convnet("stride", seed=1)
    result = training.train_model(
        team.parallel(model), optimizer, cost, loaders[0], epochs, progress=False, processes=team
    )
    loss, accuracy = training.test_model(model, cost, loaders[1], processes=team)
    return result.step_losses + result.epoch_losses, loss, accuracy


def trained_here() -> tuple[list[float], float, float]:
    return trained(here())


@pytest.mark.parametrize("count", [2, 3, 4])
def test_losses_and_result_are_those_of_one_process(count: int, processes: Processes) -> None:
    losses, loss, accuracy = trained(Team())
    assert len(set(losses)) == 4 + 2
    for others in processes.run(count, trained_here):
        assert others[0] == pytest.approx(losses, rel=1e-5)
        assert others[1] == pytest.approx(loss, rel=1e-5)
        assert others[2] == accuracy


def result_of_few(samples: int) -> tuple[float, float] | str:
    _, loader = fashion_mnist.make_loaders(numbered(3, samples), 3, seed=3, processes=here())
    model, _, cost = build_convnet("stride", seed=1)
    try:
        return training.test_model(model, cost, loader, processes=here())
    except ValueError as error:
        return str(error)


def test_processes_without_a_test_sample(processes: Processes) -> None:
    model, _, cost = build_convnet("stride", seed=1)
    _, loader = fashion_mnist.make_loaders(numbered(3, 2), 3, seed=3)
    expected = training.test_model(model, cost, loader)
    for result in processes.run(3, result_of_few, 2):
        assert result == pytest.approx(expected)
    assert processes.run(3, result_of_few, 0) == ["the loader has no batches"] * 3


def one_fails(failing: bool) -> str:
    """Returns what each process sees of a function that fails in the main process."""
    calls = []

    def function() -> str:
        calls.append(1)
        if failing:
            raise OSError("no such place")
        return f"rank {dist.get_rank()}"

    try:
        return here().main_first(function)
    except OSError as error:
        return f"{error}, {len(calls)} calls"
    except SystemExit as end:
        return f"ended with {end.code}, {len(calls)} calls"


def test_the_main_process_alone_tells_its_failure(processes: Processes) -> None:
    assert processes.run(2, one_fails, True) == [
        "no such place, 1 calls",
        "ended with 2, 0 calls",
    ]
    assert processes.run(2, one_fails, False) == ["rank 0", "rank 1"]


@pytest.mark.parametrize("collective", ["all_reduce", "all_gather"])
def test_collectives_return_when_no_thread_has_their_tensors(
    collective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that releases a tensor while Python ends would end the process with SIGABRT. This
    collective is by a thread that keeps the tensors for longer than the call, as gloo's may."""
    given: list[weakref.ref[Tensor]] = []

    def keep(*arguments: Tensor | Sequence[Tensor]) -> None:
        tensors = [
            tensor
            for argument in arguments
            for tensor in ([argument] if isinstance(argument, Tensor) else argument)
        ]
        given.extend(weakref.ref(tensor) for tensor in tensors)
        for tensor in tensors:
            tensor.fill_(7)
        threading.Thread(target=lambda kept: time.sleep(0.2), args=(tensors,)).start()

    monkeypatch.setattr(dist, collective, keep)
    mine = torch.ones(3)
    if collective == "all_reduce":
        assert Team(0, 2).sum([1.0, 2.0]) == [7, 7]
        assert len(given) == 1
    else:
        assert [each.tolist() for each in Team(0, 2).gather(mine)] == [[7, 7, 7]] * 2
        assert len(given) == 3
    assert [reference() for reference in given] == [None] * len(given)
    assert mine.tolist() == [1, 1, 1]
