"""Times kernels on a GPU, with a flushed L2 cache and without the Python that launches them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from convkern import _C
from convkern.bench.timing import Call

_WARM_UPS = 3  # the first one lets cuDNN choose
_MOST_LEAD = 0.02  # seconds
_CYCLES_A_SECOND = 3e9  # about the fastest clock of a GPU; a slower one only waits longer


def require_gpu() -> None:
    """Raises ValueError where convkern cannot run on a GPU."""
    if _C.build_info()["cuda"] is None:
        raise ValueError("device cuda: this build of convkern has no CUDA kernels")
    if not torch.cuda.is_available():
        raise ValueError("device cuda: this machine has no GPU that torch can use")


@contextmanager
def cudnn_chooses(tf32: bool) -> Iterator[None]:
    """Makes torch's convolutions within the context those that cuDNN's benchmark chooses, in TF32
    or in exact float32."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.conv.fp32_precision
    # Set the precision of convolutions by name. allow_tf32 = False would leave it to
    # torch.backends.fp32_precision.
    cudnn.enabled, cudnn.benchmark = True, True
    cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.conv.fp32_precision = before


def l2_buffer() -> Tensor:
    """Returns a buffer on the current GPU that is twice as large as its L2 cache. The cache does
    not always replace the oldest line, so a buffer of its own size would leave some lines."""
    size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return torch.empty(2 * size, dtype=torch.uint8, device="cuda")


class EventClock:
    """The stopwatch (see time_in_turn) of the current GPU and stream. It measures the time from an
    event before a call to an event after it.

    Before them it queues a call that is not timed, a wait, and `flush`, which must leave nothing of
    the operands in the L2 cache. Nothing blocks while all this is queued. The wait is so long that
    the events and the call are in the queue before the GPU gets to them. The time therefore
    includes the gaps between the kernels of a call, but not Python or the launches.

    If the GPU gets there first, the measurement is discarded and the wait made longer. A call that
    itself waits for the GPU can never be queued ahead. Its time includes Python's, and a
    RuntimeWarning says so.
    """

    def __init__(self, flush: Call) -> None:
        self._flush = flush

    def __call__(self, call: Call) -> Callable[[], float]:
        for _ in range(_WARM_UPS):
            call()
        torch.cuda.synchronize()
        begin = perf_counter()
        call()
        lead = 2 * (perf_counter() - begin)

        def measure() -> float:
            nonlocal lead
            while True:
                lead = min(lead, _MOST_LEAD)
                seconds, ahead = self._time(call, lead)
                if ahead:
                    return seconds
                if lead == _MOST_LEAD:
                    warnings.warn(
                        "a call waits for the GPU: its time includes Python's",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    return seconds
                lead *= 2

        return measure

    def _time(self, call: Call, lead: float) -> tuple[float, bool]:
        """Returns the seconds of the call, and whether all of it was queued before the GPU began
        it."""
        start, end = _event(), _event()
        call()
        torch.cuda._sleep(round(lead * _CYCLES_A_SECOND))  # type: ignore[no-untyped-call]
        self._flush()
        start.record()
        call()
        end.record()
        ahead = not start.query()  # type: ignore[no-untyped-call]
        end.synchronize()
        return start.elapsed_time(end) * 1e-3, ahead


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
