"""Settings that change which kernels are chosen: the precision, and context managers for tests and
experiments.

The settings apply to the whole process and to all its threads. A context manager's setting applies
while its context is open. If several open contexts change the same setting, the one entered last
decides, in whatever order they are left. The environment variables CONVKERN_PRECISION,
CONVKERN_WEIGHT_CACHE, CONVKERN_BATCH_INVARIANT, CONVKERN_KERNEL and CONVKERN_ISA set the same at
import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convkern import _C
from convkern.choices import Isa, Precision


def set_float32_precision(precision: Precision) -> None:
    """Sets how much accuracy float32 convolutions may trade for speed, as
    :func:`torch.set_float32_matmul_precision` does for matrix products.

    Args:
        precision: ``"highest"`` (the default) allows only the direct sum, in any order. Its error
            against float64 is at most about twice torch's. ``"high"`` also allows algorithms that
            round more, here Winograd's. It serves 3x3 kernels with stride 1 and dilation 1, forward
            and for both gradients. Its error is about ten times that of the direct sum, and it
            spreads Inf and NaN over tiles of up to 4x4 outputs.

    Raises:
        ValueError: there is no such precision.
    """
    _C.set_float32_precision(precision)


def get_float32_precision() -> Precision:
    """Returns the precision that :func:`set_float32_precision` has set: ``"highest"`` or
    ``"high"``."""
    return _C.float32_precision()


def set_weight_cache(keep: bool) -> None:
    """Sets whether forward calls keep weights in the form into which their kernels have rearranged
    them. The next call with the same weight then need not rearrange it. The cache is off by
    default, and switching it off frees what it holds.

    The cache helps inference with small batches, where rearranging takes a good part of the time.
    It works in ``torch.no_grad()`` and ``torch.inference_mode()``, and for weights that require no
    gradient. It holds the weights of implicit_gemm, the kernel for layers with many channels. It
    takes as much memory as those weights (see :func:`weight_cache_bytes`). The entry of a weight
    that no longer exists is freed when the next weight is stored.

    A weight is rearranged again when it is changed in place, as by ``load_state_dict`` or
    ``copy_``, because its version counter tells. It is also rearranged again when it gets other
    memory, as by ``weight.data = ...`` or ``module.to(dtype)``. A call that records the weight's
    gradient removes it from the cache, because fused optimizers do not count their steps.

    Changes that torch does not count go unnoticed. Examples are in-place operations on
    ``weight.data`` and changes through NumPy's view of it. A weight that shares its memory with
    another tensor, as fully_shard's do, is not cached.
    """
    _C.set_weight_cache(keep)


def weight_cache_bytes() -> int:
    """Returns the bytes of the weights that are kept; see :func:`set_weight_cache`."""
    return _C.weight_cache_bytes()


def set_batch_invariant(required: bool) -> None:
    """Sets whether the result for an image must be independent of its batch. This is off by
    default.

    If it is on, an image gives the same bits alone and at any position of any batch, in the same
    memory format. This holds for the output and for the gradient of the input, for all dtypes.
    (``x[i : i + 1]`` of a channels_last batch is channels_last, and ``x[i]`` is not.) The gradient
    of the weight is a sum over the batch, so the setting does not affect it. Whatever the setting,
    results are the same from run to run and for any number of threads.

    The images of a batch are then computed one after the other, each by the kernel that is chosen
    for one image. At batch 8, layers of well-known networks take 1.1 to 1.5 times as long. Layers
    with few channels take several times as long in large batches.
    """
    _C.set_batch_invariant(required)


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Forces the kernel with the given name, such as ``"fwd.reference.any.baseline"``, for its
    device and pass within the context. An op call that the kernel does not support raises
    RuntimeError with the reason.

    Raises:
        ValueError: no kernel has that name. The message lists the existing names.
    """
    context = _C.force_kernel(name)
    try:
        yield
    finally:
        _C.leave(context)


@contextmanager
def use_isa(isa: Isa) -> Iterator[None]:
    """Limits the instruction set of CPU kernels to ``"baseline"``, ``"avx2"``, ``"avx512"`` or
    ``"avx512bf16"`` within the context.

    Raises:
        ValueError: there is no such instruction set.
    """
    context = _C.cap_isa(isa)
    try:
        yield
    finally:
        _C.leave(context)
