"""convkern: a fast drop-in for torch.nn.Conv2d with its own CPU and CUDA kernels."""

# ruff: noqa: E402  (the interpreter is looked at before torch is imported)
from convkern._interpreter import refuse_subinterpreters as _refuse_subinterpreters

_refuse_subinterpreters()

import torch as _torch

# A process can define the ops only once.
if hasattr(_torch.ops.convkern, "conv2d"):
    raise ImportError(
        "convkern: it is loaded in this process already, from another copy or before sys.modules "
        "was purged of it, and can be only once"
    )

from convkern import _C
from convkern._register import flops as _flops  # noqa: F401  (registers formulas)
from convkern._register import vmap as _vmap  # noqa: F401  (registers rules)
from convkern._register.onnx import onnx_translations
from convkern.config import (
    get_float32_precision,
    set_batch_invariant,
    set_float32_precision,
    set_weight_cache,
    use_isa,
    use_kernel,
    weight_cache_bytes,
)
from convkern.conv1d import Conv1d, ConvTranspose1d, conv1d, conv_transpose1d
from convkern.explain import explain
from convkern.functional import conv2d, linear
from convkern.interception import disable, enable, enabled
from convkern.memory import keep_memory
from convkern.modules import Conv2d, LazyConv2d, Linear
from convkern.optimize import CannotTrace, optimize
from convkern.profiling import measure_roof as _measure_roof
from convkern.profiling import profile
from convkern.surgery import replace_conv2d, replace_layers, restore_conv2d, restore_layers
from convkern.training import fuse_training, restore_training
from convkern.transposed import ConvTranspose2d, conv_transpose2d
from convkern.window import output_size, same_padding

__version__ = "0.1.0"

__all__ = [
    "CannotTrace",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "LazyConv2d",
    "Linear",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "disable",
    "enable",
    "enabled",
    "explain",
    "fuse_training",
    "get_float32_precision",
    "keep_memory",
    "linear",
    "onnx_translations",
    "optimize",
    "output_size",
    "profile",
    "reference",
    "replace_conv2d",
    "replace_layers",
    "restore_conv2d",
    "restore_layers",
    "restore_training",
    "same_padding",
    "set_batch_invariant",
    "set_float32_precision",
    "set_weight_cache",
    "use_isa",
    "use_kernel",
    "weight_cache_bytes",
]

_C.configure_from_environment()
if _C.profiling():
    _measure_roof()
