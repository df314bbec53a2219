"""replace_layers, replace_conv2d and their inverses put convkern's layers into existing models, and
take them out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from convkern.keeping import OURS, kind_of, why_kept
from convkern.measuring import slower_layers
from convkern.subclasses import base_of, derived_class, is_derived

_MARK = "_replaced_by_convkern"


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
    _classes: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.kept)} layers replaced"]
        groups: dict[tuple[str, str], list[str]] = {}
        for name, why in self.kept.items():
            groups.setdefault((self._classes.get(name, "layer"), why), []).append(name)
        for (cls, why), names in groups.items():
            if len(names) == 1:
                lines.append(f"kept {names[0] or 'the model itself'}: {why}")
            else:
                shown = ", ".join([*names[:3], *["..."] * (len(names) > 3)])
                lines.append(f"kept {len(names)}x {cls}: {why} ({shown})")
        return "\n".join(lines)


def replace_layers(
    model: nn.Module,
    when: Callable[[str, nn.Module], bool] | None = None,
    *,
    measure: bool = False,
    example: Tensor | tuple[Any, ...] | None = None,
    force: bool = False,
) -> Replacement:
    """Turns the layers of a model into convkern's, in place: nn.Conv1d, nn.Conv2d,
    nn.ConvTranspose1d, nn.ConvTranspose2d and nn.Linear into :class:`convkern.Conv1d`,
    :class:`convkern.Conv2d`, :class:`convkern.ConvTranspose1d`, :class:`convkern.ConvTranspose2d`
    and :class:`convkern.Linear`.

    Layers whose class someone has derived from one of the four convolutions' classes, such as
    timm's StdConv2d, become of a class derived from their own. Its forward is theirs, with
    convkern's functions in the place of torch's (:func:`convkern.enabled`). It has their name with
    "Convkern" in front.

    The module objects stay, with their parameters, buffers, hooks and names. Only their class
    changes, so that optimizers, state_dicts and references to layers remain valid. Models can be
    copied and pickled. ``isinstance`` still finds the class of before.

    Some layers are kept as they are. These are layers that convkern computes with its slow
    reference kernel only, classes derived from nn.Linear, layers whose sizes are not known yet,
    plain layers without a weight, layers whose own forward was replaced, and classes of torch that
    are more than a plain layer: parametrized, sharded and quantised ones. Replace such layers
    before, or call the model inside :func:`convkern.enabled`. On CUDA, layers of kinds for which
    cuDNN was measured to be faster, or that were not measured, are kept too.

    Args:
        model: any module, including a single layer.
        when: called with the name and the layer; the layer is kept where it returns False. If it
            raises, the model stays as it is.
        measure: time each different layer once, by torch and by convkern, and keep those that torch
            computes faster: forward, and backward too if the model is in training mode. The sizes
            are those of the example, for which the model runs once.
        example: an input of the model, or a tuple of its arguments, for `measure`.
        force: replace layers on CUDA for which cuDNN was measured to be faster, or that were not
            measured.

    Raises:
        TypeError: model is not a module.
        ValueError: `measure` is True and there is no example.

    Example:
        >>> print(convkern.replace_layers(nn.Sequential(nn.Conv2d(3, 8, 4), nn.Linear(8, 8))))
        2 of 2 layers replaced
    """
    return _replace(model, when, tuple(OURS), measure, example, force)


def replace_conv2d(
    model: nn.Module,
    when: Callable[[str, nn.Conv2d], bool] | None = None,
    *,
    measure: bool = False,
    example: Tensor | tuple[Any, ...] | None = None,
    force: bool = False,
) -> Replacement:
    """Does what :func:`replace_layers` does with the nn.Conv2d layers of a model only, and those of
    classes derived from nn.Conv2d."""
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
    reasons = {layer: why_kept(layer, force=force) for _, layer in found}
    slower: dict[nn.Module, str] = {}
    if measure:
        slower = slower_layers(model, [each for each, why in reasons.items() if not why], example)
    for name, layer in found:
        why = reasons[layer] or slower.get(layer)
        if why is None and when is not None and not when(name, layer):
            why = "`when` is False for it"
        if why is not None:
            result.kept[name] = why
            result._classes[name] = type(layer).__name__
        else:
            result.replaced.append(name)
            layers.append(layer)
    # Decide on all layers, and derive classes, before changing any.
    for layer, cls in [(layer, _class_for(layer)) for layer in layers]:
        layer.__class__ = cls
        setattr(layer, _MARK, True)
    return result


def _class_for(layer: nn.Module) -> type[nn.Module]:
    cls = type(layer)
    return OURS.get(cls) or derived_class(cls)


def restore_layers(model: nn.Module) -> list[str]:
    """Undoes :func:`replace_layers` and :func:`replace_conv2d`, also in a copy of the model.
    Returns the names of the layers that are torch's again. A layer that was built as one of
    convkern's stays one.

    Layers that torch has parametrized or sharded in between stay so. A layer that has become
    another subclass of convkern's class stays what it is, with a warning.

    Raises:
        TypeError: model is not a module.
    """
    return _restore(model, tuple(OURS), "restore_layers")


def restore_conv2d(model: nn.Module) -> list[str]:
    """Does what :func:`restore_layers` does with the nn.Conv2d layers of a model only."""
    return _restore(model, (nn.Conv2d,), "restore_conv2d")


def _restore(model: nn.Module, kinds: Sequence[type[nn.Module]], caller: str) -> list[str]:
    names = []
    for name, layer, kind in _layers(model, kinds):
        if _MARK not in vars(layer) and not is_derived(layer):
            continue
        theirs = _restored(type(layer), kind)
        if theirs is None:
            warnings.warn(
                f"convkern: {caller} leaves {name or 'the model itself'} as it is: its class has "
                f"become {type(layer).__qualname__}, a subclass of {_named(type(layer), kind)}",
                stacklevel=3,
            )
            continue
        vars(layer).pop(_MARK, None)  # derived classes with a __reduce__ of their own lose it
        if theirs is not type(layer):
            layer.__class__ = theirs
            names.append(name)
    return names


def _restored(cls: Any, kind: type[nn.Module]) -> Any:
    """Returns a layer's class with the class of before in the place of convkern's. torch itself
    derives classes from it, for parametrizations and in fully_shard. Returns None if someone else
    derived the class."""
    if _ours_of(cls, kind) is None:
        return cls
    if base_of(cls) is not None:
        return base_of(cls)
    if cls is OURS[kind]:
        return kind
    bases = tuple(_restored(base, kind) for base in cls.__bases__)
    if not cls.__module__.startswith("torch.") or None in bases:
        return None
    members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__, bases, members)


def _ours_of(cls: Any, kind: type[nn.Module]) -> Any:
    """Returns the class of convkern's that a class is or is derived from, or None. One that is
    itself derived from convkern.Conv2d, by someone else, is no class of convkern's."""
    return next((c for c in cls.__mro__ if base_of(c) is not None or c is OURS[kind]), None)


def _named(cls: Any, kind: type[nn.Module]) -> str:
    ours = _ours_of(cls, kind)
    return f"convkern.{ours.__name__}" if ours is OURS[kind] else ours.__name__


def _layers(
    model: nn.Module, kinds: Sequence[type[nn.Module]]
) -> Iterator[tuple[str, Any, type[nn.Module]]]:
    """Yields the layers of torch's classes `kinds`, or of classes derived from them, with their
    names and torch's class."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind in kinds:
            yield name, module, kind
