"""Counts the calls of ops, those of torch and of convkern."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Count(TorchDispatchMode):
    """Counts the calls of each op below autograd, by the op's full name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.name()] += 1
        return func(*args, **(kwargs or {}))

    @property
    def of_convkern(self) -> dict[str, int]:
        """Returns the calls of convkern's ops."""
        return {op: n for op, n in self.calls.items() if op.startswith("convkern::")}
