"""Fusions that join a layer with its neighbours: residual sums and activations."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from convkern.optimize import fused
from convkern.optimize.activations import activation_of
from convkern.optimize.graphs import (
    arguments,
    aten,
    emit,
    is_tensor,
    replace,
    same_kind,
)
from convkern.optimize.rewriting import (
    LAYERS,
    Found,
    Fusion,
    dims_of,
    field,
    layer_behind,
    set_fields,
)

_ACTIVATED = LAYERS | {fused.scale_shift}


class Residuals(Fusion):
    """Adds the other summand in the layer. Of two layers it takes the later one. It moves the layer
    down to the sum where the other summand is computed after the layer."""

    name = "residual"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        if node.target is not aten.add.Tensor:
            return False
        pair: Any = node.args[:2]
        found = [layer_behind(value) for value in pair]
        why = next((f for f in found if isinstance(f, str)), None)
        layers = [f for f in found if isinstance(f, Found)]
        if not layers:
            return why or False
        if not all(is_tensor(value) for value in pair):
            return "the other summand is a number"
        if arguments(node)["alpha"] != 1:
            return "alpha is not 1"
        if not all(same_kind(node, value) for value in pair):
            return "the shapes or dtypes of the summands differ"
        if pair[0] is pair[1]:
            return "both summands are the same"
        free = [f for f in layers if field(f.layer, "residual") is None]
        if not free:
            return f"{layers[0].layer.name} has a residual already"
        chosen = max(free, key=lambda f: f.layer)
        value, other = pair if found[0] is chosen else pair[::-1]
        self._join(module, node, chosen, value, other)
        return True

    def _join(self, module: GraphModule, node: Node, found: Found, value: Any, other: Any) -> None:
        """Makes `other` the residual of the layer behind `value`, and removes the sum."""
        layer = found.layer
        # Axis j of the layer's result is axis inverse[j] of the value.
        inverse = [found.axes.index(j) for j in range(len(found.axes))]
        if found.permutes and other.target is aten.permute.default:
            inverse = [dims_of(other)[d] for d in inverse]
            other = other.args[0]
        if not other < layer:
            for moved in (layer, *found.permutes):
                node.prepend(moved)
        if inverse != sorted(inverse):
            other = _permuted(module, layer, other, inverse)
        set_fields(layer, residual=other)
        if not found.permutes:
            layer.meta["val"] = node.meta["val"]
        replace(node, value)


def _permuted(module: GraphModule, before: Node, x: Node, dims: list[int]) -> Node:
    """Returns a permutation of a value, one that is there before the node or a new one."""
    for user in x.users:
        if user.target is aten.permute.default and dims_of(user) == dims and user < before:
            return user
    return emit(module, before, aten.permute.default, x, dims)


class Activations(Fusion):
    """Computes an activation in the layer whose result it is of, after the residual sum."""

    name = "activation"

    def rewrite(self, module: GraphModule, node: Node) -> bool | str:
        activation = activation_of(node)
        if activation is None:
            return False
        found = layer_behind(node.args[0], _ACTIVATED)
        if found is None or isinstance(found, str):
            return found or False
        value: Any = node.args[0]
        if not same_kind(node, value):
            return f"it changes the dtype of {value.name}"
        set_fields(found.layer, activation=activation)
        replace(node, value)
        return True
