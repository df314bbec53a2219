"""The plain Python reference agrees with its documented examples and with torch in float64."""

import doctest

import pytest
import torch
import torch.nn.functional as F

import convkern
from convkern.choices import PaddingMode, Sides
from convkern.reference import (
    cell_at,
    conv1d_reference,
    conv2d_reference,
    conv_transpose1d_reference,
    conv_transpose2d_reference,
    cross_correlate2d,
    pad2d,
)

# torch.nn.functional.pad's names of the modes.
MODES = {
    "zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"
}  # fmt: skip
SIDES = [((0, 0), (0, 0)), ((1, 1), (2, 2)), ((2, 0), (0, 3)), ((0, 3), (4, 1)), ((3, 3), (4, 4))]


def transposed(**options: int) -> torch.Tensor:
    return conv_transpose2d_reference(torch.ones(1, 3, 3, 4), torch.ones(3, 2, 3, 3), **options)


IMAGE = torch.tensor([[1.0, 2, 3], [2, 3, 4], [3, 4, 5]])
KERNEL = torch.tensor([[0.0, 1, 2], [0, 1, 2], [0, 1, 2]])


def test_documented_example() -> None:
    expected = torch.tensor([[13.0, 19, 7], [24, 33, 12], [19, 25, 9]])
    assert torch.equal(cross_correlate2d(IMAGE, KERNEL, padding=1), expected)
    y = convkern.conv2d(IMAGE[None, None], KERNEL[None, None], padding=1)
    assert torch.equal(y[0, 0], expected)


def test_docstrings() -> None:
    failed, attempted = doctest.testmod(convkern.reference)
    assert attempted > 0
    assert failed == 0


@pytest.mark.parametrize("stride", [1, 2, (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [0, 1, (0, 2), (3, 1)])
def test_cross_correlate2d_is_conv2d(
    stride: int | tuple[int, int], padding: int | tuple[int, int]
) -> None:
    x, kernel = torch.randn(6, 7).double(), torch.randn(3, 2).double()
    y = cross_correlate2d(x, kernel, stride, padding)
    expected = F.conv2d(x[None, None], kernel[None, None], None, stride, padding)[0, 0]
    torch.testing.assert_close(y, expected)
    assert tuple(y.shape) == convkern.output_size((6, 7), (3, 2), stride, padding)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", SIDES)
def test_pad2d_is_torchs_pad(padding: Sides, mode: PaddingMode) -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    (top, bottom), (left, right) = padding
    expected = F.pad(x[None, None], (left, right, top, bottom), MODES[mode])[0, 0]
    assert torch.equal(pad2d(x, padding, mode), expected)
    whole = F.pad(x[None, None].long(), (2, 2, 1, 1), MODES[mode])[0, 0]
    assert torch.equal(pad2d(x.long(), (1, 2), mode), whole)
    assert torch.equal(pad2d(x, 1, mode), F.pad(x[None, None], (1,) * 4, MODES[mode])[0, 0])


def test_the_most_that_modes_pad() -> None:
    """The limits are those of torch."""
    x = torch.randn(2, 3)
    assert pad2d(x, ((1, 1), (2, 2)), "reflect").shape == (4, 7)
    assert pad2d(x, ((2, 2), (3, 3)), "circular").shape == (6, 9)
    assert pad2d(x, 20, "replicate").shape == (42, 43)
    assert pad2d(x[:0], 1).tolist() == [[0] * 5] * 2
    assert [cell_at(place, 1, "circular") for place in (-1, 0, 1)] == [0, 0, 0]
    for padding, mode in (((2, 0), "reflect"), ((0, 4), "circular")):
        with pytest.raises(ValueError, match=f"mode='{mode}' has no padding beyond"):
            pad2d(x, padding, mode)
        with pytest.raises(RuntimeError):
            F.pad(x[None, None], (padding[1],) * 2 + (padding[0],) * 2, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", SIDES)
@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_conv2d_reference_pads(
    mode: PaddingMode, padding: Sides, stride: int | tuple[int, int]
) -> None:
    x, w = torch.randn(2, 4, 4, 5).double(), torch.randn(2, 2, 2, 3).double()
    b, dilation, groups = torch.randn(2).double(), (2, 1), 2
    (top, bottom), (left, right) = padding
    padded = F.pad(x, (left, right, top, bottom), MODES[mode])
    expected = F.conv2d(padded, w, b, stride, 0, dilation, groups)
    arguments = (x, w, b, stride, padding, dilation, groups)
    y = conv2d_reference(*arguments, padding_mode=mode)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(convkern.conv2d(*arguments, padding_mode=mode), y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [0, 2, ((3, 1),)])
def test_conv1d_reference(mode: PaddingMode, padding: int | tuple[tuple[int, int]]) -> None:
    x, w, b = torch.randn(2, 4, 7).double(), torch.randn(6, 2, 3).double(), torch.randn(6).double()
    left, right = (padding, padding) if isinstance(padding, int) else padding[0]
    expected = F.conv1d(F.pad(x, (left, right), MODES[mode]), w, b, 2, 0, 2, 2)
    y = conv1d_reference(x, w, b, 2, padding, 2, 2, padding_mode=mode)
    torch.testing.assert_close(y, expected)
    same = convkern.conv1d(x, w, b, 2, padding, 2, 2, padding_mode=mode)
    torch.testing.assert_close(same, y)


def test_conv_transpose1d_reference() -> None:
    x, w, b = torch.randn(2, 4, 5).double(), torch.randn(4, 3, 3).double(), torch.randn(6).double()
    arguments = (x, w, b, 3, 2, 1, 2, 2)
    expected = F.conv_transpose1d(*arguments)
    torch.testing.assert_close(conv_transpose1d_reference(*arguments), expected)


def test_integers_stay_integers() -> None:
    y = cross_correlate2d(IMAGE.long(), KERNEL.long(), padding=1)
    assert y.dtype == torch.int64
    assert y[1].tolist() == [24, 33, 12]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_conv2d_reference_is_conv2d(groups: int, bias: bool) -> None:
    x, w = torch.randn(2, 4, 6, 5).double(), torch.randn(4, 4 // groups, 3, 2).double()
    b = torch.randn(4).double() if bias else None
    arguments = (2, (1, 2), (2, 1), groups)
    torch.testing.assert_close(conv2d_reference(x, w, b, *arguments), F.conv2d(x, w, b, *arguments))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("output_padding", [0, (1, 2)])
def test_conv_transpose2d_reference(groups: int, output_padding: int | tuple[int, int]) -> None:
    x, w = torch.randn(2, 4, 3, 5).double(), torch.randn(4, 3, 3, 2).double()
    b = torch.randn(3 * groups).double()
    arguments = ((2, 3), (1, 2), output_padding, groups, (2, 1))
    expected = F.conv_transpose2d(x, w, b, *arguments)
    torch.testing.assert_close(conv_transpose2d_reference(x, w, b, *arguments), expected)
    torch.testing.assert_close(convkern.conv_transpose2d(x, w, b, *arguments), expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_correlate2d(IMAGE[None], KERNEL), "2D"),
        (lambda: cross_correlate2d(IMAGE, KERNEL, stride=0), "stride"),
        (lambda: transposed(stride=0), "stride"),
        (lambda: transposed(padding=-1), "padding"),
        (lambda: transposed(padding=3), "padding"),
        (lambda: transposed(output_padding=-1), "output_padding"),
        (lambda: transposed(groups=2), "groups"),
        (lambda: cross_correlate2d(IMAGE, KERNEL, padding=-1), "padding"),
        (lambda: pad2d(IMAGE[None], 1), r"x must be 2D, got shape \[1, 3, 3\]"),
        (lambda: pad2d(IMAGE, 1.5), "padding must be an int, a .*got padding=1.5"),
        (lambda: pad2d(IMAGE, (1, 2, 3)), r"padding must be an int.*got padding=\(1, 2, 3\)"),
        (lambda: pad2d(IMAGE, ((1, 2), (0, 1, 2))), "padding must be an int"),
        (lambda: pad2d(IMAGE, "same"), "padding must be an int.*got padding='same'"),
        (lambda: pad2d(IMAGE, ((0, -1), (0, 0))), "padding must not be negative"),
        (lambda: pad2d(IMAGE, 1, "constant"), "mode must be one of .*got mode='constant'"),
        (lambda: pad2d(IMAGE, 0, "mirror"), "mode must be one of .*got mode='mirror'"),
        (lambda: pad2d(IMAGE, 3, "reflect"), "'reflect' has no padding beyond 2 on 3 cells, got 3"),
        (lambda: pad2d(IMAGE[:0], 1, "replicate"), "no padding on an axis without cells"),
        (lambda: conv1d_reference(IMAGE[None, :1], KERNEL[None, :1], padding=(1, 2)), "padding"),
        (lambda: cross_correlate2d(IMAGE, KERNEL, stride=(1, 2, 3)), "stride"),
        (lambda: cross_correlate2d(IMAGE, KERNEL, stride=(1.5, 2)), "stride"),
        (lambda: cross_correlate2d(IMAGE[:2], KERNEL), "exceed"),
        (lambda: conv2d_reference(IMAGE[None, None], KERNEL[None, None], groups=2), "groups"),
        (lambda: conv2d_reference(IMAGE[None, None], KERNEL[None, None], dilation=0), "dilation"),
    ],
)
def test_bad_input(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
