"""The plain Python reference agrees with its documented examples and with torch in float64."""

import doctest

import pytest
import torch
import torch.nn.functional as F

import convkern
from convkern.reference import (
    conv2d_reference,
    conv_transpose2d_reference,
    cross_correlate2d,
)


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
