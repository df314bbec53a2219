"""The choices by name that functions and layers take, as types: what else is given raises."""

from typing import Literal

Activation = Literal["relu"]
Padding = Literal["same", "valid"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Precision = Literal["highest", "high"]
Isa = Literal["baseline", "avx2", "avx512", "avx512bf16"]
Dtype = Literal["f32", "f64", "bf16", "f16"]
Layout = Literal["nchw", "nhwc"]
Pass = Literal["fwd", "gx", "gw"]
