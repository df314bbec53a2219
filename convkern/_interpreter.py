"""A check of the interpreter that must come before torch is imported."""

from __future__ import annotations

import importlib
from types import ModuleType


def _interpreters() -> ModuleType | None:
    """Returns CPython's private module of interpreters. Its name changed in 3.13."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def refuse_subinterpreters() -> None:
    """Raises ImportError outside of the main interpreter. torch's extension can be initialised only
    once in a process: a second time it reads memory that it has freed."""
    interpreters = _interpreters()
    if interpreters is None:
        return
    # Python 3.13 and later give pairs (id, owner).
    ids = [
        i[0] if isinstance(i, tuple) else i
        for i in (interpreters.get_current(), interpreters.get_main())
    ]
    if ids[0] != ids[1]:
        raise ImportError(
            "convkern: import it in the main interpreter, torch does not support subinterpreters"
        )
