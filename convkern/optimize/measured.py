"""Layers that torch computes faster than convkern, by measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from convkern import _C
from convkern.activations import activated
from convkern.measuring import MARGIN, seconds
from convkern.optimize import fused
from convkern.optimize.activations import operator_of
from convkern.optimize.graphs import aten, emit, path_of, replace, val
from convkern.optimize.program import is_of_pixels, layer_of, result_like
from convkern.optimize.rewriting import LAYERS, field
from convkern.window import PADS_OF_MODES, pad_of


@dataclass(frozen=True)
class Slower:
    """A layer that torch computes faster than convkern.

    Attributes:
        problem: its problem string.
        path: the part of the model that it is, such as "features.3.conv.0". "" is the model itself.
            None if it is not known.
    """

    problem: str
    path: str | None


def keep_faster(module: GraphModule, threads: int) -> list[Slower]:
    """Replaces the layers of a graph that torch computes faster on so many threads by torch's
    operators, and returns these layers. Layers of the same sizes are timed once."""
    slower = []
    known: dict[str, bool] = {}
    with torch.no_grad(), _torch_threads(threads):
        for node in list(module.graph.nodes):
            if node.target not in LAYERS:
                continue
            text = str(layer_of(module, node, threads)[2])
            if text not in known:
                known[text] = _is_torch_faster(module, node, threads)
            if known[text]:
                slower.append(Slower(text, path_of(node)))
                _leave_to_torch(module, node)
    return slower


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_torch_faster(module: GraphModule, node: Node, threads: int) -> bool:
    source: Any = node.args[0]
    x = _random(val(source))
    y = result_like(node)
    residual = _random(y) if field(node, "residual") is not None else None
    weight, bias, problem = layer_of(module, node, threads)
    program = _C.Program(3, 0, threads)
    program.set_inputs([0] if residual is None else [0, 1])
    program.set_outputs([(2, y, True)])
    program.add_convolution(
        problem, 0, -1 if residual is None else 1, 2, y, -1, weight, bias, is_of_pixels(node), []
    )  # fmt: skip
    given = [x] if residual is None else [x, residual]
    w = weight[:, :, 0, 0] if node.target is fused.linear else weight
    if w.dim() == 4:
        w = w.contiguous(memory_format=torch.channels_last)
    rest = [w, bias, *node.args[3:-2], None, None]
    layer: Any = node.target  # torch's functions

    def theirs() -> Tensor:
        result: Tensor = layer(x, *rest)
        return activated(result if residual is None else result.add_(residual), activation)

    activation = field(node, "activation")
    ours = seconds(lambda: program.run(given, 1))
    return seconds(theirs) < MARGIN * ours


def _random(like: Tensor) -> Tensor:
    t = torch.randn(like.shape).to(like.dtype)
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def _leave_to_torch(module: GraphModule, node: Node) -> None:
    """Replaces a layer by torch's operators."""
    operands: list[Any]
    *operands, activation, residual = node.args
    target = aten.linear.default
    if node.target is fused.conv2d:
        mode: Any = operands.pop()
        target = aten.conv2d.default
        padding: Any = operands[4]
        if mode != "zeros" or len(padding) == 4:
            pad = pad_of(padding), PADS_OF_MODES[mode]
            operands[0] = emit(module, node, aten.pad.default, operands[0], *pad)
            operands[4] = [0, 0]
    result = emit(module, node, target, *operands)
    if residual is not None:
        result = emit(module, node, aten.add.Tensor, result, residual)
    if activation is not None:
        operator, numbers, how = operator_of(str(activation))
        result = emit(module, node, operator, result, *numbers, **how)
    replace(node, result)
