"""convkern.onnx_translations writes exported programs with convkern's ops as ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """A table with which :func:`torch.onnx.export` writes the ops of an exported program as
    standard ONNX operators, Conv and Relu, for any runtime::

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
    ) -> Any:
        rows, columns = padding
        y = op.Conv(
            input, weight, bias,
            strides=[*stride], pads=[rows, columns, rows, columns], dilations=[*dilation],
            group=groups,
        )  # fmt: skip
        return y if activation is None else op.Relu(y)

    return {torch.ops.convkern.conv2d.default: conv2d}
