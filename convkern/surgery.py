"""replace_conv2d and restore_conv2d put convkern's layer into existing models, and take it out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from convkern import _C
from convkern.functional import canonical, has_kernels
from convkern.modules import Conv2d
from convkern.problem import forward_problem
from convkern.reference import pair

_MARK = "_replaced_by_convkern"


@dataclass(frozen=True)
class Replacement:
    """The outcome of :func:`replace_conv2d`. ``str()`` gives it as text.

    Attributes:
        replaced: the names of the layers that are convkern's now.
        kept: for each other nn.Conv2d, its name and the reason why it was kept.
    """

    replaced: list[str]
    kept: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.kept)} layers replaced"]
        lines += [f"kept {name or 'the model itself'}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines)


def replace_conv2d(
    model: nn.Module, when: Callable[[str, nn.Conv2d], bool] | None = None
) -> Replacement:
    """Turns the nn.Conv2d layers of a model into :class:`convkern.Conv2d`, in place.

    The module objects stay, with their parameters, buffers, hooks and names. Only their class
    changes, so that optimizers, state_dicts and references to layers remain valid.

    Some layers are kept as they are. These are layers that convkern computes with its slow
    reference kernel only, layers that are more than a plain nn.Conv2d, and layers without a weight.
    Parametrized and sharded layers are more than plain: replace them before.

    Args:
        model: any module, including a single layer.
        when: called with the name and the layer; the layer is kept where it returns False. If it
            raises, the model stays as it is.

    Raises:
        TypeError: model is not a module.
    """
    result, layers = Replacement([], {}), []
    for name, layer in _layers(model):
        why = why_kept(layer)
        if why is None and when is not None and not when(name, layer):
            why = "`when` is False for it"
        if why is not None:
            result.kept[name] = why
        else:
            result.replaced.append(name)
            layers.append(layer)
    for layer in layers:  # decide on all layers before changing any
        layer.__class__ = Conv2d
        setattr(layer, _MARK, True)
    return result


def restore_conv2d(model: nn.Module) -> list[str]:
    """Undoes :func:`replace_conv2d`, also in a copy of the model. Returns the names of the layers
    that are nn.Conv2d again. A layer that was built as a convkern.Conv2d stays one.

    Layers that torch has parametrized or sharded in between stay so. A layer that has become
    another subclass of convkern.Conv2d stays what it is, with a warning.

    Raises:
        TypeError: model is not a module.
    """
    names = []
    for name, layer in _layers(model):
        if _MARK not in vars(layer):
            continue
        theirs = _restored(type(layer))
        if theirs is None:
            warnings.warn(
                f"convkern: restore_conv2d leaves {name or 'the model itself'} as it is: its class "
                f"has become {type(layer).__qualname__}, a subclass of convkern.Conv2d",
                stacklevel=2,
            )
            continue
        delattr(layer, _MARK)
        if theirs is not type(layer):
            layer.__class__ = theirs
            names.append(name)
    return names


def _restored(cls: Any) -> Any:
    """Returns a layer's class with nn.Conv2d in the place of Conv2d. torch itself derives classes
    from Conv2d, for parametrizations and in fully_shard. Returns None if someone else derived the
    class."""
    if not issubclass(cls, Conv2d):
        return cls
    if cls is Conv2d:
        return nn.Conv2d
    bases = tuple(map(_restored, cls.__bases__))
    if not cls.__module__.startswith("torch.") or None in bases:
        return None
    members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__, bases, members)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, module


def why_kept(layer: nn.Conv2d) -> str | None:
    """Returns the reason why replace_conv2d keeps a layer, or None if it replaces the layer."""
    if isinstance(layer, Conv2d):
        return "it is a convkern.Conv2d"
    if type(layer) is not nn.Conv2d:
        return f"it is a subclass of nn.Conv2d, {type(layer).__qualname__}"
    if not {"forward", "_conv_forward"}.isdisjoint(vars(layer)):
        return "its forward was replaced"
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return "it has no weight"
    if _has_functions_of_its_own(type(weight)):
        return f"its weight is a {type(weight).__qualname__}, which may know torch's conv2d only"
    device, dtype = weight.device.type, weight.dtype
    if device not in ("cpu", "cuda", "meta"):
        return f"convkern has no kernels for {device}"
    if not has_kernels(weight, weight, None):
        return f"convkern has no fast kernel for {dtype} in {weight.layout}"
    try:
        computes = _computes(layer, weight, "cuda" if device == "cuda" else "cpu")
    except (RuntimeError, TypeError, ValueError) as error:
        return f"it cannot be computed: {error}"
    if computes:
        return None
    if device == "cuda":
        return "convkern's CUDA kernels are slower than torch's"
    return f"convkern has no fast kernel for {dtype} with these arguments"


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
        problem = forward_problem(x, w, False, steps, pads, spacing, groups, False)
        return not _C.plan(problem, device)["reference"]
