"""Checkpoints hold everything that a training needs to continue as if it was never interrupted."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from convkern._files import write_file
from convkern.fashion_mnist.loaders import Loader
from convkern.fashion_mnist.parallel import Processes
from convkern.fashion_mnist.training import TrainResult

# The first line of a checkpoint. The second line is the SHA-256, in hexadecimal digits, of the
# rest. The rest is what torch.save writes.
_HEADING: Final = b"convkern checkpoint, version 2\n"
_PARTS: Final = ("settings", "result", "model", "optimizer", "order", "random_states")


@dataclass(frozen=True)
class Training:
    """The objects that change during training. A checkpoint holds their state.

    Attributes:
        model: the network itself, not its DistributedDataParallel.
        optimizer: the optimizer of the model's parameters.
        loader: the training split, in an order that a generator draws.
        processes: the processes that train; each has its own random state.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Loader
    processes: Processes


class Checkpoint:
    """The file `checkpoint.pt` in a directory. Each `write` replaces it as a whole.

    `settings` are those under which a training can be continued: all but the number of epochs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.path = folder / "checkpoint.pt"
        self._settings = dict(settings)

    def write(self, training: Training, result: TrainResult) -> None:
        """Saves the state after the epochs of `result`. Every process calls it, and the main one
        writes.

        If the process is killed meanwhile, the file is the old or the new checkpoint, never a part.
        """
        random_states = training.processes.gather(torch.get_rng_state())
        # If it cannot be written, all processes end, and the main one says why.
        training.processes.main_first(
            lambda: (
                self._write(training, result, random_states) if training.processes.is_main else None
            )
        )

    def _write(self, training: Training, result: TrainResult, random_states: list[Tensor]) -> None:
        state = {
            "settings": self._settings,
            "result": asdict(result),
            "model": training.model.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "order": training.loader.generator.get_state(),
            "random_states": random_states,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_file(self.path, _sealed(content.getvalue()))

    def read(self, training: Training) -> TrainResult:
        """Loads the state into `training`, and returns the result so far.

        The number of processes may have changed. A process without a saved random state keeps its
        own.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is no checkpoint, is damaged, is of other settings, or has a part
                that does not fit the training, which the message names. The training is left as it
                was.
        """
        state = self._load()
        with self._part("settings"):
            found = dict(state["settings"])
            differences = [
                f"{name} {found.get(name)!r}, not {value!r}"
                for name, value in self._settings.items()
                if type(found.get(name)) is not type(value) or found[name] != value
            ]
        if differences:
            raise ValueError(f"{self.path} is of a training with {'; '.join(differences)}")
        # Everything is tried on copies first, so that a part that does not fit leaves the training
        # as it was.
        model, optimizer = copy.deepcopy((training.model, training.optimizer))
        with self._part("result"):
            result = _result_of(state["result"], len(training.loader))
        with self._part("model"):
            _load_model(model, state["model"])
        with self._part("optimizer"):
            _load_optimizer(optimizer, state["optimizer"])
        with self._part("order"):
            torch.Generator().set_state(state["order"])
        with self._part("random_states"):
            random_states = list(state["random_states"])
            if not random_states:
                raise ValueError("there is none")
            for random_state in random_states:
                torch.Generator().set_state(random_state)
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.loader.generator.set_state(state["order"])
        if training.processes.rank < len(random_states):
            torch.set_rng_state(random_states[training.processes.rank])
        return result

    def _load(self) -> dict[str, Any]:
        content = self._unsealed()
        try:
            state = torch.load(io.BytesIO(content), weights_only=True)
        except Exception as error:  # torch may raise anything on foreign data
            raise ValueError(f"{self.path} is not a checkpoint of `convkern train`") from error
        if not isinstance(state, dict) or set(state) != set(_PARTS):
            names = sorted(map(str, state)) if isinstance(state, dict) else []
            raise ValueError(
                f"{self.path} is not a checkpoint of `convkern train`: it should have the parts "
                f"{', '.join(sorted(_PARTS))}, and has {', '.join(names) or 'none'}"
            )
        return state

    def _unsealed(self) -> bytes:
        """Returns the bytes that torch.save wrote."""
        if not self.path.is_file():  # reading a pipe would block
            raise ValueError(f"{self.path} is not a file")
        content = self.path.read_bytes()
        body = content[len(_sealed(b"")) :]
        if not content.startswith(_HEADING):
            raise ValueError(
                f"{self.path} is damaged, or not a checkpoint of this version of `convkern train`"
            )
        if content != _sealed(body):
            raise ValueError(f"{self.path} is damaged: its content is not what was written")
        return body

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Reports an error within the context as one in this part of the file."""
        try:
            yield
        except Exception as error:  # torch raises many classes on such values
            why = " ".join(str(error).split())
            raise ValueError(
                f"{self.path} does not fit this training: its part {name!r} is wrong ({why})"
            ) from error


def _sealed(content: bytes) -> bytes:
    return b"%b%b\n%b" % (_HEADING, sha256(content).hexdigest().encode(), content)


def _result_of(found: Any, steps: int) -> TrainResult:
    """Returns the losses and times of whole epochs with `steps` steps each."""
    result = TrainResult(**found)
    for name, values in vars(result).items():
        if not isinstance(values, list) or not all(type(v) is float for v in values):
            raise TypeError(f"{name} is not a list of numbers")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name} has an infinite number or NaN")
    counts = [len(result.step_losses), len(result.epoch_losses), len(result.epoch_seconds)]
    if counts[0] != steps or counts[1] < 1 or counts[1] != counts[2]:
        raise ValueError(
            f"{counts[0]} losses of steps, {counts[1]} of epochs and {counts[2]} times of epochs, "
            f"where there should be {steps}, and as many of epochs as times, at least 1"
        )
    return result


def _load_model(model: nn.Module, found: Any) -> None:
    expected = model.state_dict()
    if not isinstance(found, dict) or set(found) != set(expected):
        raise ValueError(f"its tensors should be {', '.join(expected)}")
    for name, tensor in expected.items():
        _check_tensor(name, found[name], tensor.shape, tensor.dtype)
    model.load_state_dict(found)


def _load_optimizer(optimizer: torch.optim.Optimizer, found: Any) -> None:
    """Loads the state into `optimizer`, which is a copy with its own parameters."""
    # The parts of an optimizer's state are known only after a step.
    expected = _after_a_step(copy.deepcopy(optimizer))
    if len(found["param_groups"]) != len(expected["param_groups"]):
        raise ValueError("it should have as many groups of parameters")
    for group, own in zip(found["param_groups"], expected["param_groups"], strict=True):
        if set(group) != set(own):
            raise ValueError(f"the settings should be {', '.join(own)}")
        for name, value in own.items():
            if type(group[name]) is not type(value) or group[name] != value:
                raise ValueError(f"{name} is {group[name]!r}, not {value!r}")
    for number, own in expected["state"].items():
        state = found["state"].get(number, {})
        if set(state) != set(own):
            raise ValueError(f"the state of parameter {number} should be {', '.join(own)}")
        for name, value in own.items():
            if isinstance(value, Tensor):
                named = f"{name} of parameter {number}"
                _check_tensor(named, state[name], value.shape, value.dtype)
            if name == "step" and state[name] < 1:
                raise ValueError(f"step of parameter {number} is {float(state[name]):g}")
    if len(found["state"]) != len(expected["state"]):
        raise ValueError("it has states of more parameters than there are")
    optimizer.load_state_dict(copy.deepcopy(found))  # a step would change what was found
    _after_a_step(optimizer)
    if not all(p.isfinite().all() for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("a step with it makes weights infinite or NaN")


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def _check_tensor(name: str, found: Any, shape: torch.Size, dtype: torch.dtype) -> None:
    if not isinstance(found, Tensor) or found.shape != shape or found.dtype != dtype:
        kind = (
            f"{found.dtype} of shape {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise ValueError(f"{name} should be {dtype} of shape {tuple(shape)}, not {kind}")
    if not found.isfinite().all():
        raise ValueError(f"{name} has an infinite number or NaN")
