"""convkern.fuse_training and its inverse: a model whose training steps run on fused blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from convkern.optimize.backend import inference
from convkern.optimize.text import grouped
from convkern.training.fusions import Fusions, fuse, moves_statistics

_MARK = "_fused_by_convkern"
# Dynamo keeps few graphs of a function. It counts those of each model alone where it can, and else
# those of all models whose calls begin in the same function, such as all of one class.
_OPTIONS = inspect.signature(torch.compile).parameters
_ISOLATED: dict[str, Any] = {"isolate_recompiles": True} if "isolate_recompiles" in _OPTIONS else {}


@dataclass(frozen=True)
class FusedTraining:
    """The outcome of :func:`fuse_training`. ``str()`` gives it as text.

    Attributes:
        blocks: for each batch norm that is fused, its name and what its passes compute besides:
            "relu", "residual", "residual + relu6", ..., "" for nothing.
        layers: the names of the convolutions and linear layers that convkern computes.
        kept: for each batch norm that stays torch's, or whose passes do not compute all that
            follows it, its name and the reason.
        graphs: how many graphs torch captured. Several mean that Python code in the model
            interrupts the capture: nothing is fused across these places.
    """

    blocks: dict[str, str]
    layers: list[str]
    kept: dict[str, str]
    graphs: int

    def __str__(self) -> str:
        norms = f"{len(self.blocks)} of {len({*self.blocks, *self.kept})} batch norms fused"
        what = [(f"batch norm + {extra}" if extra else "batch norm", path)
                for path, extra in self.blocks.items()]  # fmt: skip
        lines = [norms, *(f"  {line}" for line in grouped(what))]
        lines.append(f"{len(self.layers)} convolutions and linear layers computed by convkern")
        if self.graphs != 1:
            lines.append(f"captured in {self.graphs} graphs")
        lines += [f"kept {line}" for line in grouped((why, p) for p, why in self.kept.items())]
        return "\n".join(lines)


def fuse_training(
    model: nn.Module, example_input: Tensor | tuple[Any, ...], *, recompute: bool = False
) -> FusedTraining:
    """Lets the training steps of a model run on fused blocks, in place.

    Each batch norm computes the activation and the residual sum that follow it in its own passes,
    forward and backward, and saves only its input for the backward pass. Convolutions and linear
    layers run on convkern's kernels, as after :func:`replace_layers`. The numbers are those of the
    model up to rounding.

    The modules, parameters, buffers, hooks and ``state_dict`` stay as they are. The call
    ``model(x)`` runs graphs that torch's compiler front end (Dynamo) captures: those for the
    example now, and those for other shapes, modes and dtypes when they are first called. Code that
    Dynamo cannot capture runs as it is. A hook of an inner module counts if it is registered before
    this call. Inference, under ``torch.no_grad()``, is computed as by
    ``torch.compile(model, backend="convkern")``. Copies and pickles of the model are not fused.

    Args:
        model: a module in training mode.
        example_input: an input of the model, or a tuple of its arguments. The model computes it
            once; its buffers and torch's random numbers are put back afterwards.
        recompute: save less memory: the input of a convolution is not saved for the backward pass
            where it is the result of a fused batch norm, and is computed again from what that
            saves. A step takes some percent longer.

    Returns:
        What was fused, and what was not and why.

    Raises:
        TypeError: model is not a module.
        ValueError: model is in inference mode.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> print(convkern.fuse_training(model, torch.randn(2, 3, 16, 16)))
        1 of 1 batch norms fused
          batch norm + relu (1)
        1 convolutions and linear layers computed by convkern
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not model.training:
        raise ValueError("model must be in training mode, call model.train() before")
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    restore_training(model)
    backend = _Backend(recompute, {str(id(m)): path for path, m in model.named_modules()})
    _compile(model, backend)
    setattr(model, _MARK, True)
    try:
        with _undone(model), torch.enable_grad():
            model(*arguments)
    except BaseException:
        restore_training(model)
        raise
    found, backend.found, backend.paths = backend.found, None, {}
    assert found is not None
    result = FusedTraining({}, [], {}, len(found))
    for fusions in found:
        result.blocks.update(fusions.blocks)
        result.layers.extend(fusions.layers)
        result.kept.update(fusions.kept)
    for name, module in model.named_modules():
        unseen = name not in result.blocks and name not in result.kept
        if unseen and isinstance(module, nn.modules.batchnorm._BatchNorm):
            result.kept[name] = _why_unseen(module)
    return result


def restore_training(model: nn.Module) -> bool:
    """Undoes :func:`fuse_training`. Returns whether the model was fused.

    Raises:
        TypeError: model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if vars(model).pop(_MARK, None) is None or model._compiled_call_impl is None:
        return False  # or a copy of a model that was fused
    del model._compiled_call_impl
    return True


class _Backend:
    """Compiles the graphs of one model. `found` has what was done, as long as it is wanted, with
    the paths of modules by their ids."""

    def __init__(self, recompute: bool, paths: dict[str, str]) -> None:
        self.recompute = recompute
        self.paths = paths
        self.found: list[Fusions] | None = []

    def __call__(self, module: GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        call, fusions = compiled(module, example, self.recompute, self.paths)
        if self.found is not None and fusions is not None:
            self.found.append(fusions)
        return call


def compiled(
    module: GraphModule,
    example: Sequence[Any],
    recompute: bool,
    paths: Mapping[str, str] | None = None,
) -> tuple[Callable[..., Any], Fusions | None]:
    """Returns a function that computes a graph of Dynamo, and what was fused if its gradients are
    wanted, or it is a step of training without them."""
    tensors = [t for t in example if isinstance(t, Tensor)]
    tensors += [*module.parameters(), *module.buffers()]
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if not differentiable and not moves_statistics(module):
        return inference(module, tensors), None
    fusions = fuse(module, recompute=recompute, paths=paths)
    return module.forward, fusions


def backend(
    module: GraphModule, example: Sequence[Any], *, options: dict[str, Any] | None = None, **_: Any
) -> Callable[..., Any]:
    """The backend "convkern" of torch.compile. torch finds it by its entry point.

    A graph whose gradients are wanted runs on fused blocks, as after :func:`fuse_training`. Other
    graphs are computed as by :func:`convkern.optimize`.

    Args:
        options: ``{"recompute": True}`` is the argument of :func:`fuse_training`.
    """
    given = options or {}
    unknown = sorted(set(given) - {"recompute"})
    if unknown:
        raise ValueError(f"options of the backend convkern are: recompute; got {unknown[0]!r}")
    return compiled(module, example, bool(given.get("recompute", False)))[0]


def _compile(model: nn.Module, backend: _Backend) -> None:
    """Lets Dynamo capture the calls of a model."""
    if not str(model.forward.__module__).startswith("torch."):
        model.compile(backend=backend, **_ISOLATED)
        return

    # Dynamo captures no call that begins in torch's own code, such as that of nn.Sequential. torch
    # puts a function around such a model itself, but older versions only in torch.compile(model).
    inner: Callable[..., Any] = model._call_impl

    def call(*arguments: Any, **options: Any) -> Any:
        return inner(*arguments, **options)

    call.__code__ = call.__code__.replace()  # Dynamo counts the graphs of each code object alone
    model._compiled_call_impl = torch.compile(call, backend=backend, **_ISOLATED)


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """Puts back the buffers of a model and torch's random numbers."""
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before and before[name].shape == buffer.shape:
                    buffer.copy_(before[name])


def _why_unseen(module: nn.Module) -> str:
    """Returns the reason why a batch norm is in no graph."""
    if isinstance(module, nn.SyncBatchNorm):
        return "it is a SyncBatchNorm, which stays torch's"
    if getattr(module, "momentum", 0) is None:
        return "its momentum is None: Python computes the average"
    return "torch captured no graph with it, or it was not called"
