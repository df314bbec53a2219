"""Inference of the graphs that Dynamo captures, by the fusions and programs of
:func:`convkern.optimize`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from convkern.optimize.graphs import CannotTrace
from convkern.optimize.optimized import MAX_PLANS, Optimized
from convkern.optimize.recent import Recent


def inference(module: GraphModule, tensors: Sequence[Tensor]) -> Callable[..., Any]:
    """Returns a function that computes a graph of Dynamo with these tensors in inference.

    Plans are made when the function is first called with inputs of some shapes, which serves
    dynamic shapes too. Graphs for which there can be none, and graphs of other devices than the
    CPU, run as they are, on torch's own operators.
    """
    if not all(t.is_cpu for t in tensors):
        return module.forward
    return _Compiled(module)


class _Compiled:
    """A graph, with an :class:`Optimized` for each set of parameters and other values that are not
    tensors, of which those are kept that were used last. Dynamo passes parameters and buffers as
    arguments of the graph."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module.eval()
        placeholders = module.graph.find_nodes(op="placeholder")
        self.is_weight = [_is_weight(n) for n in placeholders]
        self.is_number = [_is_number(n) for n in placeholders]
        self.known: Recent[_Known] = Recent(MAX_PLANS)

    def __call__(self, *arguments: Any) -> Any:
        fixed: list[Any] = []  # None in the place of each input
        inputs: list[Tensor] = []
        kinds = zip(arguments, self.is_weight, self.is_number, strict=True)
        for value, is_weight, is_number in kinds:
            if is_number:
                fixed.append(value.item())
            elif is_weight or not isinstance(value, Tensor):
                fixed.append(value)
            else:
                inputs.append(value)
                fixed.append(None)
        key = tuple((type(v), v) if isinstance(v, (int, float)) else id(v) for v in fixed)
        known = self.known.get(key)
        if known is None:
            known = _Known(fixed, Optimized(_Bound(self.module, fixed)))
            self.known = self.known.added(key, known)
        if known.optimized is not None:
            try:
                return known.optimized(*inputs)
            except CannotTrace as error:
                warnings.warn(f"convkern leaves a graph to torch: {error}", stacklevel=2)
                self.known = self.known.added(key, _Known(fixed, None))
        return self.module.forward(*arguments)


@dataclass(frozen=True)
class _Known:
    """The values of a graph's arguments that are no inputs, and the graph with these values. None:
    torch computes it."""

    fixed: list[Any]  # held here, because some are told by their identity
    optimized: Optimized | None


class _Bound(nn.Module):
    """A graph with some of its arguments given: those that are not None in `fixed`. A number that
    the graph takes out of a tensor is given as a number."""

    def __init__(self, module: GraphModule, fixed: list[Any]) -> None:
        super().__init__()
        self.module = copy.copy(module)  # has a graph of its own, and the same weights
        self.fixed = fixed
        placeholders = self.module.graph.find_nodes(op="placeholder")
        for node, value in zip(placeholders, fixed, strict=True):
            for user in list(node.users) if _is_number(node) else ():
                user.replace_all_uses_with(value)
                self.module.graph.erase_node(user)
        self.module.recompile()
        for place, value in enumerate(fixed):
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"weight{place}", value)
            elif isinstance(value, Tensor):
                self.register_buffer(f"weight{place}", value)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        rest = iter(inputs)
        return self.module.forward(*(next(rest) if v is None else v for v in self.fixed))


def _is_number(placeholder: Node) -> bool:
    """Returns whether an argument of a graph is a tensor of one number that the graph takes out of
    it, as Dynamo passes floats that may change."""
    users = placeholder.users
    return bool(users) and all(u.op == "call_method" and u.target == "item" for u in users)


def _is_weight(placeholder: Node) -> bool:
    """Returns whether an argument of a graph is a parameter or buffer of the model, by what Dynamo
    says about it."""
    facts = placeholder.meta.get("tensor_dict", {})
    value = placeholder.meta.get("example_value")
    return "_dynamo_static_input_type" in facts or isinstance(value, nn.Parameter)
