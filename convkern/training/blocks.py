"""The functions that fused training graphs call. Each has torch's derivatives of every order, and
is computed by torch's own functions wherever the native passes do not compute the arguments."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint

from convkern import _C
from convkern.activations import activated
from convkern.choices import Activation


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
    twice: bool,
    recompute: bool,
) -> Any:
    """Returns activation(batch_norm(input) + residual).

    The arguments up to `eps` are those of :func:`torch.nn.functional.batch_norm`.

    Args:
        residual: a tensor like the result, or None.
        twice: return the result as a pair of tensors of one memory, for two users. The backward
            pass then adds their gradients where it loads them.
        recompute: convolutions of the result do not save it for their backward pass. They compute
            it again from `input`.
    """
    results = _C.batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps, activation,
        residual, twice, recompute,
    )  # fmt: skip
    if results is None:
        y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        results = [activated(y, activation, residual)] * 2
    return results if twice else results[0]


def channel_product(input: Tensor, scale: Tensor) -> Tensor:
    """Returns input * scale, for one number for each image and channel: (N, C, H, W) and
    (N, C, 1, 1). Its backward pass reads the gradient and the input once for both gradients."""
    y = _C.channel_product(input, scale)
    return input * scale if y is None else y


def mean_of_pixels(input: Tensor) -> Tensor:
    """Returns the mean over the pixels, (N, C, H, W) to (N, C, 1, 1). Its gradient is one number
    for each image and channel, expanded to the pixels. :func:`batch_norm` does not write it out."""
    pixels = input.shape[2] * input.shape[3]
    return input.sum((2, 3), keepdim=True) / pixels


def checkpointed(body: GraphModule, *arguments: Any, **options: Any) -> Any:
    """Returns the results of a part of a graph that the model calls by torch.utils.checkpoint.

    torch's own operator for it is made to be traced. Run as it is, it does not put random numbers
    back, and saves counters of batch norms, which then change.
    """
    known = {*inspect.signature(checkpoint).parameters, "preserve_rng_state"}
    given = {name: value for name, value in options.items() if name not in known}
    taken = {name: value for name, value in options.items() if name in known}
    taken["use_reentrant"] = False
    if "_checkpoint_context_fn" in body.meta:
        taken["context_fn"] = body.meta["_checkpoint_context_fn"]
    return checkpoint(lambda: body(*arguments, **given), **taken)
