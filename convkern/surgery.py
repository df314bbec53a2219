"""replace_layers, replace_conv2d and their inverses put convkern's layers into existing models, and
take them out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from convkern import _C
from convkern.functional import canonical, has_kernels
from convkern.measuring import slower_layers
from convkern.modules import Conv2d, Linear
from convkern.problem import forward_problem
from convkern.reference import pair

_MARK = "_replaced_by_convkern"
_LARGE_KERNEL = 13  # the smallest of the RepLKNet layers that were measured
_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Conv2d, nn.Linear: Linear}


@dataclass(frozen=True)
class Replacement:
    """The outcome of :func:`replace_layers` and :func:`replace_conv2d`. ``str()`` gives it as text.

    Attributes:
        replaced: the names of the layers that are convkern's now.
        kept: for each other layer of the classes that are replaced, its name and the reason why it
            was kept.
    """

    replaced: list[str]
    kept: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.kept)} layers replaced"]
        lines += [f"kept {name or 'the model itself'}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines)


def replace_layers(
    model: nn.Module,
    when: Callable[[str, nn.Module], bool] | None = None,
    *,
    measure: bool = False,
    example: Tensor | tuple[Any, ...] | None = None,
    force: bool = False,
) -> Replacement:
    """Turns the nn.Conv2d and nn.Linear layers of a model into :class:`convkern.Conv2d` and
    :class:`convkern.Linear`, in place.

    The module objects stay, with their parameters, buffers, hooks and names. Only their class
    changes, so that optimizers, state_dicts and references to layers remain valid.

    Some layers are kept as they are. These are layers that convkern computes with its slow
    reference kernel only, layers that are more than a plain nn.Conv2d or nn.Linear, and layers
    without a weight. Parametrized and sharded layers are more than plain: replace them before. On
    CUDA, layers of kinds for which cuDNN was measured to be faster are kept too.

    Args:
        model: any module, including a single layer.
        when: called with the name and the layer; the layer is kept where it returns False. If it
            raises, the model stays as it is.
        measure: time each different layer once, by torch and by convkern, and keep those that torch
            computes faster: forward, and backward too if the model is in training mode. The sizes
            are those of the example, for which the model runs once.
        example: an input of the model, or a tuple of its arguments, for `measure`.
        force: replace layers on CUDA for which cuDNN was measured to be faster.

    Raises:
        TypeError: model is not a module.
        ValueError: `measure` is True and there is no example.

    Example:
        >>> print(convkern.replace_layers(nn.Sequential(nn.Conv2d(3, 8, 4), nn.Linear(8, 8))))
        2 of 2 layers replaced
    """
    return _replace(model, when, tuple(_OURS), measure, example, force)


def replace_conv2d(
    model: nn.Module,
    when: Callable[[str, nn.Conv2d], bool] | None = None,
    *,
    measure: bool = False,
    example: Tensor | tuple[Any, ...] | None = None,
    force: bool = False,
) -> Replacement:
    """Does what :func:`replace_layers` does with the nn.Conv2d layers of a model only."""
    return _replace(model, when, (nn.Conv2d,), measure, example, force)


def _replace(
    model: nn.Module,
    when: Callable[..., bool] | None,
    kinds: Sequence[type[nn.Module]],
    measure: bool,
    example: Any,
    force: bool,
) -> Replacement:
    result, layers = Replacement([], {}), []
    found = [(name, layer) for name, layer, _ in _layers(model, kinds)]
    if measure and example is None:
        raise ValueError("measure=True needs an example of the model's input: example=...")
    slower = slower_layers(model, [layer for _, layer in found], example) if measure else {}
    for name, layer in found:
        why = why_kept(layer, force=force) or slower.get(layer)
        if why is None and when is not None and not when(name, layer):
            why = "`when` is False for it"
        if why is not None:
            result.kept[name] = why
        else:
            result.replaced.append(name)
            layers.append(layer)
    for layer in layers:  # decide on all layers before changing any
        layer.__class__ = _OURS[type(layer)]
        setattr(layer, _MARK, True)
    return result


def restore_layers(model: nn.Module) -> list[str]:
    """Undoes :func:`replace_layers` and :func:`replace_conv2d`, also in a copy of the model.
    Returns the names of the layers that are torch's again. A layer that was built as one of
    convkern's stays one.

    Layers that torch has parametrized or sharded in between stay so. A layer that has become
    another subclass of convkern's class stays what it is, with a warning.

    Raises:
        TypeError: model is not a module.
    """
    return _restore(model, tuple(_OURS), "restore_layers")


def restore_conv2d(model: nn.Module) -> list[str]:
    """Does what :func:`restore_layers` does with the nn.Conv2d layers of a model only."""
    return _restore(model, (nn.Conv2d,), "restore_conv2d")


def _restore(model: nn.Module, kinds: Sequence[type[nn.Module]], caller: str) -> list[str]:
    names = []
    for name, layer, kind in _layers(model, kinds):
        if _MARK not in vars(layer):
            continue
        theirs = _restored(type(layer), kind)
        if theirs is None:
            warnings.warn(
                f"convkern: {caller} leaves {name or 'the model itself'} as it is: its class has "
                f"become {type(layer).__qualname__}, a subclass of convkern.{_OURS[kind].__name__}",
                stacklevel=3,
            )
            continue
        delattr(layer, _MARK)
        if theirs is not type(layer):
            layer.__class__ = theirs
            names.append(name)
    return names


def _restored(cls: Any, theirs: type[nn.Module]) -> Any:
    """Returns a layer's class with torch's class in the place of convkern's. torch itself derives
    classes from it, for parametrizations and in fully_shard. Returns None if someone else derived
    the class."""
    if not issubclass(cls, _OURS[theirs]):
        return cls
    if cls is _OURS[theirs]:
        return theirs
    bases = tuple(_restored(base, theirs) for base in cls.__bases__)
    if not cls.__module__.startswith("torch.") or None in bases:
        return None
    members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__, bases, members)


def _layers(
    model: nn.Module, kinds: Sequence[type[nn.Module]]
) -> Iterator[tuple[str, Any, type[nn.Module]]]:
    """Yields the layers of torch's classes `kinds`, or of classes derived from them, with their
    names and torch's class."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        for kind in kinds:
            if isinstance(module, kind):
                yield name, module, kind


def why_kept(layer: nn.Conv2d | nn.Linear, *, force: bool = False) -> str | None:
    """Returns the reason why replace_layers keeps a layer, or None if it replaces the layer. With
    `force`, it is no reason that cuDNN is faster."""
    theirs = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    if isinstance(layer, _OURS[theirs]):
        return f"it is a convkern.{_OURS[theirs].__name__}"
    if type(layer) is not theirs:
        return f"it is a subclass of nn.{theirs.__name__}, {type(layer).__qualname__}"
    if not {"forward", "_conv_forward"}.isdisjoint(vars(layer)):
        return "its forward was replaced"
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return "it has no weight"
    if _has_functions_of_its_own(type(weight)):
        function = "conv2d" if theirs is nn.Conv2d else "linear"
        return (
            f"its weight is a {type(weight).__qualname__}, which may know torch's {function} only"
        )
    device, dtype = weight.device.type, weight.dtype
    if device not in ("cpu", "cuda", "meta"):
        return f"convkern has no kernels for {device}"
    if not has_kernels(weight, weight, None):
        return f"convkern has no fast kernel for {dtype} in {weight.layout}"
    if isinstance(layer, nn.Linear):
        return "on CUDA torch's is faster" if device == "cuda" else None
    try:
        computes = _computes(layer, weight, "cuda" if device == "cuda" else "cpu")
    except (RuntimeError, TypeError, ValueError) as error:
        return f"it cannot be computed: {error}"
    if computes:
        if device == "cuda" and not force and not _is_faster_on_cuda(layer):
            return "cuDNN was measured to be faster on such layers; force=True replaces it"
        return None
    if device == "cuda":
        return "convkern's CUDA kernels are slower than torch's"
    return f"convkern has no fast kernel for {dtype} with these arguments"


def _is_faster_on_cuda(layer: nn.Conv2d) -> bool:
    """Returns whether convkern was as fast as cuDNN, or faster, on layers of this kind. On an H100
    these were float32 layers of several groups and depthwise layers with large kernels
    (benchmarks/README.md, On a GPU)."""
    if layer.weight.dtype != torch.float32 or layer.groups == 1:
        return False
    return layer.groups < layer.in_channels or min(layer.weight.shape[2:]) >= _LARGE_KERNEL


def _has_functions_of_its_own(cls: type[Tensor]) -> bool:
    """Returns whether a tensor class from outside torch, such as one for quantisation, overrides
    what functions do."""
    definer = next(c for c in cls.__mro__ if "__torch_function__" in vars(c))
    return definer.__module__.partition(".")[0] != "torch"


def _computes(layer: nn.Conv2d, weight: Tensor, device: str) -> bool:
    """Returns whether a kernel other than the reference one runs the layer, on an image that is a
    little larger than the kernel. Only the sizes of the weight are read, because it may have no
    data or be in parts."""
    if device == "cuda" and _C.build_info()["cuda"] is None:
        return False
    padding: Any = layer.padding if layer.padding_mode == "zeros" else 0
    with unset_fake_temporarily():
        w = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="meta")
        extents = zip(w.shape[2:], pair(layer.dilation, "dilation"), strict=False)
        sizes = [extent * spacing + 16 for extent, spacing in extents]
        image = w.new_empty(1, layer.in_channels, *sizes)
        x, steps, pads, spacing = canonical(image, w, layer.stride, padding, layer.dilation)
        groups = layer.groups
        torch.ops.convkern.conv2d(x, w, None, steps, pads, spacing, groups)  # only checks
        problem = forward_problem(x, w, False, steps, pads, spacing, groups)
        return not _C.plan(problem, device)["reference"]
