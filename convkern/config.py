"""Settings that the choice of kernels depends on besides the problem: the precision that is asked
for, and context managers for tests and experiments.

The settings are process-wide: they hold for all threads, the context managers' while a context is
open. Of several open contexts that set the same, the one entered last holds, in whatever order they
are left. The environment variables CONVKERN_PRECISION, CONVKERN_WEIGHT_CACHE,
CONVKERN_BATCH_INVARIANT, CONVKERN_KERNEL and CONVKERN_ISA set the same at import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convkern import _C
from convkern.choices import Isa, Precision


def set_float32_precision(precision: Precision) -> None:
    """Sets what float32 convolutions may cost in accuracy, as
    :func:`torch.set_float32_matmul_precision` does for matrix products.

    Args:
        precision: ``"highest"``, the default: only the direct sum, in any order; the error against
            float64 is at most about twice torch's. ``"high"``: also algorithms that round more;
            here Winograd's, for 3x3 kernels with stride 1 and dilation 1, forward and for both
            gradients, whose error is about ten times the direct sum's, and which spread Inf and
            NaN over tiles of up to 4x4 outputs.

    Raises:
        ValueError: there is no such precision.
    """
    _C.set_float32_precision(precision)


def get_float32_precision() -> Precision:
    """The precision that :func:`set_float32_precision` has set: ``"highest"`` or ``"high"``."""
    return _C.float32_precision()


def set_weight_cache(keep: bool) -> None:
    """Makes forward calls keep the weights as their kernels have rearranged them, for the next call
    with the same weight. It is off by default, and switching it off frees what is kept.

    For inference with small batches, where rearranging takes a good part of the time: in
    ``torch.no_grad()`` or ``torch.inference_mode()``, or with weights that require no gradient. It
    costs as much memory again as the weights (see :func:`weight_cache_bytes`). What is kept of a
    weight that is gone is freed when the next weight is kept. Kept are the weights of
    implicit_gemm, the kernel of layers of many channels.

    A weight that is changed in place is rearranged anew, as its version counter tells: by
    ``load_state_dict``, ``copy_``. A call that records a weight's gradient forgets it, since fused
    optimizers do not count their steps. Rearranged anew is also one that is given other memory: by
    ``weight.data = ...``, ``module.to(dtype)``. Changes that torch does not count go unnoticed:
    in-place operations on ``weight.data``, and through NumPy's view of it. A weight that shares its
    memory with another tensor, as those of fully_shard do, is not kept.
    """
    _C.set_weight_cache(keep)


def weight_cache_bytes() -> int:
    """Bytes of the weights that are kept; see :func:`set_weight_cache`."""
    return _C.weight_cache_bytes()


def set_batch_invariant(required: bool) -> None:
    """Sets that the result for an image must not depend on its batch. It is off by default.

    An image then gives the same bits alone and at any position of any batch in the same memory
    format: in the output, and in the gradient of the input, for all dtypes. (Of a channels_last
    batch ``x[i : i + 1]`` is channels_last, and ``x[i]`` is not.) From run to run, and for any
    number of threads, results are the same in every setting. The gradient of the weight, a sum over
    the batch, is not concerned.

    The images of a batch are computed one after the other, each by the kernel that is chosen for
    one image: at batch 8 layers of well-known networks take 1.1 to 1.5 times as long, and layers of
    few channels in large batches several times.
    """
    _C.set_batch_invariant(required)


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Forces the kernel of that name, e.g. ``"fwd.reference.any.baseline"``, for its device and
    pass. An op call that it does not support then raises RuntimeError with the reason.

    Raises:
        ValueError: no kernel has that name; the message lists those there are.
    """
    context = _C.force_kernel(name)
    try:
        yield
    finally:
        _C.leave(context)


@contextmanager
def use_isa(isa: Isa) -> Iterator[None]:
    """Caps the instruction set of CPU kernels at ``"baseline"``, ``"avx2"``, ``"avx512"`` or
    ``"avx512bf16"``.

    Raises:
        ValueError: there is no such instruction set.
    """
    context = _C.cap_isa(isa)
    try:
        yield
    finally:
        _C.leave(context)
