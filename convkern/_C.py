"""Loads the native binding for the installed torch and stands in for it.

The package holds one binding for each minor version of torch, because torch's C++ interface changes
between them. All bindings use the same library of kernels.
"""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

_NATIVE = Path(__file__).parent / "_native"
_REMEDY = "Run `pip install --no-build-isolation .` in the source tree to build one."


def _bindings() -> dict[tuple[int, int], Path]:
    """Returns the files of the bindings by the minor version of torch that each is for."""
    found = {}
    for suffix in EXTENSION_SUFFIXES:
        for file in _NATIVE.glob(f"torch_*_*/_C{suffix}"):
            _, major, minor = file.parent.name.split("_")
            found[int(major), int(minor)] = file
    return found


def _file() -> Path:
    """Returns the binding for the installed torch. Raises ImportError if there is none."""
    found = _bindings()
    major, minor = torch.__version__.split(".")[:2]
    file = found.get((int(major), int(minor)))
    if file is None:
        versions = ", ".join(f"{a}.{b}" for a, b in sorted(found)) or "none at all"
        raise ImportError(
            f"convkern: it has no native binding for torch {torch.__version__}, which is "
            f"installed; it has bindings for torch {versions}. {_REMEDY}"
        )
    return file


def _load() -> None:
    file = _file()
    loader = ExtensionFileLoader(__name__, str(file))
    spec = spec_from_file_location(__name__, file, loader=loader)
    assert spec is not None
    try:
        binding = module_from_spec(spec)
        loader.exec_module(binding)
    except ImportError as error:
        raise ImportError(
            f"convkern: the native binding for torch {torch.__version__} could not be loaded: "
            f"{error}. {_REMEDY}"
        ) from error
    cuda = torch.version.cuda
    kernels = _NATIVE / f"libconvkern_cuda{cuda.partition('.')[0]}.so" if cuda else None
    if kernels is not None and kernels.exists():
        binding.load_cuda(str(kernels))
    sys.modules[__name__] = binding


_load()
