"""What the files of this package share: reading the nodes of a traced graph, and constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten


class CannotTrace(RuntimeError):
    """A model has no graph that computes what the model computes. The message says why."""


def val(node: Node) -> Any:
    """Returns the fake value that a node had in the trace. It is a tensor without data for nearly
    all nodes."""
    return node.meta.get("val")


def path_of(node: Node) -> str | None:
    """Returns the path of the part of the model whose forward calls a node's operator, such as
    "features.3.conv.1". "" is the model itself. None if the trace does not know it."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack)) if stack else None


def paths_of(module: GraphModule) -> dict[str, str | None]:
    """Returns :func:`path_of` of all calls in a graph, by the names of their nodes."""
    return {n.name: path_of(n) for n in module.graph.nodes if n.op == "call_function"}


def is_tensor(value: Any) -> bool:
    """Returns whether an argument of a node is a node whose value is a tensor."""
    return isinstance(value, Node) and isinstance(val(value), Tensor)


def dense(value: Tensor) -> Tensor:
    """Returns the value, or one of its sizes whose elements have memory each."""
    if all(
        stride > 0 or size <= 1 for size, stride in zip(value.shape, value.stride(), strict=True)
    ):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def same_kind(a: Node, b: Node) -> bool:
    """Returns whether the values of two nodes have the same shape, dtype and device."""
    x, y = val(a), val(b)
    return bool(x.shape == y.shape and x.dtype == y.dtype and x.device == y.device)


def arguments(node: Node) -> dict[str, Any]:
    """Returns the arguments of a call of an operator by name, with the defaults of those that are
    not given."""
    assert isinstance(node.target, OpOverload)
    named = {}
    for place, argument in enumerate(node.target._schema.arguments):
        if place < len(node.args):
            named[argument.name] = node.args[place]
        else:
            default = argument.default_value if argument.has_default_value() else None
            named[argument.name] = node.kwargs.get(argument.name, default)
    return named


def fake_mode(module: GraphModule) -> FakeTensorMode:
    """Returns the mode of torch that made the fake values of a graph."""
    mode = vars(module)["fake_mode"]
    assert isinstance(mode, FakeTensorMode)
    return mode


def emit(
    module: GraphModule, before: Node, target: Callable[..., Any], *args: Any, **kwargs: Any
) -> Node:
    """Adds a call to the graph before a node, and computes its fake value. Both come from the same
    part of the model."""
    with module.graph.inserting_before(before):
        node = module.graph.call_function(target, args, kwargs)
    if "nn_module_stack" in before.meta:
        node.meta["nn_module_stack"] = before.meta["nn_module_stack"]
    with fake_mode(module), torch.no_grad():
        node.meta["val"] = target(*map_arg(args, val), **kwargs)
    return node


def replace(node: Node, other: Node) -> None:
    """Lets all users of a node use another one, and removes the node."""
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def sources(module: GraphModule) -> dict[str, tuple[Tensor, ...]]:
    """Returns, for each constant of the graph that was computed and is not the model's own, the
    tensors of the model that it was computed from."""
    table: dict[str, tuple[Tensor, ...]] = vars(module)["sources"]
    return table


def constant(module: GraphModule, node: Any) -> Tensor | None:
    """Returns the tensor that a get_attr node stands for, and None for anything else."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value = getattr(module, str(node.target), None)
    return value if isinstance(value, Tensor) else None


def is_constant(module: GraphModule, node: Any) -> bool:
    """Returns whether an argument of a node is a constant tensor, or is absent."""
    return node is None or constant(module, node) is not None


def add_constant(
    module: GraphModule,
    before: Node,
    compute: Callable[[], Tensor],
    origins: Iterable[Tensor],
    key: Hashable | None = None,
) -> Node:
    """Adds a computed constant to the graph module as a buffer, and to the graph before a node.

    Args:
        compute: returns the constant. It is not called if there is a constant of the same key,
            which is then used again. Layers that share weights so share folded weights too.
        origins: the constants of the graph module that the value is computed from.
    """
    derived: dict[Hashable, str] = vars(module)["derived"]
    name = derived.get(key) if key is not None else None
    if name is None:
        known: dict[int, tuple[Tensor, ...]] = vars(module)["origins"]
        with torch.no_grad():
            value = compute().detach()
        originals = [t for origin in origins for t in known.get(id(origin), (origin,))]
        name = f"computed{vars(module)['computed_constants']}"
        vars(module)["computed_constants"] += 1
        module.register_buffer(name, value)
        known[id(value)] = sources(module)[name] = tuple({id(t): t for t in originals}.values())
        if key is not None:
            derived[key] = name
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(name)
    node.meta["val"] = fake_mode(module).from_tensor(getattr(module, name), static_shapes=True)
    return node


def readers(module: GraphModule) -> Counter[str]:
    """Returns how many nodes read each constant of the graph."""
    nodes = module.graph.find_nodes(op="get_attr")
    return Counter(str(node.target) for node in nodes for _ in node.users)


def drop_computed_constants(module: GraphModule, node: Node, readers: Counter[str]) -> None:
    """Removes from the graph module the computed constants that only this node reads. It is called
    for a layer whose weights are packed, so that a model's weights are in memory twice at most."""
    for source in node.all_input_nodes:
        name = str(source.target)
        if source.op == "get_attr" and name in sources(module) and readers[name] == 1:
            delattr(module, name)


def tidy(module: GraphModule) -> None:
    """Removes nodes without users and constants without nodes, and makes the code of the graph
    module that of its graph."""
    for node in reversed(module.graph.nodes):
        if not node.users and node.op in ("call_function", "get_attr"):
            module.graph.erase_node(node)
    used = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    owned = [*module._parameters, *module._buffers]
    owned += [name for name, value in vars(module).items() if isinstance(value, Tensor)]
    for name in owned:
        if name not in used:
            delattr(module, name)
            sources(module).pop(name, None)
    # The keys of both tables are identities of tensors, of which some are gone.
    vars(module)["derived"] = {}
    vars(module)["origins"] = {id(getattr(module, n)): t for n, t in sources(module).items()}
    module.recompile()
