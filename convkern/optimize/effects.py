"""Nodes with effects: which values share memory, and graphs without operators in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode

from convkern.optimize.graphs import CannotTrace, arguments, aten, constant, emit, replace, val

_DROPOUTS = frozenset({"dropout", "dropout_", "feature_dropout", "feature_dropout_",
                       "alpha_dropout", "alpha_dropout_", "feature_alpha_dropout",
                       "feature_alpha_dropout_"})  # fmt: skip
_COPIES = frozenset({aten.clone.default, aten._to_copy.default, aten.lift_fresh_copy.default,
                     aten.lift_fresh.default, aten.detach_copy.default, aten.alias_copy.default,
                     aten.to.dtype, aten.to.dtype_layout, aten.to.device,
                     aten.to.other})  # fmt: skip

# Operators that read the memory of their first argument by strides of their own.
_BY_STRIDES = frozenset({aten.as_strided.default, aten.as_strided_copy.default,
                         aten.as_strided_scatter.default})  # fmt: skip
# Operators whose first argument must have the elements of its last axis adjacent.
_OF_LAST_AXIS = frozenset({aten.view.dtype, aten.view_as_complex.default})


class Aliases:
    """The groups of nodes whose values share memory. A node of a list of tensors belongs to one
    group with those tensors."""

    def __init__(self, module: GraphModule) -> None:
        self._parent: dict[Any, Any] = {}
        self._key: dict[Node, Any] = {}
        for node in module.graph.nodes:
            self._key[node] = node
            owner = constant(module, node)
            tensors = [owner] if owner is not None else _tensors(val(node))
            for tensor in tensors:
                if tensor.layout is torch.strided:
                    self._join(node, tensor.untyped_storage()._cdata)
            if isinstance(node.target, OpOverload):
                # The fake values of constants and of their views do not share memory.
                for argument in _aliased(node):
                    if argument.op == "get_attr":
                        self._join(node, argument)

    def __getitem__(self, node: Node) -> Any:
        """Returns the name of a node's group."""
        return self._find(self._key.get(node, node))

    def inherit(self, new: Node, old: Node) -> None:
        """Puts a new node into the group of an older one."""
        self._key[new] = self._key.get(old, old)

    def _find(self, item: Any) -> Any:
        while self._parent.get(item, item) is not item:
            item = self._parent[item]
        return item

    def _join(self, a: Any, b: Any) -> None:
        self._parent[self._find(b)] = self._find(a)


class Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operators that would change a model's own tensors while it is traced. The tracer
    runs operators that have no input of the model among their arguments."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = {
            t.untyped_storage()._cdata for t in tensors if t.layout is torch.strided
        }  # fmt: skip

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator, or raises CannotTrace."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for place, argument in enumerate(func._schema.arguments):
                written = argument.alias_info is not None and argument.alias_info.is_write
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                if written and any(self._is_own(tensor) for tensor in _tensors(value)):
                    raise CannotTrace(f"{func} changes a parameter or buffer in place")
        return func(*args, **kwargs)

    def _is_own(self, tensor: Tensor) -> bool:
        dense = not isinstance(tensor, FakeTensor) and tensor.layout is torch.strided
        return dense and tensor.untyped_storage()._cdata in self._own


def mutated(node: Node) -> list[Node]:
    """Returns the arguments that a node writes to."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return []
    given = arguments(node)
    written: list[Node] = []
    for argument in node.target._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            map_arg(given[argument.name], written.append)
    return written


def remove_modes(module: GraphModule) -> None:
    """Removes the nodes that set whether gradients are recorded, which have no effect on values,
    and refuses those that set autocast."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or isinstance(node.target, OpOverload):
            continue
        name = getattr(node.target, "__name__", "")
        if "autocast" in name:
            raise CannotTrace("the model enters autocast, which a graph for inference cannot do")
        if name == "_set_grad_enabled":
            module.graph.erase_node(node)


def refuse_hidden_effects(module: GraphModule) -> None:
    """Refuses normalisations that update running statistics. Their schema does not say that they
    write to them."""
    flags = {aten.batch_norm.default: "training", aten.instance_norm.default: "use_input_stats"}
    for node in module.graph.nodes:
        flag = flags.get(node.target)
        if flag and arguments(node)[flag] and arguments(node)["running_mean"] is not None:
            raise CannotTrace(f"{node.target} updates running statistics, which are buffers")


def remove_identities(module: GraphModule) -> None:
    """Removes operators that return their argument as it is: dropout in inference, detach, and
    views, conversions and contiguous() that change nothing."""
    for node in list(module.graph.nodes):
        if isinstance(node.target, OpOverload) and node.args and isinstance(node.args[0], Node):
            argument = node.args[0]
            if _is_inactive(node) or (not mutated(node) and _same_memory(node, argument)):
                replace(node, argument)


def make_functional(module: GraphModule, aliases: Aliases) -> None:
    """Replaces operators in place by those that return a new value, which all later users of the
    old value read.

    Raises:
        CannotTrace: an operator changes an input, a parameter or a buffer, or a value of which a
            view from before the change is read after it.
    """
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    inputs = {aliases[n] for n in module.graph.nodes if n.op == "placeholder"}
    constants = {aliases[n] for n in module.graph.nodes if n.op == "get_attr"}
    groups: dict[Any, list[Node]] = {}
    for node in list(module.graph.nodes):
        for base in mutated(node):
            group = aliases[base]
            if group in inputs:
                raise CannotTrace(f"{node.target} changes an input of the model in place")
            if group in constants:
                raise CannotTrace(f"{node.target} changes a parameter or buffer in place")
            if not node.args or base is not node.args[0]:
                raise CannotTrace(f"{node.target} writes to an argument other than the first")
            for view in groups.get(group, []):
                read = any(order.get(user, -1) > order[node] for user in view.users)
                if view is not base and read:
                    raise CannotTrace(
                        f"{node.target} changes {base.name} in place, and {view.name}, which "
                        "shares its memory, is read later"
                    )
        if mutated(node):
            new = _functional(module, node)
            base = node.args[0]
            for user in [user for user in base.users if order.get(user, -1) > order[node]]:
                user.replace_input_with(base, new)
            aliases.inherit(new, node)
            order[new] = order[node]
            groups[aliases[node]] = [new]
            replace(node, new)
        elif node.op != "output":
            groups.setdefault(aliases[node], []).append(node)


def remove_copies(module: GraphModule) -> None:
    """Removes copies of values, which nothing changes in place any more. A copy that is an output
    stays."""
    for node in list(module.graph.nodes):
        if node.target in _COPIES and isinstance(node.args[0], Node):
            same = _same_layout(val(node), val(node.args[0]))
            if same and all(user.op != "output" for user in node.users):
                replace(node, node.args[0])


def fix_layouts(module: GraphModule, aliases: Aliases) -> None:
    """Makes the arguments contiguous of operators for which it matters how these lie in memory. A
    program may compute values in other layouts than the model. Inputs and their views have the
    model's.

    Raises:
        CannotTrace: strides are used on a value that is not all of a contiguous piece of memory.
    """
    inputs = {aliases[n] for n in module.graph.nodes if n.op == "placeholder"}
    for node in list(module.graph.nodes):
        if node.target not in _BY_STRIDES | _OF_LAST_AXIS or aliases[node.args[0]] in inputs:
            continue
        x = node.args[0]
        bytes_ = val(x).numel() * val(x).element_size()
        whole = val(x).is_contiguous() and val(x).untyped_storage().nbytes() == bytes_
        if node.target in _BY_STRIDES and not whole:
            raise CannotTrace(f"{node.target} depends on how {x.name} lies in memory")
        node.replace_input_with(x, emit(module, node, aten.contiguous.default, x))


def _functional(module: GraphModule, node: Node) -> Node:
    """Adds the operator without effect that computes what an operator in place computes."""
    target: Any = node.target
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    functional = getattr(packet, target._overloadname, None)
    if functional is None or functional._schema.is_mutable:
        raise CannotTrace(f"{target} works in place and has no form that does not")
    with module.graph.inserting_before(node):
        new = module.graph.call_function(functional, node.args, dict(node.kwargs))
    new.meta = dict(node.meta)
    base = val(node)
    operands = [val(a) for a in node.all_input_nodes]
    if all(v.dtype == base.dtype for v in operands if isinstance(v, Tensor)):
        return new
    # In place, the result has the dtype of the first operand, and else that of all operands.
    with vars(module)["fake_mode"]:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), val)
        new.meta["val"] = functional(*args, **kwargs)
    return new if val(new).dtype == base.dtype else emit(module, node, aten.to.dtype, new,
                                                         base.dtype)  # fmt: skip


def _is_inactive(node: Node) -> bool:
    """Returns whether a node is a dropout in inference or detaches its argument in place."""
    target: Any = node.target
    if target is aten.detach_.default:
        return True
    name = target._schema.name.removeprefix("aten::")
    return bool(name in _DROPOUTS and not arguments(node)["train"])


def _same_memory(node: Node, argument: Node) -> bool:
    """Returns whether the value of a node is that of its argument, in the same memory."""
    x, y = val(node), val(argument)
    if not _same_layout(x, y) or x.is_complex() or x.layout is not torch.strided:
        return False
    same = x.untyped_storage()._cdata == y.untyped_storage()._cdata
    same = same and x.storage_offset() == y.storage_offset()
    return bool(same and x.is_neg() == y.is_neg())


def _same_layout(x: Any, y: Any) -> bool:
    """Returns whether two fake values are tensors of the same shape, strides, dtype and device."""
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.layout is not y.layout:
        return False
    if x.layout is not torch.strided:
        return False
    same = x.dtype == y.dtype and x.device == y.device
    return same and x.shape == y.shape and x.stride() == y.stride()


def _tensors(value: Any) -> list[Tensor]:
    """Returns the tensors of a fake value, which may be a list."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, Tensor)]


def _aliased(node: Node) -> list[Node]:
    """Returns the arguments of which a node may return views, as its schema says."""
    assert isinstance(node.target, OpOverload)
    if not any(result.alias_info is not None for result in node.target._schema.returns):
        return []
    given = arguments(node)
    found: list[Node] = []
    for argument in node.target._schema.arguments:
        if argument.alias_info is not None:
            map_arg(given[argument.name], found.append)
    return found
