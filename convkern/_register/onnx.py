"""convkern.onnx_translations writes exported programs with convkern's ops as ONNX files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from convkern.window import sides_of

# ONNX's names of the modes of padding.
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """A table with which :func:`torch.onnx.export` writes the ops of an exported program as
    standard ONNX operators for any runtime::

        program = torch.export.export(model, (images,))
        torch.onnx.export(
            program, (), "model.onnx", custom_translation_table=convkern.onnx_translations()
        )

    A model itself needs no translations.

    Raises:
        ImportError: onnxscript, which torch.onnx.export itself needs, is not installed.
    """
    try:
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ImportError(
            "onnx_translations needs what torch.onnx.export needs: pip install onnx onnxscript"
        ) from error

    def conv2d(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
        activation: str | None = None,
        residual: Any = None,
        padding_mode: str = "zeros",
    ) -> Any:
        (top, bottom), (left, right) = sides_of(padding)
        pads = [top, left, bottom, right]
        if padding_mode != "zeros":
            every = [0, 0, top, left, 0, 0, bottom, right]
            input = op.Pad(
                input, op.Constant(value_ints=every), mode=_PAD_MODES[padding_mode]
            )  # fmt: skip
            pads = [0, 0, 0, 0]
        y = op.Conv(
            input, weight, bias,
            strides=[*stride], pads=pads, dilations=[*dilation], group=groups,
        )  # fmt: skip
        return activated(y if residual is None else op.Add(y, residual), activation)

    def activated(y: Any, activation: str | None) -> Any:
        name, _, rest = (activation or "").partition("(")
        numbers = [float(number) for number in rest.rstrip(")").split(",") if number]

        def constant(number: float) -> Any:
            return op.CastLike(op.Constant(value_float=number), y)

        match name:
            case "":
                return y
            case "relu":
                return op.Relu(y)
            case "relu6":
                return op.Clip(y, constant(0), constant(6))
            case "clamp":
                return op.Clip(y, constant(numbers[0]), constant(numbers[1]))
            case "leaky_relu":
                return op.LeakyRelu(y, alpha=numbers[0])
            case "hardsigmoid":
                return op.HardSigmoid(y, alpha=1 / 6, beta=0.5)
            case "hardswish":
                return op.HardSwish(y)
            case "sigmoid":
                return op.Sigmoid(y)
            case "silu":
                return op.Mul(y, op.Sigmoid(y))
            case "gelu":
                erf = op.Erf(op.Mul(y, constant(0.5**0.5)))
                return op.Mul(op.Mul(y, constant(0.5)), op.Add(erf, constant(1)))
            case "gelu_tanh":
                cubic = op.Mul(op.Mul(op.Mul(y, y), y), constant(0.044715))
                tanh = op.Tanh(op.Mul(op.Add(y, cubic), constant((2 / math.pi) ** 0.5)))
                return op.Mul(op.Mul(y, constant(0.5)), op.Add(tanh, constant(1)))
        raise ValueError(f"there is no ONNX form of activation={activation!r}")

    return {torch.ops.convkern.conv2d.default: conv2d}
