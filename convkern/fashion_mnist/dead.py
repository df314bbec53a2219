"""Finds networks that do not learn: the loss stays at that of guessing, and perhaps a ReLU is
dead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean

import torch
from torch import Tensor, nn

from convkern.modules import Conv2d

_NEAR = 0.01  # relative distance from the loss of guessing
_PATIENCE = 200  # steps of guessing before a warning, if no ReLU is dead


class DeadWatch:
    """Warns once, by `warn`, that the loss of a network stays at that of guessing. It also names a
    dead ReLU. Such a ReLU gives nothing but zeros, and no gradient passes it, so it stays dead."""

    def __init__(self, model: nn.Module, warn: Callable[[str], None]) -> None:
        self._model, self._warn = model, warn
        self._steps, self._told = 0, False

    def epoch_done(self, losses: Sequence[float], images: Tensor, classes: int) -> None:
        """Takes the losses of an epoch's steps and the images of its last batch."""
        guessing = math.log(max(classes, 1))
        loss = mean(losses[len(losses) // 2 :])
        if self._told or classes < 2 or abs(loss - guessing) > _NEAR * guessing:
            self._steps = 0
            return
        self._steps += len(losses)
        dead = dead_relu(self._model, images)
        if dead is None and self._steps < _PATIENCE:
            return
        self._told = True
        why = (
            f"{dead} gives 0 for every image of a batch, and what is before it cannot learn. "
            "Another seed may do better"
            if dead is not None
            else "no ReLU is dead"
        )
        self._warn(f"the loss stays at {loss:.3f}, that of guessing 1 of {classes} classes: {why}")


def dead_relu(model: nn.Module, images: Tensor) -> str | None:
    """Returns the first ReLU that gives 0 for all of the images, in words, or None.

    The model is run in evaluation mode without gradients, and left as it was. nn.ReLU and
    convkern's layers with a ReLU are checked.
    """
    relus: dict[nn.Module, str] = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU)
        or (isinstance(module, Conv2d) and module.activation == "relu")
    }
    dead: list[str] = []

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        if not output.any():
            place = list(relus).index(module) + 1
            dead.append(f"ReLU {place} of {len(relus)} (module {relus[module]!r})")

    modes = [(module, module.training) for module in model.modules()]
    hooks = [module.register_forward_hook(look) for module in relus]
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return dead[0] if dead else None
