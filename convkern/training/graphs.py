"""Reading graphs of Dynamo: calls of torch's functions with torch's own arguments."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from convkern.optimize.activations import clamp, if_valid

_SUMS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
_ACTIVATIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", "relu": "relu", "relu_": "relu",
    F.relu6: "relu6", F.silu: "silu", F.hardswish: "hardswish",
}  # fmt: skip
# Methods that change the tensor that they belong to end so. Functions are told by these names.
_IN_PLACE = frozenset({
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem,
    operator.iand, operator.ior, operator.ixor, operator.ipow, operator.ifloordiv, operator.imod,
})  # fmt: skip


def value_of(node: Any) -> Tensor | None:
    """Returns the fake tensor that a node stands for, or None if it is no node of a tensor."""
    value = node.meta.get("example_value") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def is_number(value: Any) -> bool:
    """Returns whether an argument is a number, or a node that is one when the graph runs, as Dynamo
    passes floats that change."""
    if isinstance(value, Node):
        return isinstance(
            value.meta.get("example_value"), (int, float, torch.SymInt, torch.SymFloat)
        )
    return isinstance(value, (int, float))


def arguments(node: Node, *names: str) -> dict[str, Any]:
    """Returns the arguments of a call by name. Those that are not given are missing."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def path_of(node: Node, paths: Mapping[str, str]) -> str:
    """Returns the path of the module that a call comes from, such as "layer1.0.bn1"; "" if it comes
    from the model itself.

    Args:
        paths: the paths of the model's modules by their ids as text. A graph that begins within a
            module has paths from there.
    """
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    module = next(reversed(stack))
    path: str = stack[module][0]
    return paths.get(module, path.removeprefix("L['self']").removeprefix("."))


def calls_between(first: Node, last: Node) -> Iterator[Node]:
    """Yields the nodes that a graph runs after one node and before another one."""
    node = first.next
    while node is not last:
        yield node
        node = node.next


def changes_in_place(node: Node) -> bool:
    """Returns whether a call may change one of its arguments in place."""
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    named_so = name.endswith("_") and not name.endswith("__")
    return bool(node.kwargs.get("inplace")) or node.target in _IN_PLACE or named_so


def changes_a_number(node: Node) -> bool:
    """Returns whether a call may change a tensor in place that batch norms compute with: any but
    those of integers, such as their counters."""
    values = [value_of(n) for n in node.all_input_nodes]
    return changes_in_place(node) and any(v is None or v.is_floating_point() for v in values)


def changes_a_mode(node: Node) -> bool:
    """Returns whether a call is there for what it does to the thread, such as to turn gradients
    off: Dynamo knows of no value."""
    return node.op == "call_function" and "example_value" not in node.meta


def is_changed_or_returned(node: Node) -> bool:
    """Returns whether a call changes the memory of a node's result in place, or the graph returns
    it. Views are found by their memory."""
    value = value_of(node)
    if value is None:
        return True
    memory = value.untyped_storage()._cdata
    for other in node.graph.nodes:
        if other.op != "output" and not changes_in_place(other):
            continue
        tensors = (value_of(n) for n in other.all_input_nodes)
        if any(t is not None and t.untyped_storage()._cdata == memory for t in tensors):
            return True
    return False


def summands(node: Node) -> tuple[Node, Node] | None:
    """Returns the two tensors of a plain sum, or None if the call is anything else. The first one
    may be changed in place."""
    if node.target not in _SUMS or node.kwargs or len(node.args) != 2:
        return None
    a, b = node.args
    x, y, z = value_of(a), value_of(b), value_of(node)
    if x is None or y is None or z is None or a is b:
        return None
    same = x.shape == y.shape == z.shape and x.dtype == y.dtype == z.dtype
    return (a, b) if same else None  # type: ignore[return-value]


def activation_of(node: Node) -> str | None:
    """Returns the name of the activation that a call computes of its first argument, or None."""
    if node.target in (F.hardtanh, torch.clamp, "clamp"):
        plain = node.target is not F.hardtanh
        names = ("input", "min", "max") if plain else ("input", "min_val", "max_val", "inplace")
        given = arguments(node, *names)
        low, high = (given.get(name, None if plain else default) for name, default in
                     zip(names[1:3], (-1.0, 1.0), strict=True))  # fmt: skip
        numbers = all(v is None or isinstance(v, (int, float)) for v in (low, high))
        return if_valid(clamp(low, high)) if numbers else None
    if node.target in (F.leaky_relu, torch._C._nn.leaky_relu):
        slope = arguments(node, "input", "negative_slope", "inplace").get("negative_slope", 0.01)
        number = isinstance(slope, (int, float))
        return if_valid(f"leaky_relu({float(slope)!r})") if number else None
    return _ACTIVATIONS.get(node.target)
