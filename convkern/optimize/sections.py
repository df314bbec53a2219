"""Graphs cut into sections, each of which becomes one program."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from convkern.optimize.graphs import val


@dataclass(frozen=True)
class Section:
    """Nodes of a graph that become one program.

    Attributes:
        inputs: the nodes whose values the program is given.
        nodes: the nodes that it computes, and the constants that they read.
        outputs: the nodes whose values it returns.
        strides: those that the model gives these, or None if they do not leave the model.
    """

    inputs: list[Node]
    nodes: list[Node]
    outputs: list[Node]
    strides: list[tuple[int, ...]] | None


def whole(module: GraphModule) -> Section:
    """Returns the section of all nodes of a graph."""
    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    return Section(
        graph.find_nodes(op="placeholder"),
        [n for n in graph.nodes if n.op not in ("placeholder", "output")],
        [n for n in output.args[0] if isinstance(n, Node)],
        vars(module)["output_strides"],
    )


def split(module: GraphModule, batch: int) -> tuple[Section, Section | None]:
    """Returns two sections: the first is for parts of the batch, and the second for the whole
    batch.

    Every part reads all weights again, and the whole batch does not stay in the caches between the
    layers. The cut is where the fewest bytes move: the first layers of a network have large images
    and few weights, and the last ones small images and many weights. There may be no second
    section.
    """
    all_ = whole(module)
    calls = [n for n in all_.nodes if n.op == "call_function"]
    if not calls:
        return all_, None
    index = {node: i for i, node in enumerate(calls)}
    cuts = set(range(1, len(calls) + 1))
    for node in calls:
        if not isinstance(val(node), Tensor):  # a list does not leave a program
            last = max((index[u] for u in node.users if u in index), default=0)
            cuts -= set(range(index[node] + 1, last + 1))
    costs = [_bytes_moved(node, batch) for node in calls]
    cut = min(
        sorted(cuts), key=lambda c: sum(a for a, _ in costs[:c]) + sum(b for _, b in costs[c:])
    )
    tail = set(calls[cut:])
    if not tail:
        return all_, None
    constants = {n for n in all_.nodes if n.op == "get_attr"}
    read = {argument for node in tail for argument in node.all_input_nodes} - tail - constants
    given = [n for n in module.graph.nodes if n in read or (n in all_.outputs and n not in tail)]
    return (
        Section(all_.inputs, [n for n in all_.nodes if n not in tail], given, None),
        Section(
            given,
            [n for n in all_.nodes if n in tail or n in constants],
            all_.outputs,
            all_.strides,
        ),
    )


def _bytes_moved(node: Node, batch: int) -> tuple[int, int]:
    """Returns the bytes that come from beyond the caches for a node, if the images are computed one
    by one, and if they are computed together."""
    values = [n for n in (node, *node.all_input_nodes) if isinstance(val(n), Tensor)]
    weights = sum(bytes_of(n) for n in values if n.op == "get_attr")
    images = sum(bytes_of(n) for n in values if n.op != "get_attr")
    return batch * weights, weights + images


def bytes_of(node: Node) -> int:
    """Returns the bytes of a node's value, which is a tensor."""
    value: Tensor = val(node)
    return value.numel() * value.element_size()
