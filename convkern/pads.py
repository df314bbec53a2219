"""Pads directly in front of convolutions, which then need no padded copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_modules

from convkern.choices import PaddingMode
from convkern.conv1d import Conv1d, conv1d, torch_conv1d
from convkern.functional import conv2d, exporting_to_onnx, has_kernels, torch_conv2d
from convkern.modules import Conv2d
from convkern.window import MODES_OF_PAD, PADS_OF_MODES

torch_pad = F.pad  # a program may put another function in its place

# A padded copy of fewer elements takes less time than to find out that it is not needed.
_LEAST_ELEMENTS = 1 << 16

_PAD_CODE = F.pad.__code__
_GETATTR = nn.Module.__getattr__
# A program may put other functions in the place of these too, and they may then do anything.
_CALL_CODES = (nn.Module._wrapped_call_impl.__code__, nn.Module._call_impl.__code__)
_SEQUENTIAL_CODE = nn.Sequential.forward.__code__
# Layers of torch: their code pads the input and gives it to the function, in one expression.
_LAYER_CODES = frozenset({nn.Conv1d._conv_forward.__code__, nn.Conv2d._conv_forward.__code__})
_PAD_LAYERS: frozenset[Any] = frozenset({
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d,
    nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d,
    nn.CircularPad2d,
})  # fmt: skip
_PAD_LAYER_CODES = frozenset(layer.forward.__code__ for layer in _PAD_LAYERS)
_CONV_LAYERS = {
    layer: (layer.forward, layer._conv_forward) for layer in (nn.Conv1d, nn.Conv2d, Conv1d, Conv2d)
}
# timm's function for Conv2dSame consists of one pad and one convolution of it. Its code may differ
# in other versions of timm, so these are the names that it may use.
_TIMM_FILE = "timm.layers.conv2d_same"
_TIMM_NAMES = {"pad_same", "shape", "F", "conv2d"}


class PaddedInput:
    """What a pad returns in code that gives it to a convolution at once: the input and the pad.

    Only code that this file knows gets one, and nothing of a program runs before it is used up. So
    it is no tensor. Anything but a convolution that meets it computes the padded tensor.

    Attributes:
        input: the tensor without the pad.
        sides: the elements at (start, end) of each of the last axes, in their order.
        mode: the mode by the name that layers have for it.
    """

    __slots__ = ("_padded", "input", "mode", "sides")

    def __init__(
        self, input: Tensor, sides: tuple[tuple[int, int], ...], mode: PaddingMode
    ) -> None:
        self.input, self.sides, self.mode = input, sides, mode
        self._padded: Tensor | None = None

    def sides_with(self, padding: Any, axes: int) -> tuple[tuple[int, int], ...] | None:
        """Returns the sides together with the padding of a convolution of so many axes. Returns
        None if one pad cannot do both."""
        own = (padding,) * axes if type(padding) is int else padding
        if isinstance(own, list):
            own = tuple(own)
        if padding == "valid":
            own = (0,) * axes
        if not isinstance(own, tuple) or not all(type(p) is int and p >= 0 for p in own):
            return None
        own = own * axes if len(own) == 1 else own
        if len(own) != axes or len(self.sides) > axes:
            return None
        if self.mode != "zeros" and any(own):
            return None
        sides = ((0, 0),) * (axes - len(self.sides)) + self.sides
        return tuple((a + p, b + p) for (a, b), p in zip(sides, own, strict=True))

    def tensor(self) -> Tensor:
        """Returns the padded tensor, which is computed once."""
        if self._padded is None:
            amounts = [n for side in reversed(self.sides) for n in side]
            self._padded = torch_pad(self.input, amounts, mode=PADS_OF_MODES[self.mode])
        return self._padded

    def is_recorded(self, *others: Tensor | None) -> bool:
        """Returns whether a convolution of the input and these tensors is recorded for derivatives.
        Then the input would be saved in place of a padded copy. A program may change the input in
        place after the convolution, which would be an error, and is none with the copy."""
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return True
        tensors = [t for t in (self.input, *others) if isinstance(t, Tensor)]
        return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        def plain(value: Any) -> Any:
            return value.tensor() if isinstance(value, cls) else value

        named = {name: plain(value) for name, value in (kwargs or {}).items()}
        return func(*map(plain, args), **named)


def padded_input(
    input: Any, pad: Any, mode: str = "constant", value: float | None = None
) -> PaddedInput | None:
    """Returns what stands for F.pad's result if the code that calls it is known to give it to a
    convolution at once, and None if torch is to pad."""
    if type(input) is not Tensor or torch._C._is_tracing() or input.numel() < _LEAST_ELEMENTS:
        return None
    if not _goes_to_a_convolution(sys._getframe(1)):
        return None
    if mode not in MODES_OF_PAD or (mode == "constant" and value not in (None, 0)):
        return None
    if not has_kernels(input, input, None) or exporting_to_onnx():
        return None
    sides = _sides(input, pad, mode)
    return None if sides is None else PaddedInput(input, sides, MODES_OF_PAD[mode])


def _sides(input: Tensor, pad: Any, mode: str) -> tuple[tuple[int, int], ...] | None:
    """Returns the elements at (start, end) of each of the last axes. Returns None for a pad that is
    no matter of a convolution, or that torch refuses."""
    if not isinstance(pad, Sequence) or len(pad) not in (2, 4):
        return None
    if not all(type(n) is int and n >= 0 for n in pad):
        return None
    axes = len(pad) // 2
    if not axes + 1 <= input.dim() <= (4 if mode == "constant" else axes + 2):
        return None
    sides = tuple((pad[i], pad[i + 1]) for i in range(2 * axes - 2, -1, -2))
    for size, side in zip(input.shape[-axes:], sides, strict=True):
        most = {"reflect": size - 1, "circular": size}.get(mode, max(side))
        if size < 1 or max(side) > most:
            return None
    return sides


def _goes_to_a_convolution(frame: FrameType | None) -> bool:
    """Returns whether the code that called F.pad is known to give the result to a convolution
    before anything else runs. `frame` is inside the call of F.pad."""
    for _ in range(8):  # the frames of torch's way from F.pad to here
        if frame is None:
            return False
        if frame.f_code is _PAD_CODE:
            break
        frame = frame.f_back
    else:
        return False
    caller = frame.f_back
    above = None if caller is None else caller.f_back
    if caller is None or above is None:
        return False
    if F.conv1d not in (torch_conv1d, conv1d) or F.conv2d not in (torch_conv2d, conv2d):
        return False
    if caller.f_code in _LAYER_CODES:
        return _has_plain_attributes(caller.f_locals.get("self"))
    if caller.f_code.co_name == "pad_same":
        return _is_timms(above.f_code)
    return caller.f_code in _PAD_LAYER_CODES and _is_in_front(caller, above)


def _has_plain_attributes(layer: Any) -> bool:
    """Returns whether reading a layer's stride, dilation and groups runs no code of a program."""
    cls: Any = type(layer)
    reads = cls.__getattribute__ is object.__getattribute__ and cls.__getattr__ is _GETATTR
    names = ("stride", "dilation", "groups")
    return reads and not any(name in vars(c) for c in cls.__mro__ for name in names)


def _is_timms(code: CodeType) -> bool:
    """Returns whether this is the code of timm's function that pads and convolves."""
    if code.co_name != "conv2d_same" or not _TIMM_NAMES.issuperset(code.co_names):
        return False
    module = sys.modules.get(_TIMM_FILE)
    return getattr(getattr(module, "conv2d_same", None), "__code__", None) is code


def _is_in_front(pad: FrameType, caller: FrameType | None) -> bool:
    """Returns whether this forward of a pad layer is called by an nn.Sequential, in which a layer
    of a convolution follows, and nothing of the program runs between the two."""
    for code in reversed(_CALL_CODES):
        if caller is None or caller.f_code is not code:
            return False
        caller = caller.f_back
    if caller is None or caller.f_code is not _SEQUENTIAL_CODE:
        return False
    layer, sequence = pad.f_locals.get("self"), caller.f_locals.get("self")
    if type(layer) not in _PAD_LAYERS or vars(nn.Sequential)["__iter__"] is not getattr(
        type(sequence), "__iter__", None
    ):
        return False
    parts = list(sequence._modules.values())  # type: ignore[union-attr]
    places = [place for place, part in enumerate(parts) if part is layer]
    if len(places) != 1 or places[0] + 1 == len(parts):
        return False
    conv = parts[places[0] + 1]
    cls: Any = type(conv)
    if cls not in _CONV_LAYERS or conv.padding_mode != "zeros":
        return False
    if _CONV_LAYERS[cls] != (cls.forward, cls._conv_forward):
        return False
    return not (_has_hooks(layer) or _has_hooks(conv) or torch_modules._has_any_global_hook())  # type: ignore[no-untyped-call]


def _has_hooks(layer: Any) -> bool:
    """Returns whether something of the program may run besides the forward of the layer's class."""
    hooks = (
        layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks,
        layer._backward_pre_hooks,
    )  # fmt: skip
    own = not {"forward", "_conv_forward"}.isdisjoint(vars(layer))
    return own or any(hooks) or layer._compiled_call_impl is not None
