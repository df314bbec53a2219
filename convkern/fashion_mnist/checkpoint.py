"""Checkpoints: all that a training needs to go on as if it had not been interrupted."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convkern.fashion_mnist.data import Loader
from convkern.fashion_mnist.parallel import Processes
from convkern.fashion_mnist.training import TrainResult


@dataclass(frozen=True)
class Training:
    """What changes in training; a checkpoint is its state.

    Attributes:
        model: the network itself, not its DistributedDataParallel.
        optimizer: of the model's parameters.
        loader: the training split, in an order that a generator draws.
        processes: those that train; each has its own random state.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Loader
    processes: Processes


class Checkpoint:
    """The file `checkpoint.pt` in a directory, replaced as a whole by each `write`.

    `settings` are those under which a training can be continued: all but the number of epochs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.path = folder / "checkpoint.pt"
        self._settings = dict(settings)

    def write(self, training: Training, result: TrainResult) -> None:
        """Save the state after the epochs of `result`; every process calls it, the main one writes.

        A process that is killed meanwhile leaves the checkpoint before or this one, never a part.
        """
        random_states = training.processes.gather(torch.get_rng_state())
        if not training.processes.is_main:
            return
        state = {
            "settings": self._settings,
            "result": asdict(result),
            "model": training.model.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "order": training.loader.generator.get_state(),
            "random_states": random_states,
        }
        # In the same directory, since only within a file system a file can be replaced at once.
        staged = self.path.with_suffix(".new")
        with staged.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # its content, before its name
        staged.replace(self.path)
        _sync_directory(self.path.parent)

    def read(self, training: Training) -> TrainResult:
        """Load the state into `training`, and return what it saw so far.

        The number of processes may have changed; one that had none yet keeps its random state.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no checkpoint, or one of other settings.
        """
        state = self._load()
        if differences := [
            f"{name} {state['settings'].get(name)!r}, not {value!r}"
            for name, value in self._settings.items()
            if state["settings"].get(name) != value
        ]:
            raise ValueError(f"{self.path} is of a training with {'; '.join(differences)}")
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.loader.generator.set_state(state["order"])
        if training.processes.rank < len(state["random_states"]):
            torch.set_rng_state(state["random_states"][training.processes.rank])
        return TrainResult(**state["result"])

    def _load(self) -> dict[str, Any]:
        keys = {"settings", "result", "model", "optimizer", "order", "random_states"}
        content = io.BytesIO(self.path.read_bytes())
        try:
            state = torch.load(content, weights_only=True)
        except Exception as error:  # a damaged file makes torch raise anything, OSError too
            raise ValueError(f"{self.path} is not a checkpoint, or is damaged") from error
        if not isinstance(state, dict) or set(state) != keys:
            raise ValueError(f"{self.path} is not a checkpoint of `convkern train`")
        return state


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
