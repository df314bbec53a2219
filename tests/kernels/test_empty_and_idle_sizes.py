"""Empty sizes, and steps without an effect, give the results of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkern

NO_CHANNELS = [
    ((2, 0, 5, 5), (4, 0, 3, 3), {}),
    ((2, 0, 5, 5), (4, 0, 3, 3), {"padding": 1, "stride": 2}),
    ((2, 0, 5, 5), (4, 0, 3, 3), {"groups": 2}),
    ((2, 0, 5, 5), (4, 0, 3, 3), {"padding": "same"}),
    ((0, 0, 5, 5), (4, 0, 3, 3), {}),
    ((2, 0, 5, 5), (4, 0, 0, 0), {}),
    ((2, 0, 5, 5), (4, 0, 0, 3), {"dilation": 2}),
    ((2, 0, 5, 5), (4, 0, 3, 0), {"stride": 2, "padding": 1}),
    ((0, 5, 5), (4, 0, 3, 3), {}),
]
HUGE = [
    {"stride": 2**62},
    {"stride": 2**63 - 1},
    {"stride": (2**62, 1)},
    {"stride": (2, 2**60), "padding": 3},
    {"padding": 2**60, "stride": 2**60},
]


def outcome(conv: object, x: Tensor, w: Tensor, b: Tensor | None, **kwargs: object) -> list[object]:
    """Returns shapes and values of the output and of all gradients."""
    operands = [t.clone().requires_grad_() for t in (x, w, b) if t is not None]
    y = conv(*operands, **kwargs)  # type: ignore[operator]
    gradients = torch.autograd.grad(y.sum(), operands)
    return [(tuple(t.shape), t.stride(), t.sum().item()) for t in (y, *gradients)]


@pytest.mark.parametrize(("x", "w", "kwargs"), NO_CHANNELS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_an_input_without_channels_gives_an_output_without(
    x: tuple[int, ...], w: tuple[int, ...], kwargs: dict, bias: bool
) -> None:
    """The weight's size does not matter. torch does the same on every device."""
    operands = torch.zeros(x), torch.zeros(w), torch.ones(4) if bias else None
    assert outcome(convkern.conv2d, *operands, **kwargs) == outcome(F.conv2d, *operands, **kwargs)
    meta = [None if t is None else t.to("meta") for t in operands]
    assert convkern.conv2d(*meta, **kwargs).shape == F.conv2d(*operands, **kwargs).shape


def test_activation_forward_mode_and_gradient_ops_without_channels() -> None:
    x, w, b = torch.zeros(2, 0, 5, 5), torch.zeros(4, 0, 3, 3), torch.ones(4)

    def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return convkern.conv2d(x, w, b, activation="relu")

    y, tangent = torch.func.jvp(conv, (x, w, b), (x, w, b))
    assert y.shape == tangent.shape == (2, 0, 3, 3)
    assert torch.func.vmap(conv, (0, None, None))(x[None], w, b).shape == (1, 2, 0, 3, 3)
    ops = torch.ops.convkern
    assert ops.conv2d_grad_input(y, w, [2, 0, 5, 5]).shape == x.shape
    assert ops.conv2d_grad_weight(y, x, [4, 0, 3, 3]).shape == w.shape
    with pytest.raises(RuntimeError, match=r"output's shape \[2, 0, 3, 3\], got \[2, 4, 3, 3\]"):
        ops.conv2d_grad_input(torch.zeros(2, 4, 3, 3), w, [2, 0, 5, 5])


@pytest.mark.parametrize("kernel", [(0, 0), (0, 3), (3, 0)], ids=str)
def test_a_kernel_of_no_size_on_an_empty_batch(kernel: tuple[int, int]) -> None:
    """torch 2.14 raises IndexError here, because it looks at the first element of the weight."""
    x, w = torch.zeros(0, 3, 5, 5, requires_grad=True), torch.zeros(4, 3, *kernel)
    y = convkern.conv2d(x, w.requires_grad_())
    assert y.shape == (0, 4, 6 if kernel[0] == 0 else 3, 6 if kernel[1] == 0 else 3)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert w.grad.shape == w.shape


def test_a_kernel_of_no_size_on_images() -> None:
    with pytest.raises(RuntimeError, match="kernel size should be greater than zero, but got kern"):
        convkern.conv2d(torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 0, 3))


@pytest.mark.filterwarnings("ignore:convkern. the slow reference")  # a padding beyond any memory
@pytest.mark.parametrize("kwargs", HUGE, ids=str)
def test_strides_and_padding_beyond_the_image(kwargs: dict) -> None:
    x, w, b = torch.randn(2, 1, 5, 5), torch.randn(3, 1, 3, 3), torch.randn(3)
    ours, torchs = (outcome(conv, x, w, b, **kwargs) for conv in (convkern.conv2d, F.conv2d))
    for (shape, _, total), (expected_shape, _, expected) in zip(ours, torchs, strict=True):
        assert shape == expected_shape
        assert total == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_stride_beyond_the_image_is_not_slow() -> None:
    """It is computed by a fast kernel, as with the smallest stride that gives one output."""
    x, w = torch.randn(2, 16, 9, 9), torch.randn(16, 16, 3, 3)
    assert ".reference." not in convkern.explain(x, w, stride=2**62).kernel
    assert torch.equal(convkern.conv2d(x, w, stride=2**62), convkern.conv2d(x, w, stride=9))


@pytest.mark.parametrize("dilation", [2**62, (2**62, 1), 2**63 - 1], ids=str)
def test_a_dilation_of_a_kernel_of_one_tap(dilation: int | tuple[int, int]) -> None:
    x, w = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 1, 1)
    y = convkern.conv2d(x, w, dilation=dilation)
    torch.testing.assert_close(y, F.conv2d(x, w, dilation=dilation))


def test_a_dilated_kernel_beyond_int64() -> None:
    """torch 2.14 computes a result here, because the extent overflows."""
    with pytest.raises(RuntimeError, match=r"dilation\[0\]=4611686018427387904 is too large"):
        convkern.conv2d(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 3, 3), dilation=2**62)
