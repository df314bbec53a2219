"""Cross-correlation in plain Python loops: the definition that everything else is checked against.

It is slow on purpose, because it is written to be read. Each output is the sum of a window of the
padded input times the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from convkern.choices import PaddingMode, Sides


def pair(value: Any, name: str) -> tuple[int, int]:
    """Returns one int, or a (rows, columns) pair of ints, as a pair.

    Raises:
        ValueError: `value` is neither.
    """
    integers = (int, torch.SymInt)  # symbolic while a compiler traces
    values = (value, value) if isinstance(value, integers) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, integers) for v in values):
        raise ValueError(f"{name} must be an int or a (rows, columns) pair, got {name}={value!r}")
    return values


def sides(padding: int | Sequence[int] | Sides) -> Sides:
    """Returns a padding of 2D as ((top, bottom), (left, right)): one int for all sides, (rows,
    columns) for both sides of each axis, or all four.

    Raises:
        ValueError: `padding` is none of these, or a number is negative.

    >>> sides((1, 2)), sides(((0, 1), (3, 0)))
    (((1, 1), (2, 2)), ((0, 1), (3, 0)))
    """
    axes = (padding, padding) if isinstance(padding, int) else padding
    try:
        rows, columns = (pair(axis, "padding") for axis in axes)
    except (TypeError, ValueError):
        raise ValueError(
            "padding must be an int, a (rows, columns) pair or ((top, bottom), (left, right)), got "
            f"padding={padding!r}"
        ) from None
    if min(rows + columns) < 0:
        raise ValueError(f"padding must not be negative, got padding={padding!r}")
    return rows, columns


def cell_at(place: int, size: int, mode: PaddingMode = "zeros") -> int | None:
    """Returns the number of the cell whose value a place holds, on an axis of `size` cells and
    padding around them; None for a zero. The cells are the places 0 to size - 1. Places before them
    are negative.

    "replicate" repeats the nearest cell. "reflect" goes back from the edge cell, which is not
    repeated. "circular" starts again from the other side.

    Raises:
        ValueError: there is no such mode, the axis has no cells, or the place is beyond those of
            the mode: size - 1 on each side for "reflect", size for "circular".

    >>> for mode in ("zeros", "replicate", "reflect", "circular"):
    ...     print(mode, [cell_at(place, 5, mode) for place in range(-2, 7)])
    zeros [None, None, 0, 1, 2, 3, 4, None, None]
    replicate [0, 0, 0, 1, 2, 3, 4, 4, 4]
    reflect [2, 1, 0, 1, 2, 3, 4, 3, 2]
    circular [3, 4, 0, 1, 2, 3, 4, 0, 1]
    """
    if mode not in get_args(PaddingMode):
        raise ValueError(f"mode must be one of {get_args(PaddingMode)}, got mode={mode!r}")
    if 0 <= place < size:
        return place
    if mode == "zeros":
        return None
    most = {"reflect": size - 1, "circular": size}.get(mode)
    outside = -place if place < 0 else place - (size - 1)
    if size < 1 or (most is not None and outside > most):
        limit = "on an axis without cells" if size < 1 else f"beyond {most} on {size} cells"
        raise ValueError(f"mode={mode!r} has no padding {limit}, got {outside}")
    if mode == "replicate":
        return 0 if place < 0 else size - 1
    if mode == "reflect":
        return -place if place < 0 else 2 * (size - 1) - place
    return place + size if place < 0 else place - size


def pad2d(x: Tensor, padding: int | Sequence[int] | Sides, mode: PaddingMode = "zeros") -> Tensor:
    """Returns an (H, W) image with cells around it, (top + H + bottom, left + W + right).

    Args:
        x: the image, (H, W).
        padding: one int for all sides, (rows, columns) or ((top, bottom), (left, right)).
        mode: "zeros", "reflect", "replicate" or "circular": see :func:`cell_at`, which says which
            row and which column each place repeats.

    Raises:
        ValueError: `x` is not 2D, or as :func:`sides` and :func:`cell_at`.

    >>> x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    >>> pad2d(x, ((0, 1), (2, 0)))
    tensor([[0, 0, 1, 2, 3],
            [0, 0, 4, 5, 6],
            [0, 0, 0, 0, 0]])
    >>> pad2d(x, ((0, 1), (2, 0)), "reflect")
    tensor([[3, 2, 1, 2, 3],
            [6, 5, 4, 5, 6],
            [3, 2, 1, 2, 3]])
    """
    if x.dim() != 2:
        raise ValueError(f"x must be 2D, got shape {list(x.shape)}")
    (top, bottom), (left, right) = sides(padding)
    height, width = x.shape
    rows = [cell_at(place, height, mode) for place in range(-top, height + bottom)]
    columns = [cell_at(place, width, mode) for place in range(-left, width + right)]
    padded = x.new_zeros(len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row is not None and column is not None:
                padded[i, j] = x[row, column]
    return padded


def cross_correlate2d(
    x: Tensor,
    kernel: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides = 0,
    *,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """2D cross-correlation of an (H, W) image with a (kh, kw) kernel.

    ``y[i, j] = sum(x[i*sh : i*sh + kh, j*sw : j*sw + kw] * kernel)`` on `x` padded by
    :func:`pad2d`, of shape (floor((H + top + bottom - kh) / sh) + 1, floor((W + left + right - kw)
    / sw) + 1) and x's dtype.

    Raises:
        ValueError: `x` or `kernel` is not 2D, stride is below 1, the kernel exceeds the padded
            input, or as pad2d.

    >>> x = torch.tensor([[1.0, 2, 3], [2, 3, 4], [3, 4, 5]])
    >>> cross_correlate2d(x, torch.tensor([[0.0, 1], [2, 3]]))
    tensor([[15., 21.],
            [21., 27.]])
    >>> kernel = torch.tensor([[0.0, 1, 2], [0, 1, 2], [0, 1, 2]])
    >>> cross_correlate2d(x, kernel, padding=1)
    tensor([[13., 19.,  7.],
            [24., 33., 12.],
            [19., 25.,  9.]])
    >>> cross_correlate2d(x, kernel, padding=((0, 0), (1, 1)), padding_mode="replicate")
    tensor([[24., 33., 36.]])
    """
    if x.dim() != 2 or kernel.dim() != 2:
        raise ValueError(
            f"x and kernel must be 2D, got shapes {list(x.shape)} and {list(kernel.shape)}"
        )
    sh, sw = pair(stride, "stride")
    if sh < 1 or sw < 1:
        raise ValueError(f"stride must be at least 1, got stride={stride!r}")
    padded = pad2d(x, padding, padding_mode)
    kh, kw = kernel.shape
    height, width = padded.shape
    if kh > height or kw > width:
        raise ValueError(
            f"kernel must not exceed the padded input, got {(kh, kw)} on {(height, width)}"
        )
    y = x.new_zeros((height - kh) // sh + 1, (width - kw) // sw + 1)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (padded[i * sh : i * sh + kh, j * sw : j * sw + kw] * kernel).sum()
    return y


def dilate(kernel: Tensor, dilation: int | Sequence[int]) -> Tensor:
    """Returns a (kh, kw) kernel with dilation - 1 zeros between neighbouring taps."""
    dh, dw = pair(dilation, "dilation")
    if dh < 1 or dw < 1:
        raise ValueError(f"dilation must be at least 1, got dilation={dilation!r}")
    kh, kw = kernel.shape
    spread = kernel.new_zeros(dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    spread[::dh, ::dw] = kernel
    return spread


def conv2d_reference(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """The convolution of x (N, C, H, W) with w (O, C / groups, R, S) and b (O,). It sums
    :func:`cross_correlate2d` over the input channels of each group. Returns y (N, O, OH, OW).

    Raises:
        ValueError: channels and groups do not fit, or as cross_correlate2d.
    """
    channels, outputs, group_channels = x.shape[1], w.shape[0], w.shape[1]
    if groups < 1 or outputs % groups or channels != group_channels * groups:
        raise ValueError(
            "C and O must be multiples of groups with C = groups * weight.size(1), got "
            f"C={channels}, O={outputs}, groups={groups}, weight.size(1)={group_channels}"
        )
    images = []
    for image in x:
        planes = []
        for o in range(outputs):
            first = o // (outputs // groups) * group_channels
            terms = [
                cross_correlate2d(
                    image[first + c], dilate(w[o, c], dilation), stride, padding,
                    padding_mode=padding_mode,
                )
                for c in range(group_channels)
            ]  # fmt: skip
            plane = torch.stack(terms).sum(0)
            planes.append(plane if b is None else plane + b[o])
        images.append(torch.stack(planes))
    return torch.stack(images)


def conv1d_reference(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: int = 1,
    padding: int | tuple[tuple[int, int]] = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """The convolution of sequences x (N, C, L) with w (O, C / groups, K) and b (O,), as
    :func:`conv2d_reference` of images of one row. `padding` is one int or ((left, right),).
    Returns y (N, O, OL).

    Raises:
        ValueError: as conv2d_reference.

    >>> x, w = torch.tensor([[[1.0, 2, 3]]]), torch.tensor([[[10.0, 1]]])
    >>> conv1d_reference(x, w, padding=((1, 0),))
    tensor([[[ 1., 12., 23.]]])
    """
    row = x.unsqueeze(-2), w.unsqueeze(-2), b
    columns = ((padding, padding),) if isinstance(padding, int) else padding
    around: Any = ((0, 0), *columns)
    y = conv2d_reference(
        *row, (1, stride), around, (1, dilation), groups, padding_mode=padding_mode
    )
    return y.squeeze(-2)


def conv_transpose2d_reference(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """The transposed convolution of x (N, C, H, W) with w (C, O / groups, R, S) and b (O,). Each
    element of x adds its kernel, times its value, to a canvas. `padding` rows and columns are then
    cut off on each side, and `output_padding` ones added at the end. Returns y (N, O, OH, OW).

    Raises:
        ValueError: channels and groups do not fit, or a number is out of range.

    >>> x, w = torch.tensor([[[[1.0, 2]]]]), torch.tensor([[[[1.0, 10, 100]]]])
    >>> conv_transpose2d_reference(x, w, stride=2)
    tensor([[[[  1.,  10., 102.,  20., 200.]]]])
    """
    (N, C, H, W), group_outputs = x.shape, w.shape[1]
    if groups < 1 or C % groups or w.shape[0] != C:
        raise ValueError(
            "C must be weight.size(0) and a multiple of groups, got "
            f"C={C}, weight.size(0)={w.shape[0]}, groups={groups}"
        )
    (sh, sw), (ph, pw) = pair(stride, "stride"), pair(padding, "padding")
    extra_rows, extra_columns = pair(output_padding, "output_padding")
    for name, least, values in (
        ("stride", 1, (sh, sw)), ("padding", 0, (ph, pw)),
        ("output_padding", 0, (extra_rows, extra_columns)),
    ):  # fmt: skip
        if min(values) < least:
            raise ValueError(f"{name} must be at least {least}, got {name}={values}")
    kernels = [[dilate(w[c, o], dilation) for o in range(group_outputs)] for c in range(C)]
    rows, columns = kernels[0][0].shape
    height, width = (H - 1) * sh + rows, (W - 1) * sw + columns
    canvas = x.new_zeros(N, group_outputs * groups, height + extra_rows, width + extra_columns)
    for n in range(N):
        for c in range(C):
            first = c // (C // groups) * group_outputs
            for o in range(group_outputs):
                for i in range(H):
                    for j in range(W):
                        place = canvas[
                            n, first + o, i * sh : i * sh + rows, j * sw : j * sw + columns
                        ]
                        place += x[n, c, i, j] * kernels[c][o]
    bottom, right = canvas.shape[2] - ph, canvas.shape[3] - pw
    if bottom <= ph or right <= pw:
        raise ValueError(f"padding must leave something of the canvas, got padding={padding!r}")
    y = canvas[:, :, ph:bottom, pw:right]
    return y if b is None else y + b.view(-1, 1, 1)


def conv_transpose1d_reference(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
) -> Tensor:
    """The transposed convolution of sequences x (N, C, L) with w (C, O / groups, K) and b (O,), as
    :func:`conv_transpose2d_reference` of images of one row. Returns y (N, O, OL).

    Raises:
        ValueError: as conv_transpose2d_reference.

    >>> x, w = torch.tensor([[[1.0, 2]]]), torch.tensor([[[1.0, 10, 100]]])
    >>> conv_transpose1d_reference(x, w, stride=2)
    tensor([[[  1.,  10., 102.,  20., 200.]]])
    """
    row = x.unsqueeze(-2), w.unsqueeze(-2), b
    y = conv_transpose2d_reference(
        *row, (1, stride), (0, padding), (0, output_padding), groups, (1, dilation)
    )
    return y.squeeze(-2)
