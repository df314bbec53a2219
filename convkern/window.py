"""The stride, padding and dilation of a convolution: every form in which users write them, the
numbers that the ops take, and the sizes of the output that follow."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convkern.choices import Padding, PaddingMode, Sides
from convkern.reference import pair

_NAMES = ("same", "valid", "same_upper", "same_lower")
# The modes by the names that torch.nn.functional.pad has for them, and these names by the modes.
MODES_OF_PAD: dict[Any, PaddingMode] = {
    "constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"
}  # fmt: skip
PADS_OF_MODES = {mode: name for name, mode in MODES_OF_PAD.items()}


def op_padding(
    padding: Any,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    function: str = "conv2d",
) -> list[int]:
    """Returns a padding as the ops take it: two integers (rows, columns) for both sides of each
    axis, or four (top, bottom, left, right)."""
    if not isinstance(padding, str):
        return paddings(padding, function)
    check_name(padding, function)
    if padding == "valid":
        return [0, 0]
    if padding == "same" and any(s != 1 for s in stride):
        raise RuntimeError(
            f"{function}: padding='same' is not supported for strided convolutions, "
            f"got stride={tuple(stride)}"
        )
    if min(*stride, *dilation) < 1 or min(kernel) < 1:
        return [0, 0]  # the op names the broken rule
    axes = zip(size, kernel, stride, dilation, strict=True)
    sides = [_same(padding, *axis) for axis in axes]
    if padding == "same" or _are_ones(stride):
        return shortest(sides)
    return [n for side in sides for n in side]  # a comparison would make a tracer guard on it


def check_name(padding: str, function: str) -> None:
    """Raises RuntimeError, as torch does, unless there is a padding of this name."""
    if padding not in _NAMES:
        names = " or ".join(map(repr, _NAMES[:2]))
        raise RuntimeError(
            f"{function}: Invalid padding string: {padding!r}, must be {names}, "
            "or 'same_upper' or 'same_lower' as in ONNX"
        )


def _are_ones(stride: Sequence[int]) -> bool:
    return all(isinstance(s, int) and s == 1 for s in stride)


def is_torchs(padding: Any) -> bool:
    """Returns whether torch's conv2d takes a padding of this form too."""
    if isinstance(padding, str):
        return not padding.startswith("same_")
    return not isinstance(padding, (list, tuple)) or not any(
        isinstance(sides, (list, tuple)) for sides in padding
    )


def shortest(sides: Sequence[tuple[int, int]]) -> list[int]:
    """Returns ((top, bottom), (left, right)) as the ops take it, as two integers if it is known to
    be symmetric."""
    (top, bottom), (left, right) = sides
    known = all(isinstance(n, int) for n in (top, bottom, left, right))
    symmetric = known and (top, left) == (bottom, right)
    return [top, left] if symmetric else [top, bottom, left, right]


def sides_of(padding: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns a padding of two or four integers as ((top, bottom), (left, right))."""
    if len(padding) == 2:
        return (padding[0], padding[0]), (padding[1], padding[1])
    return (padding[0], padding[1]), (padding[2], padding[3])


def _same(name: str, size: int, taps: int, stride: int, dilation: int) -> tuple[int, int]:
    """Returns the zeros before and after an axis for an output of ceil(size / stride)."""
    total: Any = dilation * (taps - 1)
    if name != "same" and not _are_ones([stride]):
        if not isinstance(size, (int, torch.SymInt)):
            size = int(size)  # of jit.trace, which warns that the traced padding is a constant
        total = torch.sym_max((-(-size // stride) - 1) * stride + total + 1 - size, 0)
    more, less = (total + 1) // 2, total // 2
    return (more, less) if name == "same_lower" else (less, more)


def pad_by_torch(x: Tensor, padding: Sequence[int], mode: PaddingMode) -> Tensor:
    """Returns a copy of the images with cells around them, made by torch. The padding is as the ops
    take it."""
    return F.pad(x, pad_of(padding), mode=PADS_OF_MODES[mode])


def pad_of(padding: Sequence[int]) -> list[int]:
    """Returns a padding of two or four integers as torch.nn.functional.pad takes it, the last axis
    first."""
    rows, columns = sides_of(padding)
    return [*columns, *rows]


def composed(x: Tensor, padding: Sequence[int], mode: PaddingMode) -> tuple[Tensor, Sequence[int]]:
    """Returns images and a padding that torch's own conv2d takes for them. It knows zeros only, as
    many on both sides."""
    if mode == "zeros" and len(padding) == 2:
        return x, padding
    return pad_by_torch(x, padding, mode), [0, 0]


def with_pad_in_front(
    padding: Sequence[int], mode: Any, pad: Any, pad_mode: Any = "constant", value: Any = None
) -> tuple[list[int], PaddingMode] | None:
    """Returns the padding and mode of a convolution of images that takes in a call of torch's pad
    in front of it, or None if it cannot.

    Args:
        padding, mode: those of the convolution, as the ops take them.
        pad, pad_mode, value: the arguments of the pad.
    """
    if pad_mode not in MODES_OF_PAD or value or len(pad) not in (2, 4):
        return None
    new_mode = MODES_OF_PAD[pad_mode]
    left, right, top, bottom = (*pad, 0, 0)[:4]
    outer = sides_of(padding)
    own = any(n != 0 for side in outer for n in side)
    if min(left, right, top, bottom) < 0 or (own and (new_mode, mode) != ("zeros", "zeros")):
        return None
    (a, b), (c, d) = outer
    return shortest([(a + top, b + bottom), (c + left, d + right)]), new_mode


def output_size(
    input: int | Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides | Padding = 0,
    dilation: int | Sequence[int] = 1,
) -> tuple[int, int]:
    """Returns the rows and columns of the output, floor((n + before + after - d(k - 1) - 1) / s) +
    1 for each axis.

    Every argument is one int for both axes or a pair (rows, columns). padding takes all forms that
    it has in :func:`convkern.conv2d`.

    Raises:
        ValueError: an argument is out of range, or the dilated kernel exceeds the padded input.

    Example:
        >>> convkern.output_size(224, 3, stride=2, padding="same_upper")
        (112, 112)
    """
    sizes, kernels = pair(input, "input"), pair(kernel, "kernel")
    strides, dilations = pair(stride, "stride"), pair(dilation, "dilation")
    _check_least(sizes, kernels, strides, dilations)
    if padding == "same" and strides != (1, 1):
        raise ValueError(f"padding='same' needs stride 1, got stride={strides}")
    if isinstance(padding, str) and padding not in _NAMES:
        names = ", ".join(map(repr, _NAMES))
        raise ValueError(f"padding must be one of {names}, got padding={padding!r}")
    try:
        pads = sides_of(op_padding(padding, sizes, kernels, strides, dilations))
    except (RuntimeError, TypeError):
        raise ValueError(
            "padding must be an int, a (rows, columns) pair or ((top, bottom), (left, right)), got "
            f"padding={padding!r}"
        ) from None
    if min(pads[0] + pads[1]) < 0:
        raise ValueError(f"padding must be at least 0, got padding={padding!r}")
    result = []
    for n, k, s, (before, after), d in zip(sizes, kernels, strides, pads, dilations, strict=True):
        extent, padded = d * (k - 1) + 1, n + before + after
        if extent > padded:
            raise ValueError(
                f"kernel must not exceed the padded input, got extent {extent} on {padded}"
            )
        result.append((padded - extent) // s + 1)
    return result[0], result[1]


def _check_least(*arguments: tuple[int, int]) -> None:
    """Raises ValueError unless the sizes of the input, the kernel, the stride and the dilation are
    in range."""
    rules = (("input", 0), ("kernel", 1), ("stride", 1), ("dilation", 1))
    for values, (name, least) in zip(arguments, rules, strict=True):
        if min(values) < least:
            raise ValueError(f"{name} must be at least {least}, got {name}={values}")


def same_padding(
    kernel: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    *,
    input: int | Sequence[int] | None = None,
    stride: int | Sequence[int] = 1,
    lower: bool = False,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the cells before and after each axis, ((top, bottom), (left, right)), that give
    ceil(input / stride) rows and columns of the output, and so keep the size at stride 1.

    The cells of an axis are half before and half after the input. An odd one goes after the input,
    as in torch and for ONNX's ``"same_upper"`` and TensorFlow's ``"SAME"``, or before it if `lower`
    is True (``"same_lower"``).

    Args:
        kernel, dilation, stride: one int, or a pair (rows, columns).
        input: the rows and columns of the input, on which the padding depends if the stride is
            greater than 1.

    Raises:
        ValueError: an argument is out of range, or there is a stride and no input.

    Example:
        >>> convkern.same_padding(3, input=224, stride=2)
        ((0, 1), (0, 1))
    """
    kernels, dilations = pair(kernel, "kernel"), pair(dilation, "dilation")
    strides = pair(stride, "stride")
    if input is None and strides != (1, 1):
        raise ValueError(f"same_padding needs the input's size for stride={strides}")
    sizes = (1, 1) if input is None else pair(input, "input")
    _check_least(sizes, kernels, strides, dilations)
    name = "same_lower" if lower else "same_upper"
    axes = zip(sizes, kernels, strides, dilations, strict=True)
    rows, columns = (_same(name, *axis) for axis in axes)
    return rows, columns


def sizes_of(t: Tensor) -> tuple[int, int]:
    """Returns the rows and columns of a kernel, also where jit.trace has them as tensors."""
    rows, columns = t.shape[-2:]
    if isinstance(rows, (int, torch.SymInt)):
        return rows, columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int(rows), int(columns)


def paddings(value: Any, function: str = "conv2d") -> list[int]:
    """Returns a padding in numbers as the ops take it."""
    if isinstance(value, (list, tuple)) and any(isinstance(v, (list, tuple)) for v in value):
        sides = [list(v) if isinstance(v, (list, tuple)) else [v, v] for v in value]
        if len(sides) != 2 or any(len(v) != 2 for v in sides):
            raise TypeError(
                f"{function}: padding must be an integer, two, or ((top, bottom), (left, right)), "
                f"got padding={value!r}"
            )
        numbers = [[integer(n, "padding", value, function) for n in v] for v in sides]
        return shortest([(before, after) for before, after in numbers])
    pads = integers(value, "padding", function)
    if len(pads) != 2:
        raise RuntimeError(
            f"{function}: expected padding to be a single integer value or a list of 2 values to "
            f"match the convolution dimensions, but got padding={pads}"
        )
    return pads


def integers(value: Any, name: str, function: str = "conv2d") -> list[int]:
    """Returns one integer, or a sequence of one or two integers, as two integers."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    values = [integer(v, name, value, function) for v in values]
    return values * 2 if len(values) == 1 else values


def integer(value: Any, name: str, given: Any, function: str = "conv2d") -> int:
    """Returns the value as an int. int, symbolic int, NumPy's integers and tensors of one integer
    count as integers. Anything else raises TypeError, including bool."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    try:
        if isinstance(value, bool):
            raise TypeError
        # index() would make torch.compile replace a symbolic int by the constant that it is now.
        number = value if type(value) is int else operator.index(value)
    except TypeError:
        raise TypeError(
            f"{function}: {name} must be an integer{' or two' * (name != 'groups')}, "
            f"got {name}={given!r}"
        ) from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{function}: {name} must fit int64, got {name}={given!r}")
    return number
