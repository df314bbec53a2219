"""replace_conv2d and restore_conv2d: convkern's layer in models that others have written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from convkern.explanation import explain_conv2d
from convkern.modules import Conv2d

_MARK = "_replaced_by_convkern"


@dataclass(frozen=True)
class Replacement:
    """What :func:`replace_conv2d` did. ``str()`` gives it as text.

    Attributes:
        replaced: the names of the layers that now are convkern's.
        kept: why not, by the names of the other nn.Conv2d.
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
    """Makes the nn.Conv2d layers of a model :class:`convkern.Conv2d`, in place.

    The module objects stay, with their parameters, buffers, hooks and names; only their class
    changes, so that optimizers, state_dicts and references to layers remain valid. Layers that
    convkern computes with its slow reference kernel only, or that are more than a plain nn.Conv2d,
    are kept.

    Args:
        model: any module, the layer itself included.
        when: called with the name and the layer; it is kept where that returns False.

    Raises:
        TypeError: model is not a module.
    """
    result = Replacement([], {})
    for name, layer in _layers(model):
        why = why_kept(layer)
        if why is None and when is not None and not when(name, layer):
            why = "`when` is False for it"
        if why is not None:
            result.kept[name] = why
            continue
        layer.__class__ = Conv2d
        setattr(layer, _MARK, True)
        result.replaced.append(name)
    return result


def restore_conv2d(model: nn.Module) -> list[str]:
    """Undoes :func:`replace_conv2d`, also in a copy of the model, and returns the names of the
    layers that are nn.Conv2d again. A convkern.Conv2d that was built as one stays.

    Raises:
        TypeError: model is not a module.
    """
    names = []
    for name, layer in _layers(model):
        if _MARK in vars(layer):
            delattr(layer, _MARK)
            layer.__class__ = nn.Conv2d
            names.append(name)
    return names


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, module


def why_kept(layer: nn.Conv2d) -> str | None:
    """Why replace_conv2d leaves a layer as it is; None if it replaces it."""
    if isinstance(layer, Conv2d):
        return "it is a convkern.Conv2d"
    if type(layer) is not nn.Conv2d:
        return f"it is a subclass of nn.Conv2d, {type(layer).__qualname__}"
    if not {"forward", "_conv_forward"}.isdisjoint(vars(layer)):
        return "its forward was replaced"
    device, dtype = layer.weight.device.type, layer.weight.dtype
    if device not in ("cpu", "cuda", "meta"):
        return f"convkern has no kernels for {device}"
    if device == "cuda" and not _computes(layer, "cuda"):
        return "convkern's CUDA kernels are slower than torch's"
    if device != "cuda" and not _computes(layer, "cpu"):
        return f"convkern has no fast kernel for {dtype} with these arguments"
    return None


def _computes(layer: nn.Conv2d, device: str) -> bool:
    """Whether a kernel other than the reference one runs the layer, on an image that is a little
    larger than the kernel."""
    height, width = (
        extent * spacing + 16
        for extent, spacing in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    weight = layer.weight.detach()
    image = torch.empty(1, layer.in_channels, height, width, dtype=weight.dtype, device="meta")
    padding = layer.padding if layer.padding_mode == "zeros" else 0
    try:
        plan = explain_conv2d(
            image, weight, None, layer.stride, padding, layer.dilation, layer.groups, device=device
        )
    except ValueError:  # this build has no kernels for the device
        return False
    return plan.kernel != "torch" and ".reference." not in plan.kernel
