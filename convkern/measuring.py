"""Calls timed against each other: which layers of a model torch computes faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from convkern.functional import conv2d, linear, torch_linear, torchs_conv2d
from convkern.interception import enabled

_SECONDS = 0.02  # for each call
MARGIN = 0.97  # torch's call must take at most this share of the time


def seconds(call: Callable[[], Any]) -> float:
    """Returns the median time of some calls. Work on a GPU is waited for."""
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < _SECONDS:
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - start)
    return median(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def slower_layers(
    model: nn.Module, layers: Sequence[nn.Module], example: Any
) -> dict[nn.Module, str]:
    """Runs a model once and times each different layer of `layers`, convolutions and nn.Linear, on
    the input that it then gets. Returns those that torch computes faster, with a reason that says
    so.

    Forward is timed, and backward too for layers in training mode. Buffers, such as the statistics
    of batch norms, are what they were afterwards.
    """
    inputs: dict[nn.Module, tuple[Any, ...]] = {}
    kept = {name: t.clone() for name, t in model.named_buffers()}
    with ExitStack() as stack:
        for layer in layers:

            def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
                if given and isinstance(given[0], Tensor):
                    inputs.setdefault(layer, (given[0].detach(), *given[1:]))

            stack.callback(layer.register_forward_pre_hook(look).remove)
        with torch.no_grad():
            model(*(example if isinstance(example, tuple) else (example,)))
    known: dict[Any, float] = {}
    slower = {}
    for layer, (x, *others) in inputs.items():
        key = (repr(layer), x.shape, x.stride(), x.dtype, layer.training, repr(others))
        if key not in known:
            has_function = type(layer) in (nn.Conv2d, nn.Linear)
            known[key] = _ratio(layer, x) if has_function else _ratio_of_forward(layer, x, others)
        if known[key] < MARGIN:
            slower[layer] = f"torch was measured to be faster: {known[key]:.2f}x of the time"
    with torch.no_grad():
        for name, t in model.named_buffers():
            t.copy_(kept[name])
    return slower


def _ratio(layer: Any, x: Tensor) -> float:
    """Returns the time of torch as a multiple of convkern's, of nn.Conv2d or nn.Linear."""
    w, b = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    both: list[Callable[..., Tensor]] = [torch_linear, linear]
    window: list[Any] = []
    if isinstance(layer, nn.Conv2d):
        both = [partial(f, padding_mode=layer.padding_mode) for f in (torchs_conv2d, conv2d)]
        window = [layer.stride, layer.padding, layer.dilation, layer.groups]
    operands = [t for t in (x, w, b) if t is not None]
    if layer.training:
        operands = [t.clone().requires_grad_() for t in operands]

    def step(function: Callable[..., Tensor]) -> None:
        with torch.set_grad_enabled(layer.training):
            y = function(*operands, *([None] if b is None else []), *window)
        if layer.training:
            torch.autograd.grad(y, operands, y.detach())

    theirs, ours = (seconds(lambda f=function: step(f)) for function in both)  # type: ignore[misc]
    return theirs / ours


def _ratio_of_forward(layer: nn.Module, x: Tensor, others: list[Any]) -> float:
    """Returns the time of torch as a multiple of convkern's, of the forward of another class."""
    wanted: list[Tensor] = [p for p in layer.parameters() if p.requires_grad]
    if layer.training:
        wanted.append(x := x.clone().requires_grad_(x.is_floating_point()))

    def step(forward: Callable[..., Any]) -> None:
        with torch.set_grad_enabled(layer.training):
            y = forward(x, *others)
            if layer.training and isinstance(y, Tensor) and y.requires_grad:
                torch.autograd.grad(y, wanted, y.detach(), allow_unused=True)

    ours = enabled()(layer.forward)
    theirs = seconds(lambda: step(layer.forward))
    return theirs / seconds(lambda: step(ours))
