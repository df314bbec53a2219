"""Which arguments the native batch normalisation computes, and what becomes of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from batch_norms import DTYPES, native, theirs
from convkern import _C
from convkern.training.blocks import batch_norm

ODD_INPUTS = {
    "3-D": (torch.randn(4, 3, 5), 3),
    "2-D": (torch.randn(4, 3), 3),
    "5-D": (torch.randn(2, 3, 4, 4, 2), 3),
    "non-contiguous": (torch.randn(2, 3, 4, 8)[..., ::2], 3),
    "transposed": (torch.randn(2, 3, 4, 5).transpose(2, 3), 3),
    "expanded": (torch.randn(2, 1, 4, 4).expand(2, 3, 4, 4), 3),
    "channels_last": (torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), 3),
    "one channel": (torch.randn(2, 1, 4, 4), 1),
    "offset": (torch.randn(7, 3, 4, 4)[3:], 3),
}


@pytest.mark.parametrize("kind", ODD_INPUTS)
@pytest.mark.parametrize("residual", [False, True])
def test_inputs_of_every_kind(kind: str, residual: bool) -> None:
    value, channels = ODD_INPUTS[kind]
    results = []
    for call in (batch_norm, theirs):
        x = value.detach().requires_grad_()
        w, b = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
        z = torch.randn(value.shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
        y, again = call(x, None, None, w, b, True, 0.1, 1e-5, "relu", z if residual else None, True,
                        False)  # fmt: skip
        (y * again.detach().cos() + again).sum().backward()
        results.append([y.detach(), x.grad, w.grad, b.grad, z.grad])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_what_the_native_passes_do_not_compute() -> None:
    x, other = torch.randn(2, 3, 4, 4), torch.randn(3)
    plain = (None, None, None, None, True, 0.1, 1e-5)
    rest = (None, None, False, False)
    assert _C.batch_norm(x, *plain, *rest) is not None
    for wrong in (x[0], x.int(), x.to("meta"), x.to_sparse(), x[..., ::2], x[:0],
                  torch.randn(1, 3, 1, 1), x.cfloat()):  # fmt: skip
        assert _C.batch_norm(wrong, *plain, *rest) is None
    for weight in (other[:2], other.double(), other[:, None], torch.randn(6)[::2]):
        arguments = (None, None, weight, None, True, 0.1, 1e-5)
        assert _C.batch_norm(x, *arguments, *rest) is None
    assert _C.batch_norm(x, None, None, None, None, False, 0.1, 1e-5, *rest) is None
    assert _C.batch_norm(x, None, None, None, None, True, 0.1, 0.0, *rest) is None
    assert _C.batch_norm(x, *plain, "gelu", None, False, False) is None
    assert _C.batch_norm(x, *plain, "silu", x, False, False) is None
    assert _C.batch_norm(x, *plain, "relu", x[:1], False, False) is None
    assert _C.batch_norm(x, *plain, "relu", x.double(), False, False) is None
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert _C.batch_norm(x, *plain, *rest) is None
    with pytest.raises(ValueError, match="activation must be"):
        _C.batch_norm(x, *plain, "swish", None, False, False)


def test_functional_transforms() -> None:
    x, w = torch.randn(2, 3, 4, 4), torch.randn(3)

    def loss(call: Any) -> Any:
        return lambda x, w: call(
            x, None, None, w, None, True, 0.1, 1e-5, "silu", None, False, False
        ).square().sum()  # fmt: skip

    batches = torch.randn(4, 2, 3, 4, 4)
    results = []
    for call in (batch_norm, theirs):
        f = loss(call)
        results.append((
            torch.func.grad(f, argnums=(0, 1))(x, w),
            torch.func.vmap(f, (0, None))(batches, w),
            torch.func.vmap(torch.func.grad(f, argnums=1), (0, None))(batches, w),
            torch.func.jvp(f, (x, w), (x, w)),
            torch.func.hessian(f, argnums=1)(x, w),
        ))  # fmt: skip
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_forward_mode() -> None:
    x, w = torch.randn(2, 3, 4, 4), torch.randn(3)
    results = []
    for call in (batch_norm, theirs):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(w, torch.ones(3))
            y = call(x, None, None, dual, None, True, 0.1, 1e-5, "relu", None, False, False)
            results.append(torch.autograd.forward_ad.unpack_dual(y))
    torch.testing.assert_close(results[0], results[1])


X = torch.randn(2, 3, 4, 4)
ERRORS: dict[str, tuple[Any, ...]] = {
    "weight": (X, None, None, torch.ones(4), None, True, 0.1, 1e-5),
    "bias": (X, None, None, None, torch.ones(2), True, 0.1, 1e-5),
    "running mean": (X, torch.ones(4), torch.ones(3), None, None, True, 0.1, 1e-5),
    "running var": (X, torch.ones(3), torch.ones(2), None, None, True, 0.1, 1e-5),
    "no statistics": (X, None, None, None, None, False, 0.1, 1e-5),
    "half the statistics": (X, torch.ones(3), None, None, None, False, 0.1, 1e-5),
    "one value a channel": (X[:1, :, :1, :1], None, None, None, None, True, 0.1, 1e-5),
    "eps": (X, None, None, None, None, True, 0.1, 0.0),
    "weight's dtype": (X, None, None, torch.ones(3).double(), None, True, 0.1, 1e-5),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_torchs(kind: str) -> None:
    with pytest.raises((ValueError, RuntimeError)) as expected:
        theirs(*ERRORS[kind])
    with pytest.raises(expected.type) as actual:
        batch_norm(*ERRORS[kind], None, None, False, False)
    assert str(actual.value) == str(expected.value)


def test_freed_memory_raises() -> None:
    """FSDP frees parameters between their uses."""
    names = ["input", "weight", "residual", "running_mean", "running_var"]
    for place, name in enumerate(names):
        x, w, z = torch.randn(2, 3, 4, 4), torch.randn(3), torch.randn(2, 3, 4, 4)
        operands = [x, w, z, torch.zeros(3), torch.ones(3)]
        operands[place].untyped_storage().resize_(0)
        for training in (True, False):
            with pytest.raises(RuntimeError, match="not allocated yet") as raised:
                native(x, *operands[3:], w, None, training, 0.1, 1e-5, "relu", z, False, False)
            if training:
                assert str(raised.value).startswith(f"batch_norm: {name} has")


def test_memory_that_is_freed_before_the_backward_pass_raises() -> None:
    for place in range(2):
        x, w = torch.randn(2, 3, 4, 4, requires_grad=True) * 1, torch.randn(3)
        y = native(x, None, None, w, None, True, 0.1, 1e-5, "relu", None, False, False)
        (x, w)[place].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match=r"batch_norm: .* not allocated yet"):
            y.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_under_autocast(dtype: torch.dtype) -> None:
    x, w = torch.randn(2, 3, 4, 4, dtype=dtype), torch.randn(3)
    if dtype == torch.float64:
        w = w.double()
    with torch.autocast("cpu", torch.bfloat16):
        ours, peer = (
            call(x, None, None, w, None, True, 0.1, 1e-5, "relu", x, False, False)
            for call in (native, theirs)
        )
    assert ours.dtype == peer.dtype
    torch.testing.assert_close(ours, peer)
