"""Gradients have the strides that torch gives them."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import convkern
from convkern import _C
from convkern.problem import FORMATS
from processes import Processes

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
CASES = {
    "3x3": ((2, 8, 9, 9), (16, 8, 3, 3), {}),
    "1x1": ((2, 8, 9, 9), (16, 8, 1, 1), {}),
    "depthwise": ((2, 8, 9, 9), (8, 1, 3, 3), {"groups": 8}),
    "depthwise 1x1": ((2, 8, 9, 9), (8, 1, 1, 1), {"groups": 8}),
    "one input channel": ((2, 1, 9, 9), (4, 1, 3, 3), {}),
    "one channel": ((2, 1, 9, 9), (1, 1, 3, 3), {}),
    "kernel as large as the image": ((2, 8, 3, 3), (16, 8, 3, 3), {}),
    "one pixel": ((2, 8, 1, 1), (16, 8, 1, 1), {}),
    "one image": ((1, 3, 9, 9), (16, 3, 3, 3), {}),
    "stride": ((2, 8, 9, 9), (16, 8, 3, 3), {"stride": 2, "padding": 1}),
    "row": ((2, 8, 1, 9), (16, 8, 1, 3), {}),
}


def filled(shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    return torch.empty(shape, memory_format=memory_format).normal_()


def grad_outputs(shape: torch.Size) -> list[Tensor]:
    return [
        filled(shape, CONTIGUOUS),
        filled(shape, CHANNELS_LAST),
        torch.ones(()).expand(shape),
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_both_operands(case: tuple, dtype: torch.dtype) -> None:
    x_shape, w_shape, kwargs = case
    for x_format, w_format in itertools.product((CONTIGUOUS, CHANNELS_LAST), repeat=2):
        x = filled(x_shape, x_format).to(dtype).requires_grad_()
        w = filled(w_shape, w_format).to(dtype).requires_grad_()
        y, expected = convkern.conv2d(x, w, **kwargs), F.conv2d(x, w, **kwargs)
        assert y.stride() == expected.stride()
        for gy in grad_outputs(y.shape):
            gy = gy.to(dtype)
            for ours, torchs in zip(
                torch.autograd.grad(y, [x, w], gy, retain_graph=True),
                torch.autograd.grad(expected, [x, w], gy, retain_graph=True),
                strict=True,
            ):
                assert ours.stride() == torchs.stride(), (x_format, w_format, gy.stride())
                torch.testing.assert_close(ours, torchs, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_of_parameters(case: tuple) -> None:
    x_shape, w_shape, kwargs = case
    for x_format, w_format in itertools.product((CONTIGUOUS, CHANNELS_LAST), repeat=2):
        grads = []
        for conv in (convkern.conv2d, F.conv2d):
            x = filled(x_shape, x_format)
            w = filled(w_shape, w_format).requires_grad_()
            conv(x, w, **kwargs).sum().backward()
            grads.append(w.grad.stride())
        assert grads[0] == w.stride() or 1 in w_shape  # single elements may have any strides
        assert grads[0] == grads[1] or grads[0] == w.stride()


def test_a_leaf_gets_the_gradient_without_a_copy() -> None:
    """AccumulateGrad keeps a gradient in the weight's own format and copies any other."""
    for x_format, w_format in itertools.product((CONTIGUOUS, CHANNELS_LAST), repeat=2):
        x = filled((2, 8, 9, 9), x_format)
        w = filled((16, 8, 3, 3), w_format).requires_grad_()
        seen: list[tuple[int, ...]] = []
        w.register_hook(lambda gw, seen=seen: seen.append(gw.stride()))
        convkern.conv2d(x, w).sum().backward()
        assert seen == [w.stride()]


def test_the_ops_take_a_format() -> None:
    ops = torch.ops.convkern
    x, w = torch.randn(2, 8, 9, 9), torch.randn(16, 8, 3, 3)
    y = convkern.conv2d(x, w)
    for op, args in (
        (ops.conv2d_grad_input, (y, w, list(x.shape))),
        (ops.conv2d_grad_weight, (y, x, list(w.shape))),
    ):
        plain = op(*args)
        last = op(*args, memory_format=CHANNELS_LAST)
        assert plain.is_contiguous()
        assert last.is_contiguous(memory_format=CHANNELS_LAST)
        torch.testing.assert_close(last, plain, rtol=1e-5, atol=1e-4)
        with pytest.raises(RuntimeError, match="memory_format must be contiguous_format or chan"):
            op(*args, memory_format=torch.preserve_format)
        meta = [a.to("meta") if isinstance(a, Tensor) else a for a in args]
        assert op(*meta, memory_format=CHANNELS_LAST).stride() == last.stride()


def train_replicated() -> list[str]:
    """Returns the warnings of DistributedDataParallel in two steps of channels_last layers."""
    torch.manual_seed(0)
    layers = [
        convkern.Conv2d(3, 8, 3),
        convkern.Conv2d(8, 8, 3, groups=8),
        convkern.Conv2d(8, 4, 1),
    ]
    model = nn.Sequential(*layers).to(memory_format=CHANNELS_LAST)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replica = DistributedDataParallel(model)
        for _ in range(2):
            x = torch.randn(2, 3, 9, 9).to(memory_format=CHANNELS_LAST)
            replica(x).sum().backward()
    return [str(w.message) for w in caught]


def test_data_parallel_finds_the_strides_that_it_expects(processes: Processes) -> None:
    for messages in processes.run(2, train_replicated):
        assert not [m for m in messages if "strides" in m]


@pytest.mark.parametrize("x_shape", [(2, 1, 9, 9), (2, 8, 1, 1)], ids=["one channel", "one pixel"])
@pytest.mark.parametrize("layout", FORMATS)
def test_a_gradient_dense_in_both_formats_is_computed_in_that_of_gy(
    x_shape: tuple[int, ...], layout: str
) -> None:
    x = torch.randn(x_shape, requires_grad=True)
    y = convkern.conv2d(x, torch.randn(6, x_shape[1], 3, 3), padding=2)
    gy = filled(y.shape, FORMATS[layout])
    (gx,) = torch.autograd.grad(y, x, gy)
    assert gx.stride() == x.stride()
    ran = _C.take_last_execution()
    assert _C.take_last_execution() is None
    assert ran is not None
    assert ran[0].endswith(f"_f32_{layout}_gx")
