"""Values that depend on no input are computed once and become constants of the graph."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from convkern.optimize.effects import Aliases, mutated
from convkern.optimize.graphs import CannotTrace, add_constant, aten, constant, val

# Operators whose result depends on the shape, dtype and device of their first argument only.
_BY_SHAPE = frozenset({
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default,
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default,
    aten.empty_like.default,
})  # fmt: skip


def fold_constants(module: GraphModule, aliases: Aliases) -> None:
    """Computes the nodes that depend on no input, among them those that write to new tensors, and
    lets all other nodes use the results.

    Raises:
        CannotTrace: such a node changes a parameter or a buffer in place.
    """
    known = _constant_nodes(module, aliases)
    values: dict[Node, Any] = {}
    origins: dict[Any, dict[int, Tensor]] = {}  # of each group of nodes that share memory
    own: set[int] = set()
    for node in list(module.graph.nodes):
        if node not in known:
            continue
        group = origins.setdefault(aliases[node], {})
        tensor = constant(module, node)
        if tensor is not None:
            values[node] = tensor
            group[id(tensor)] = tensor
            own |= _memory(tensor)
            continue
        for argument in node.all_input_nodes:
            if argument in known:
                group |= origins[aliases[argument]]
        for written in mutated(node):
            origins[aliases[written]] |= group
            if own & _memory(values[written]):
                raise CannotTrace(f"{node.target} changes a parameter or buffer in place")
        values[node] = _compute(node, values)
    for node, value in values.items():
        readers = [user for user in node.users if user not in known]
        if node.op == "get_attr" or not readers:
            continue
        found = list(origins[aliases[node]].values())
        new = add_constant(module, min(readers), partial(_same, value), found)
        aliases.inherit(new, node)
        for reader in readers:
            reader.replace_input_with(node, new)
    for node in reversed(list(values)):
        if not node.users:
            module.graph.erase_node(node)


def _constant_nodes(module: GraphModule, aliases: Aliases) -> set[Node]:
    """Returns the nodes that depend on no input. A value that is changed in place counts only if
    all nodes that change it do, and if no other node reads it before the last change."""
    changed: set[Any] = set()  # groups that are not constant
    while True:
        before = len(changed)
        known: set[Node] = set()
        read: set[Any] = set()  # groups that nodes which are not constant have read
        for node in module.graph.nodes:
            arguments = node.all_input_nodes
            fixed = node.op == "get_attr" or (
                _is_pure(node)
                and (node.target in _BY_SHAPE or all(a in known for a in arguments))
                and aliases[node] not in changed
            )
            groups = {aliases[a] for a in mutated(node)}
            if fixed:
                known.add(node)
                changed |= groups & read
            else:
                changed |= groups
                read |= {aliases[a] for a in arguments}
        if len(changed) == before:
            return known


def _is_pure(node: Node) -> bool:
    """Returns whether a node computes the same tensors from the same arguments each time. Lists of
    tensors have no place among constants, so nodes may only take tensors out of them."""
    if node.target is operator.getitem:
        return isinstance(val(node), Tensor)
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    if not isinstance(val(node), Tensor):
        lists = isinstance(val(node), (list, tuple))
        if not lists or any(user.target is not operator.getitem for user in node.users):
            return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _compute(node: Node, values: dict[Node, Any]) -> Any:
    """Returns the value of a constant node."""
    target: Any = node.target

    def value_of(argument: Node) -> Any:
        if argument in values:
            return values[argument]
        fake = argument.meta["val"]  # of an operator that reads the shape only
        return torch.empty((), dtype=fake.dtype, device=fake.device).expand(fake.shape)

    with torch.no_grad():
        return target(*map_arg(node.args, value_of), **map_arg(node.kwargs, value_of))


def _same(value: Tensor) -> Tensor:
    return value


def _memory(value: Any) -> set[int]:
    """Returns the identity of the memory of a tensor, or of a list of tensors."""
    tensors = value if isinstance(value, (list, tuple)) else [value]
    return {
        t.untyped_storage()._cdata
        for t in tensors
        if isinstance(t, Tensor) and t.layout is torch.strided
    }
