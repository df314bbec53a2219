"""Context managers that narrow the choice of kernels, for tests and experiments.

The settings are process-wide: they hold for all threads while a context is open. The environment
variables CONVKERN_KERNEL and CONVKERN_ISA set the same at import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convkern import _C


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
    """Caps the instruction set of CPU kernels at ``"baseline"``, ``"avx2"`` or ``"avx512"``.

    Raises:
        ValueError: there is no such instruction set.
    """
    previous = _C.isa_cap()
    _C.set_isa_cap(isa)
    try:
        yield
    finally:
        _C.set_isa_cap(previous)
