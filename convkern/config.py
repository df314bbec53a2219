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
    """Sets which algorithms may compute convolutions on the CPU, by how much they round, as
    :func:`torch.set_float32_matmul_precision` does for matrix products.

    Errors below are the largest of all elements against float64, relative to the root mean square
    of the result:

    - ``"highest"`` allows only the direct sum, in any order. Each result is as accurate as its own
      terms; 2e-6 on ResNet-50's 3x3 layers.
    - ``"high"``, the default, also allows algorithms whose error is at most twice that of torch's
      convolution. ``fft`` computes large kernels by Fourier transforms, in tiles by the
      overlap-save method: 7.6e-7 to 1.5e-6, where torch has 3.0e-6 to 2.8e-5. ``winograd_2x2``
      computes 3x3 kernels with stride 1 and dilation 1 by Winograd's F(2x2, 3x3): 1.4e-6 to 2.6e-6
      on ResNet-50's layers, where torch has 1.2e-6 to 1.8e-6 in NCHW and 4.9e-6 to 1.2e-5 in
      channels_last.
    - ``"medium"`` also allows ``winograd_4x4``, Winograd's F(4x4, 3x3), for the same layers in
      float32: 1.5e-5 to 5.2e-5, with a quarter of the products of the direct sum.

    Under ``"high"`` and ``"medium"`` the direct sum still computes each image whose numbers are not
    finite or very large, so NaN and infinities are where it puts them. It also computes each image
    with a pixel that has more than a quarter of the energy (the sum of squares) of its plane or
    part, because other results would lose digits beside it. The gradient of the weight, a sum over
    the batch, is computed again as a whole if it is not finite. The result of an image never
    depends on another image.

    The name has float32 because float32 is what the setting matters for. ``fft`` and
    ``winograd_2x2`` also serve float64, and through float32 bfloat16 and float16. TF32 on CUDA
    follows torch's own switches.

    Winograd's algorithms are those of Lavin and Gray, "Fast Algorithms for Convolutional Neural
    Networks", CVPR 2016.

    Args:
        precision: ``"highest"``, ``"high"`` or ``"medium"``. The environment variable
            CONVKERN_PRECISION sets it at import.

    Raises:
        ValueError: there is no such precision.

    Examples:
        >>> convkern.set_float32_precision("highest")
        >>> convkern.get_float32_precision()
        'highest'
    """
    _C.set_float32_precision(precision)


def get_float32_precision() -> Precision:
    """Returns the precision that :func:`set_float32_precision` has set: ``"highest"``, ``"high"``
    (if none was set) or ``"medium"``."""
    return _C.float32_precision()


def set_weight_cache(keep: bool) -> None:
    """Sets whether forward calls keep weights in the form into which their kernels have rearranged
    them. The next call with the same weight then need not rearrange it. The cache is off by
    default, and switching it off frees what it holds.

    The cache helps inference with small batches, where rearranging takes a good part of the time.
    It works in ``torch.no_grad()`` and ``torch.inference_mode()``, and for weights that require no
    gradient. It holds the weights of implicit_gemm, the kernel for layers with many channels, which
    take as much memory as before. It also holds those that Winograd's kernels have transformed,
    which take 2.8 times as much for F(2x2, 3x3) and 5 times as much for F(4x4, 3x3), together with
    a copy for the direct sum. Of layers with more than 65,536 (or 29,127) pairs of channels,
    Winograd's kernels transform the weights anew in each task, and nothing is kept.
    :func:`weight_cache_bytes` tells the size. The entry of a weight that no longer exists is freed
    when the next weight is stored.

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
