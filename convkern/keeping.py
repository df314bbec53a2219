"""Why replace_layers keeps a layer of a model as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from convkern import _C
from convkern.conv1d import Conv1d, ConvTranspose1d, window_of_row
from convkern.functional import canonical, has_kernels
from convkern.modules import Conv2d, Linear
from convkern.problem import forward_problem
from convkern.reference import pair
from convkern.subclasses import derived_class, is_derived
from convkern.transposed import ConvTranspose2d

# torch's layers, and what they become.
OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
}
_FUNCTIONS = {
    nn.Conv2d: "conv2d",
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
}
_NOT_MEASURED = "such layers were not measured on CUDA; force=True replaces it"
_LARGE_KERNEL = 13  # the smallest of the RepLKNet layers that were measured
_TORCHS = {"torch", "torchao"}  # packages whose classes of layers are more than plain ones


def kind_of(layer: nn.Module) -> Any:
    """Returns torch's class in :data:`OURS` that a layer's class is or is derived from, or None."""
    return next((kind for kind in OURS if isinstance(layer, kind)), None)


def why_kept(layer: Any, *, force: bool = False) -> str | None:
    """Returns the reason why replace_layers keeps a layer, or None if it replaces the layer. With
    `force`, it is no reason that cuDNN is faster.

    The layer is of a kind in :data:`OURS`. The weight of a class that someone has derived says
    little: such a layer may compute another one, or have none.
    """
    kind = kind_of(layer)
    plain = type(layer) is kind
    if isinstance(layer, OURS[kind]):
        return f"it is a convkern.{OURS[kind].__name__}"
    if is_derived(layer):
        return "its convolutions run on convkern already"
    if not plain:
        why = _why_not_derived(layer, kind)
        if why is not None:
            return why
    if not {"forward", "_conv_forward"}.isdisjoint(vars(layer)):
        return "its forward was replaced"
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        if plain:
            return "it has no weight"
        on_cuda = any(p.is_cuda for p in layer.parameters())
        return _NOT_MEASURED if on_cuda and not force else None
    if _has_functions_of_its_own(type(weight)):
        cls = type(weight).__qualname__
        return f"its weight is a {cls}, which may know torch's {_FUNCTIONS[kind]} only"
    device, dtype = weight.device.type, weight.dtype
    if device not in ("cpu", "cuda", "meta"):
        return f"convkern has no kernels for {device}"
    if not has_kernels(weight, weight, None):
        return f"convkern has no fast kernel for {dtype} in {weight.layout}"
    if kind is nn.Linear:
        return "on CUDA torch's is faster" if device == "cuda" else None
    try:
        computes = _computes(layer, kind, weight, "cuda" if device == "cuda" else "cpu")
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if plain:
            return f"it cannot be computed: {error}"
        computes = True
    if computes:
        return _why_slower_on_cuda(layer, kind) if device == "cuda" and not force else None
    if device == "cuda":
        return "convkern's CUDA kernels are slower than torch's"
    return f"convkern has no fast kernel for {dtype} with these arguments"


def _why_not_derived(layer: nn.Module, kind: type[nn.Module]) -> str | None:
    """Returns why a layer of a class that is derived from torch's does not become one of a class
    derived from its own, or None."""
    cls = type(layer)
    derived = cls.__mro__[: cls.__mro__.index(kind)]
    if kind is nn.Linear or any(c.__module__.partition(".")[0] in _TORCHS for c in derived):
        return f"it is a subclass of nn.{kind.__name__}, {cls.__qualname__}"
    if any(nn.parameter.is_lazy(p) for p in layer.parameters(recurse=False)):
        return "its sizes are not known before its first input"
    try:
        derived_class(cls)
    except Exception as error:  # whatever a metaclass or __init_subclass__ of someone else raises
        return f"no class can be derived from its class, {cls.__qualname__}: {error}"
    return None


def _why_slower_on_cuda(layer: Any, kind: type[nn.Module]) -> str | None:
    if kind is not nn.Conv2d:
        return _NOT_MEASURED
    if not _is_faster_on_cuda(layer):
        return "cuDNN was measured to be faster on such layers; force=True replaces it"
    return None


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


def _computes(layer: Any, kind: type[nn.Module], weight: Tensor, device: str) -> bool:
    """Returns whether a kernel other than the reference one runs the layer, on an image that is a
    little larger than the kernel. Only the sizes of the weight are read, because it may have no
    data or be in parts. A layer of one dimension is one of images of one row."""
    if device == "cuda" and _C.build_info()["cuda"] is None:
        return False
    transposed = kind in (nn.ConvTranspose1d, nn.ConvTranspose2d)
    padding: Any = layer.padding if layer.padding_mode == "zeros" else 0
    window = [layer.stride, padding, layer.dilation]
    with unset_fake_temporarily():
        w = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="meta")
        if kind in (nn.Conv1d, nn.ConvTranspose1d):
            w = w.unsqueeze(-2)
            window = window_of_row(*window)
        extents = zip(w.shape[2:], pair(window[2], "dilation"), strict=False)
        sizes = [extent * spacing + 16 for extent, spacing in extents]
        # A transposed layer is the gradient of the input of a convolution with the same weight, so
        # that the image here is its result.
        channels = layer.out_channels if transposed else layer.in_channels
        image = w.new_empty(1, channels, *sizes)
        x, steps, pads, spacing = canonical(image, w, *window)
        groups = layer.groups
        torch.ops.convkern.conv2d(x, w, None, steps, pads, spacing, groups)  # only checks
        problem = forward_problem(x, w, False, steps, pads, spacing, groups)
        if transposed:
            problem = _C.Problem(str(problem).replace("_fwd", "_gx"))
        return not _C.plan(problem, device)["reference"]
