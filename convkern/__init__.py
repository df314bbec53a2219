"""convkern: a fast drop-in for torch.nn.Conv2d with its own CPU and CUDA kernels."""

# ruff: noqa: E402  (the interpreter is looked at before torch is imported)
from convkern._interpreter import refuse_subinterpreters as _refuse_subinterpreters

_refuse_subinterpreters()

import torch as _torch

try:
    from convkern import _C
except ImportError as error:
    raise ImportError(
        "convkern: the native extension could not be loaded: "
        f"{error}. It must be built against the installed torch {_torch.__version__}: "
        "run `pip install --no-build-isolation .` in the source tree."
    ) from error

from convkern import batching as _batching  # noqa: F401  (registers rules)
from convkern import flops as _flops  # noqa: F401  (registers formulas)
from convkern.config import (
    get_float32_precision,
    set_float32_precision,
    set_weight_cache,
    use_isa,
    use_kernel,
    weight_cache_bytes,
)
from convkern.explain import explain
from convkern.functional import conv2d, output_size, same_padding
from convkern.modules import Conv2d, LazyConv2d
from convkern.onnx import onnx_translations
from convkern.profiling import measure_roof as _measure_roof
from convkern.profiling import profile
from convkern.surgery import replace_conv2d, restore_conv2d

__version__ = "0.1.0"

__all__ = [
    "Conv2d",
    "LazyConv2d",
    "conv2d",
    "explain",
    "get_float32_precision",
    "onnx_translations",
    "output_size",
    "profile",
    "reference",
    "replace_conv2d",
    "restore_conv2d",
    "same_padding",
    "set_float32_precision",
    "set_weight_cache",
    "use_isa",
    "use_kernel",
    "weight_cache_bytes",
]

_BUILT = _C.build_info()["torch"]
# torch's C++ interface changes with the minor version, perhaps without a missing symbol.
if _BUILT.split(".")[:2] != _torch.__version__.split(".")[:2]:
    raise ImportError(
        f"convkern: this build is for torch {_BUILT}, and torch {_torch.__version__} is installed: "
        "run `pip install --no-build-isolation .` in the source tree."
    )

_C.configure_from_environment()
if _C.profiling():
    _measure_roof()
