"""What all fusions share: how they walk over a graph, and the layers that they fuse into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from convkern.optimize import fused
from convkern.optimize.graphs import arguments, aten, val

_WINDOW = ("stride", "padding", "dilation", "groups", "padding_mode")
# The names of the arguments of fused nodes, which are all given by place.
_FIELDS: dict[Any, tuple[str, ...]] = {
    fused.conv2d: ("input", "weight", "bias", *_WINDOW, "activation", "residual"),
    fused.linear: ("input", "weight", "bias", "activation", "residual"),
    fused.scale_shift: ("input", "scale", "shift", "activation"),
    fused.channels: ("inputs", "index", "scale", "shift", "activation"),
}  # fmt: skip

LAYERS = frozenset({fused.conv2d, fused.linear})


@dataclass(frozen=True)
class Note:
    """What a fusion did at a node.

    Attributes:
        fusion: the name of the fusion.
        node: the name of the node in the graph.
        kept: None if the node was fused, and else the reason why it stays.
    """

    fusion: str
    node: str
    kept: str | None = None


class Fusion(ABC):
    """A rewriting of the graph. Its name is ``name``, and its docstring says what it fuses."""

    name: ClassVar[str]

    def apply(self, module: GraphModule) -> list[Note]:
        """Rewrites all nodes of the graph that the fusion applies to, and tells of each of them
        and of those that are nearly so. Afterwards the graph module has to be tidied."""
        notes = []
        for node in module.graph.nodes:
            if node.op == "call_function":
                name = node.name
                result = self.rewrite(module, node)
                if result is not False:
                    notes.append(Note(self.name, name, None if result is True else str(result)))
        return notes

    @abstractmethod
    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        """Rewrites the graph at a node.

        Returns:
            True if it did, False if the fusion is not about this node, or the reason why the node
            stays.
        """


def field(node: Node, name: str) -> Any:
    """Returns an argument of a fused node."""
    return node.args[_FIELDS[node.target].index(name)]


def named_arguments(node: Node) -> dict[str, Any]:
    """Returns the arguments of a fused node or of an operator by name."""
    if node.target in _FIELDS:
        return dict(zip(_FIELDS[node.target], node.args, strict=True))
    if isinstance(node.target, OpOverload):
        return arguments(node)
    return {str(place): value for place, value in enumerate(node.args)}


def set_fields(node: Node, **values: Any) -> None:
    """Changes arguments of a fused node."""
    names = _FIELDS[node.target]
    node.args = tuple(values.get(name, old) for name, old in zip(names, node.args, strict=True))


@dataclass(frozen=True)
class Found:
    """A layer behind a value: the value is the layer's result, or permutations of its axes.

    Attributes:
        layer: the node of the layer.
        permutes: the nodes that permute its result, first to last.
        axes: axis i of the value is axis axes[i] of the layer's result.
    """

    layer: Node
    permutes: tuple[Node, ...]
    axes: tuple[int, ...]

    @property
    def channel(self) -> int:
        """The axis of the value that is the layer's output channels."""
        last = len(self.axes) - 1
        return self.axes.index(last if self.layer.target is fused.linear else 1)


def layer_behind(value: Any, targets: frozenset[Any] = LAYERS) -> Found | str | None:
    """Finds the layer that computed a value which is used once.

    Returns:
        The layer. None if something else computed the value. A reason if the layer cannot be
        changed, because its result or activation is needed as it is.
    """
    permutes: list[Node] = []
    node, uses = value, 1
    while isinstance(node, Node) and node.target is aten.permute.default:
        uses = max(uses, len(node.users))
        permutes.append(node)
        node = node.args[0]
    if not isinstance(node, Node) or node.target not in targets:
        return None
    uses = max(uses, len(node.users))
    if uses > 1:
        return f"the result of {node.name} has {uses} users"
    if field(node, "activation") is not None:
        return f"the activation of {node.name} comes before"
    permutes.reverse()
    axes = tuple(range(val(node).dim()))
    for permute in permutes:
        axes = tuple(axes[i] for i in dims_of(permute))
    return Found(node, tuple(permutes), axes)


def dims_of(permute: Node) -> list[int]:
    """Returns the axes that a permutation takes, as numbers from 0."""
    dims: Any = permute.args[1]
    return [d % len(dims) for d in dims]
