"""The named choices that functions and layers accept, as types. They raise for other names."""

from typing import Literal

Activation = Literal["relu"]
Padding = Literal["same", "valid"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Precision = Literal["highest", "high", "medium"]
Isa = Literal["baseline", "avx2", "avx512", "avx512bf16"]
Dtype = Literal["f32", "f64", "bf16", "f16"]
Layout = Literal["nchw", "nhwc"]
Pass = Literal["fwd", "gx", "gw"]
