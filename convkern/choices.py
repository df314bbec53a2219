"""The named choices that functions and layers accept, as types. They raise for other names."""

from typing import Literal

# "relu", "relu6", "clamp(low,high)", "leaky_relu(slope)", "hardsigmoid", "hardswish", "sigmoid",
# "silu", "gelu" or "gelu_tanh"
Activation = str
Padding = Literal["same", "valid", "same_upper", "same_lower"]
Sides = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Precision = Literal["highest", "high", "medium"]
Isa = Literal["baseline", "avx2", "avx512", "avx512bf16"]
Dtype = Literal["f32", "f64", "bf16", "f16"]
Layout = Literal["nchw", "nhwc"]
Pass = Literal["fwd", "gx", "gw"]
