"""What the choice of kernels may depend on besides the problem: the precision that is asked for,
and context managers for tests and experiments.

The settings are process-wide: they hold for all threads, the context managers' while a context is
open. The environment variables CONVKERN_PRECISION, CONVKERN_WEIGHT_CACHE, CONVKERN_KERNEL and
CONVKERN_ISA set the same at import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convkern import _C


def set_float32_precision(precision: str) -> None:
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


def get_float32_precision() -> str:
    """The precision that :func:`set_float32_precision` has set: ``"highest"`` or ``"high"``."""
    return _C.float32_precision()


def set_weight_cache(keep: bool) -> None:
    """Whether forward calls keep the weights as their kernels have rearranged them, for the next
    call with the same weight. Off by default; switching it off frees what is kept.

    For inference with small batches, where rearranging takes a good part of the time. It costs as
    much memory again as the weights (see :func:`weight_cache_bytes`), and is freed with them. Kept
    are the weights of implicit_gemm, the kernel of layers of many channels.

    A weight that is changed in place is rearranged anew, as its version counter tells: by an
    optimizer, ``load_state_dict``, ``copy_``. Changes that torch does not count go unnoticed:
    in-place operations on ``weight.data``, and through NumPy's view of it. A weight that shares its
    memory with another tensor, as those of fully_shard do, is not kept.
    """
    _C.set_weight_cache(keep)


def weight_cache_bytes() -> int:
    """Bytes of the weights that are kept; see :func:`set_weight_cache`."""
    return _C.weight_cache_bytes()


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Forces the kernel of that name, e.g. ``"fwd.reference.any.any.baseline"``, for its device and
    pass. An op call that it does not support then raises RuntimeError with the reason.

    Raises:
        ValueError: no kernel has that name; the message lists those there are.
    """
    previous = _C.force_kernel(name)
    try:
        yield
    finally:
        _C.undo_force(previous)


@contextmanager
def use_isa(isa: str) -> Iterator[None]:
    """Caps the instruction set of CPU kernels at ``"baseline"``, ``"avx2"``, ``"avx512"`` or
    ``"avx512bf16"``.

    Raises:
        ValueError: there is no such instruction set.
    """
    previous = _C.isa_cap()
    _C.set_isa_cap(isa)
    try:
        yield
    finally:
        _C.set_isa_cap(previous)
