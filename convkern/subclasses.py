"""Classes derived from the classes of others' layers, whose convolutions run on convkern."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from convkern.interception import Interception

_BASE = "_convkern_base"


class _OfLayer(Interception):
    _records_ours = True


_INSIDE = _OfLayer()
_known: WeakValueDictionary[type[nn.Module], type[nn.Module]] = WeakValueDictionary()


def derived_class(base: type[nn.Module]) -> type[nn.Module]:
    """Returns the class derived from a layer's class whose forward is the same with convkern's
    functions for torch's (:func:`convkern.enabled`). There is one for each class.

    Its instances are pickled and copied as instances of `base` that are changed again when they
    are read.

    Raises:
        Exception: what the class raises when a class is derived from it.
    """
    found = _known.get(base)
    if found is not None:
        return found

    members = {
        _BASE: base,
        "__module__": base.__module__,
        "__qualname__": f"Convkern{base.__name__}",
        "__doc__": base.__doc__,
        "forward": _forward_of(base),
        "__reduce_ex__": _reduced,
    }
    make: Any = type(base)
    return _known.setdefault(base, make(f"Convkern{base.__name__}", (base,), members))


def _forward_of(base: type[nn.Module]) -> Any:
    # A variable of the closure, as `base` is: the globals below are those of another file.
    inside = _INSIDE

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with inside:
            return base.forward(self, *args, **kwargs)

    # TorchScript knows no modes. It compiles the source of the function that is wrapped, and looks
    # names up in the globals of the wrapper, so these are those of the wrapped function.
    names = getattr(base.forward, "__globals__", globals())
    wrapper: Any = FunctionType(forward.__code__, names, "forward", None, forward.__closure__)
    return functools.wraps(base.forward)(wrapper)


def base_of(cls: type) -> Any:
    """Returns the class that a class of :func:`derived_class` was derived from, and None for any
    other class, also one that is derived further."""
    return vars(cls).get(_BASE)


def is_derived(layer: nn.Module) -> bool:
    """Returns whether the class of a layer is one of :func:`derived_class`, or derived from one."""
    return hasattr(type(layer), _BASE)


def _reduced(self: Any, protocol: Any) -> Any:
    """Returns what pickle and copy need of a layer: the same as of its own class, and a last step.
    The derived class has no name that a reader could import."""
    cls = type(self)
    ours: Any = next(c for c in cls.__mro__ if base_of(c) is not None)
    reduced = super(ours, self).__reduce_ex__(protocol)
    if cls is not ours or not isinstance(reduced, tuple):
        return reduced  # someone has derived a class from ours, and pickles it
    base = base_of(cls)
    make, arguments, *rest = reduced
    return _made, (make, tuple(base if a is cls else a for a in arguments)), *rest


def _made(make: Any, arguments: tuple[Any, ...]) -> Any:
    """Makes a layer of its own class, as pickle would, and changes its class."""
    layer = make(*arguments)
    layer.__class__ = derived_class(type(layer))
    return layer
