"""Rewrites graphs of Dynamo for training: batch norms take in their activations and residual sums,
and convolutions and linear layers become convkern's."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import GraphModule, Node

from convkern import _C, functional
from convkern.training import blocks
from convkern.training.graphs import (
    activation_of,
    arguments,
    calls_between,
    changes_a_mode,
    changes_a_number,
    changes_in_place,
    is_changed_or_returned,
    is_number,
    path_of,
    summands,
    value_of,
)
from convkern.window import paddings, sides_of, with_pad_in_front

_PRODUCTS = frozenset({operator.mul, torch.mul})
_SUMMED = frozenset({torch.float32, torch.float64})
_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_BATCH_NORM = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip
_DEFAULTS = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}


@dataclass
class Fusions:
    """What was found in a graph.

    Attributes:
        blocks: for each batch norm that is computed by the native passes, its path in the model
            and what it took in, such as "residual + relu"; "" for nothing. Of several calls of one
            batch norm it is the last.
        layers: the paths of the convolutions and linear layers that convkern computes.
        kept: paths of batch norms that stay torch's, or take in less than follows them, with the
            reason.
    """

    blocks: dict[str, str] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def moves_statistics(module: GraphModule) -> bool:
    """Returns whether a graph has batch norms that are in training mode."""
    norms = module.graph.find_nodes(op="call_function", target=F.batch_norm)
    return any(arguments(n, *_BATCH_NORM).get("training", False) is not False for n in norms)


def fuse(
    module: GraphModule, *, recompute: bool = False, paths: Mapping[str, str] | None = None
) -> Fusions:
    """Rewrites a graph of training in place. Returns what it did.

    Args:
        paths: the paths of the model's modules by their ids as text, for what is returned.
    """
    result = Fusions()
    _fuse(module, result, recompute, paths or {})
    blocks = dict(reversed(result.blocks.items()))
    return Fusions(blocks, result.layers[::-1], dict(reversed(result.kept.items())))


def _fuse(module: GraphModule, result: Fusions, recompute: bool, paths: Mapping[str, str]) -> None:
    # Backwards: of two batch norms that are added up the later one takes in the sum, and calls that
    # change something in place are mostly gone when an earlier one is looked at.
    for node in reversed(list(module.graph.nodes)):
        if node.op != "call_function":
            continue
        if node.target is F.batch_norm:
            _fuse_batch_norm(node, result, recompute, paths)
        elif node.target in _PRODUCTS:
            _channel_product(node)
        elif node.target is F.adaptive_avg_pool2d:
            _mean_of_pixels(node)
        elif node.target is torch.ops.higher_order.tag_activation_checkpoint:
            node.target = blocks.checkpointed
            _fuse(getattr(module, node.args[0].target), result, recompute, paths)
        else:
            _replace_layer(node, result, paths)
    for node in list(module.graph.find_nodes(op="call_function", target=blocks.batch_norm)):
        _return_twice(node)
    module.recompile()


def _channel_product(node: Node) -> None:
    """Recognises the product of images with one number for each image and channel."""
    if node.kwargs or len(node.args) != 2:
        return
    for x, scale in (node.args, node.args[::-1]):
        images, numbers = value_of(x), value_of(scale)
        if images is None or numbers is None or images.dim() != 4 or not images.is_cpu:
            continue
        fits = numbers.shape == (*images.shape[:2], 1, 1) != tuple(images.shape)
        if fits and images.dtype == numbers.dtype == torch.float32:
            node.target, node.args = blocks.channel_product, (x, scale)
            return


def _mean_of_pixels(node: Node) -> None:
    """Recognises the mean over all pixels."""
    given = arguments(node, "input", "output_size")
    x, size = value_of(given["input"]), given["output_size"]
    if x is not None and x.dim() == 4 and x.dtype in _SUMMED and size in (1, (1, 1), [1, 1]):
        node.target, node.args, node.kwargs = blocks.mean_of_pixels, (given["input"],), {}


def _replace_layer(node: Node, result: Fusions, paths: Mapping[str, str]) -> None:
    """Lets convkern compute a convolution or a linear layer."""
    x = value_of(node.args[0]) if node.args else None
    if x is None or not x.is_cpu or x.dtype not in _DTYPES:
        return
    if node.target in (torch.conv2d, torch.ops.convkern.conv2d):
        if node.target is torch.conv2d:
            node.target = functional.conv2d
        elif not node.kwargs and len(node.args) == 10 and node.args[7:9] == (None, None):
            *arguments, padding_mode = *node.args[:7], node.args[9]
            padding: Any = arguments[4]
            arguments[4] = padding if len(padding) == 2 else sides_of(padding)
            node.target, node.args = functional.conv2d, tuple(arguments)
            node.kwargs = {"padding_mode": padding_mode} if padding_mode != "zeros" else {}
    elif node.target is functional.torch_linear:
        node.target = functional.linear
    else:
        return
    if node.target is functional.conv2d:
        _take_pad(node)
        _take_relu(node)
    result.layers.append(path_of(node, paths))


def _take_pad(node: Node) -> None:
    """Computes a pad of the convolution's input in it, if nothing changes in between what was
    padded."""
    image: Any = node.args[0]
    if image.target is not F.pad and image.target is not torch._C._nn.pad:
        return
    if len(node.args) != 7 or isinstance(node.args[4], str) or image.kwargs:
        return
    padding, mode = paddings(node.args[4]), node.kwargs.get("padding_mode", "zeros")
    taken = with_pad_in_front(padding, mode, *image.args[1:])
    between = calls_between(image, node)
    if taken is None or any(changes_in_place(n) or changes_a_mode(n) for n in between):
        return
    # Autograd would save the input in place of the padded copy, and a program may change it.
    source: Any = image.args[0]
    if source.op == "placeholder" or is_changed_or_returned(source):
        return
    sides, padding_mode = sides_of(taken[0]), taken[1]
    node.args = (image.args[0], *node.args[1:4], sides, *node.args[5:])
    node.kwargs = {**node.kwargs, "padding_mode": padding_mode}
    if not image.users:
        node.graph.erase_node(image)


def _take_relu(node: Node) -> None:
    """Computes the ReLU after a convolution in it, if that is the only use of its result."""
    users = list(node.users)
    if len(users) != 1 or activation_of(users[0]) != "relu" or value_of(node) is None:
        return
    if not any(changes_a_mode(between) for between in calls_between(node, users[0])):
        node.kwargs = {**node.kwargs, "activation": "relu"}
        users[0].replace_all_uses_with(node)
        node.graph.erase_node(users[0])


@dataclass
class _Chain:
    """A batch norm and the calls after it that it takes in.

    Attributes:
        nodes: the calls, in their order.
        why: the reason why the next call is not taken in, if one could have been.
    """

    nodes: list[Node]
    residual: Node | None = None
    activation: str | None = None
    why: str | None = None


def _fuse_batch_norm(
    node: Node, result: Fusions, recompute: bool, paths: Mapping[str, str]
) -> None:
    given: dict[str, Any] = {**_DEFAULTS, **arguments(node, *_BATCH_NORM)}
    why = _why_not(given)
    path = path_of(node, paths)
    if why is not None:
        result.kept[path] = why
        return
    chain = _chain_of(node)
    last = chain.nodes[-1]
    with node.graph.inserting_after(last):
        fused = node.graph.call_function(
            blocks.batch_norm,
            (*(given[name] for name in _BATCH_NORM), chain.activation, chain.residual, False,
             recompute and chain.residual is None),
        )  # fmt: skip
    fused.meta.update(last.meta)
    last.replace_all_uses_with(fused)
    for taken in reversed(chain.nodes):
        node.graph.erase_node(taken)
    taken_in = [*(["residual"] if chain.residual is not None else []), chain.activation]
    result.blocks.setdefault(path, " + ".join(name for name in taken_in if name))
    if chain.why is not None:
        result.kept[path] = chain.why


def _why_not(given: dict[str, Any]) -> str | None:
    """Returns the reason why a batch norm stays torch's, or None."""
    x = value_of(given["input"])
    if x is None or x.dim() != 4:
        return "its input is no batch of images"
    if not x.is_cpu or x.dtype not in _DTYPES:
        return f"its input is {x.dtype} on {x.device.type}"
    if not all(is_number(given[name]) for name in ("momentum", "eps")):
        return "its momentum or eps is no number"
    return None


def _chain_of(node: Node) -> _Chain:
    """Finds the sum and the activation after a batch norm that its passes can compute. The batch
    norm is computed where the last of them is, so that a call in between that has to do with its
    operands ends the chain."""
    chain = _Chain([node])
    while True:
        last = chain.nodes[-1]
        users = list(last.users)
        if chain.activation is not None or len(users) != 1:
            return chain
        user = users[0]
        name = activation_of(user)
        pair = None if chain.residual is not None else summands(user)
        if name is not None:
            if not _C.batch_norm_has(name, chain.residual is not None):
                kind = " after a sum" if chain.residual is not None else ""
                chain.why = f"the passes have no derivative of {name}{kind}"
                return chain
            chain.activation = name
        elif pair is not None:
            if changes_in_place(user) and pair[0] is not last:
                if pair[0].target is not F.batch_norm:  # which takes in the sum itself
                    chain.why = "the other summand is changed in place"
                return chain
            chain.residual = pair[1] if pair[0] is last else pair[0]
        else:
            return chain
        why = _why_not_overtaken(node, last, user)
        if why is not None:
            chain.activation = None
            if pair is not None:
                chain.residual = None
            chain.why = why
            return chain
        chain.nodes.append(user)


def _why_not_overtaken(norm: Node, first: Node, last: Node) -> str | None:
    """Returns the reason why a batch norm cannot be computed after the calls between two nodes."""
    given = arguments(norm, *_BATCH_NORM)
    statistics = {given.get("running_mean"), given.get("running_var")} - {None}
    for node in calls_between(first, last):
        if changes_a_number(node):
            return "a tensor is changed in place before the next call"
        if changes_a_mode(node):
            return "a mode such as that of gradients is changed before the next call"
        if not statistics.isdisjoint(node.all_input_nodes):
            return "its statistics are used before the next call"
    return None


def _return_twice(node: Node) -> None:
    """Gives each of a block's two users a result of its own, whose gradients the backward pass adds
    up where it loads them."""
    users = list(node.users)
    if len(users) != 2 or is_changed_or_returned(node):
        return
    if any(_uses(user, node) != 1 for user in users):
        return
    node.args = (*node.args[:-2], True, node.args[-1])
    with node.graph.inserting_after(node):
        second = node.graph.call_function(operator.getitem, (node, 1))
        first = node.graph.call_function(operator.getitem, (node, 0))
    users[0].replace_input_with(node, first)
    users[1].replace_input_with(node, second)


def _uses(user: Node, node: Node) -> int:
    """Returns in how many places a call has a node as its argument."""
    count = 0

    def visit(argument: Node) -> Node:
        nonlocal count
        count += argument is node
        return argument

    torch.fx.node.map_arg((user.args, user.kwargs), visit)
    return count
