"""Graphs as native programs: convolutions with plans, packed weights and planned memory, and
torch's operators for everything else."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from convkern import _C
from convkern.functional import FEW_ROWS
from convkern.optimize import fused
from convkern.optimize.graphs import (
    CannotTrace,
    arguments,
    constant,
    dense,
    drop_computed_constants,
    readers,
    val,
)
from convkern.optimize.outputs import planned_ops
from convkern.optimize.passes import passes
from convkern.optimize.rewriting import LAYERS, field
from convkern.optimize.sections import Section, bytes_of, whole
from convkern.problem import forward_problem

_PLANNED = LAYERS | {fused.scale_shift}  # nodes that run as convolutions
_LINE = 64  # bytes; results in the arena begin at such a multiple
# The images of a 1x1 convolution that have so few pixels are computed as if they had one row.
# Kernels then cut all pixels of an image into tiles, and no short rows. Several threads share the
# rows, unless there are too few pixels for that.
_FEW_PIXELS = 256
_UNSHARED_PIXELS = 63
_FEW_NUMBERS = 1 << 15  # torch's at::internal::GRAIN_SIZE


@dataclass(frozen=True)
class Step:
    """A step of a program, for people.

    Attributes:
        node: the name of the node in the graph.
        what: the problem string of a convolution, or the name of torch's operator.
        kernel: the kernel that computes it, or "torch".
        runs: how often the step runs in a call, once for each part of the batch.
        path: the part of the model that it comes from, such as "features.3.conv.1". "" is the model
            itself. None if it is not known.
    """

    node: str
    what: str
    kernel: str
    runs: int = 1
    path: str | None = None


def compiled(module: GraphModule, section: Section, threads: int) -> tuple[_C.Program, list[Step]]:
    """Returns the program of a section of a fused graph, whose kernels run on so many threads, and
    its steps.

    Raises:
        CannotTrace: the graph calls something that is no operator of torch.
    """
    return _Compiler(module, section, threads).compile()


class _Compiler:
    def __init__(self, module: GraphModule, section: Section, threads: int) -> None:
        self.module = module
        self.threads = threads
        self.nodes = section.inputs + section.nodes
        self.inputs = section.inputs
        self.outputs = section.outputs
        self.strides = section.strides
        self.slots = {node: slot for slot, node in enumerate(self.nodes)}
        self.owner = _owners(section)
        self.last_use = self._last_uses()
        self.readers = readers(module)

    def _last_uses(self) -> dict[Node, int]:
        """Returns the index of the last node that reads the memory of each owner of memory."""
        last = {self.owner[node]: index for index, node in enumerate(self.nodes)}
        for index, node in enumerate(self.nodes):
            for argument in node.all_input_nodes if index >= len(self.inputs) else ():
                last[self.owner[argument]] = max(last[self.owner[argument]], index)
        for node in self.outputs:
            last[self.owner[node]] = len(self.nodes)
        return last

    def compile(self) -> tuple[_C.Program, list[Step]]:
        computed = self.nodes[len(self.inputs) :]
        self.passes = passes(self.module)
        planned = planned_ops(whole(self.module).nodes)
        self.planned = {n: planned[n] for n in computed if n in planned and n not in self.passes}
        written = {n: result_like(n) for n in computed if n.target in _PLANNED or n in self.passes}
        written |= {n: op.like for n, op in self.planned.items()}
        likes = self._likes(written)
        direct = {
            n
            for n, like in zip(self.outputs, likes, strict=True)
            if n in written and self.outputs.count(n) == 1 and _same_places(like, written[n])
        }
        places = self._arena([n for n in written if n not in direct])
        size = max((offset + self._bytes(node) for node, offset in places.items()), default=0)
        program = _C.Program(len(self.nodes), size, self.threads)
        steps: list[Step] = []
        read = {source for node in computed for source in self._sources(node)} | {*self.outputs}
        program.set_inputs([self.slots[n] for n in self.inputs])
        program.set_outputs(
            [
                (self.slots[n], like, n in direct)
                for n, like in zip(self.outputs, likes, strict=True)
            ]
        )
        for index, node in enumerate(self.nodes):
            if index < len(self.inputs):
                continue
            if node.op == "get_attr":
                if node in read:
                    value = constant(self.module, node)
                    assert value is not None
                    program.set_constant(self.slots[node], value.detach())
            elif node.op == "call_function":
                dead = self._dead_after(index, places)
                if node.target in _PLANNED:
                    steps.append(self._add_layer(program, node, places.get(node, -1), dead))
                elif node in self.passes:
                    steps.append(self._add_pass(program, node, places.get(node, -1), dead))
                elif node.target is not operator.getitem:
                    steps.append(self._add_op(program, node, places.get(node, -1), dead))
        kernels = iter(program.kernels())
        return program, [
            step if step.kernel else Step(step.node, step.what, next(kernels)) for step in steps
        ]

    def _likes(self, written: dict[Node, Tensor]) -> list[Tensor]:
        """Returns tensors without data that have the sizes of the outputs, those of one part of the
        batch, and the strides that the whole batch has."""
        if self.strides is None:
            return [written[n] if n in written else dense(val(n)) for n in self.outputs]
        return [
            torch.empty_strided(val(n).shape, strides, dtype=val(n).dtype, device="meta")
            for n, strides in zip(self.outputs, self.strides, strict=True)
        ]

    def _sources(self, node: Node) -> list[Node]:
        """Returns the nodes whose slots a step reads. Weights are no slots but parts of steps."""
        if node in self.passes:
            return list(self.passes[node].inputs)
        return images_of(node) if node.target in _PLANNED else node.all_input_nodes

    def _dead_after(self, index: int, places: dict[Node, int]) -> list[int]:
        """Returns the slots of torch's results that no node reads after this one."""
        return [
            self.slots[node]
            for node in self.nodes[len(self.inputs) : index + 1]
            if node.op == "call_function"
            and node not in places
            and self._last_read(node) == index
            and node not in self.outputs
        ]

    def _last_read(self, node: Node) -> int:
        return max((self.slots[user] for user in node.users if user in self.slots), default=-1)

    def _bytes(self, node: Node) -> int:
        return -(-bytes_of(node) // _LINE) * _LINE

    def _arena(self, nodes: list[Node]) -> dict[Node, int]:
        """Returns the offsets of results in the arena, in bytes. Results that are in use at the
        same time do not overlap. They are placed one after the other, first the largest."""
        by_size = sorted(nodes, key=self._bytes, reverse=True)
        return self._low(by_size) if self.threads == 1 else self._around_middles(by_size)

    def _low(self, nodes: list[Node]) -> dict[Node, int]:
        """Places each result as low as it fits."""
        places: dict[Node, int] = {}
        for node in nodes:
            offset = 0
            taken = [(p, p + self._bytes(n)) for n, p in places.items() if self._meet(n, node)]
            for begin, end in sorted(taken):
                if begin - offset >= self._bytes(node):
                    break
                offset = max(offset, end)
            places[node] = offset
        return places

    def _around_middles(self, nodes: list[Node]) -> dict[Node, int]:
        """Cuts the arena into lanes, and places each result in the first lane that is free while it
        is in use, all of a lane around the same middle. Two threads compute the two halves of the
        pixels of each layer. So a part of the memory is always written and read by one thread, and
        stays in the caches of its core."""
        lanes: list[list[Node]] = []
        for node in nodes:
            lane = next((a for a in lanes if not any(self._meet(n, node) for n in a)), None)
            if lane is None:
                lanes.append([node])
            else:
                lane.append(node)
        places = {}
        begin = 0
        for lane in lanes:
            size = self._bytes(lane[0])
            for node in lane:
                places[node] = begin + (size - self._bytes(node)) // 2 // _LINE * _LINE
            begin += size
        return places

    def _meet(self, a: Node, b: Node) -> bool:
        """Returns whether two results are in use at the same time."""
        return all(self.slots[x] <= self.last_use[self.owner[y]] for x, y in ((a, b), (b, a)))

    def _add_layer(self, program: _C.Program, node: Node, offset: int, dead: list[int]) -> Step:
        x, *residual = (self.slots[source] for source in images_of(node))
        weight, bias, problem = layer_of(self.module, node, self.threads)
        program.add_convolution(
            problem, x, residual[0] if residual else -1, self.slots[node], result_like(node),
            offset, weight, bias, is_of_pixels(node), dead,
        )  # fmt: skip
        drop_computed_constants(self.module, node, self.readers)
        return Step(node.name, str(problem), "")

    def _add_pass(self, program: _C.Program, node: Node, offset: int, dead: list[int]) -> Step:
        found = self.passes[node]
        inputs = [self.slots[x] for x in found.inputs]
        program.add_pass(found.make(), inputs, self.slots[node], result_like(node), offset, dead)
        sizes = ["x".join(map(str, val(n).shape)) for n in (*found.inputs, node)]
        return Step(node.name, f"{found.name} {', '.join(sizes[:-1])} -> {sizes[-1]}", "pass")

    def _add_op(self, program: _C.Program, node: Node, offset: int, dead: list[int]) -> Step:
        target = node.target
        if not isinstance(target, OpOverload):
            raise CannotTrace(f"{node.name} calls {target}, which is no operator of torch")
        given = [self._argument(value) for value in arguments(node).values()]
        planned = self.planned.get(node)
        called = target if planned is None else planned.op
        program.add_op(
            called._schema.name, called._schema.overload_name, given, self._results(node),
            _is_small(node), None if planned is None else planned.like, offset,
            -1 if planned is None or _is_small(node) else planned.split, dead,
        )  # fmt: skip
        return Step(node.name, str(target), "torch")

    def _argument(self, value: Any) -> tuple[str, Any]:
        if isinstance(value, Node):
            return "slot", self.slots[value]
        if isinstance(value, (list, tuple)) and any(isinstance(v, Node) for v in value):
            return "slots", [-1 if v is None else self.slots[v] for v in value]
        return "value", value

    def _results(self, node: Node) -> list[int]:
        """Returns the slots of a node's results. Of a list they are those of the nodes that take
        tensors out of it."""
        if isinstance(val(node), Tensor):
            return [self.slots[node]]
        slots = [-1] * len(val(node))
        for user in node.users:
            if user.target is operator.getitem:
                slots[user.args[1]] = self.slots[user]  # type: ignore[index]
        return slots


def images_of(layer: Node) -> list[Node]:
    """Returns the input of a layer, and its residual if it has one."""
    residual = None if layer.target is fused.scale_shift else field(layer, "residual")
    return [node for node in (layer.args[0], residual) if isinstance(node, Node)]


def is_of_pixels(node: Node) -> bool:
    """Returns whether a layer's tensors are images whose channels are adjacent."""
    return node.target is not fused.linear and bool(val(node).dim() == 4)


def result_like(node: Node) -> Tensor:
    """Returns a tensor without data that has the sizes and strides of a layer's result."""
    value = val(node)
    layout = torch.channels_last if is_of_pixels(node) else torch.contiguous_format
    return torch.empty(value.shape, dtype=value.dtype, device="meta", memory_format=layout)


def layer_of(
    module: GraphModule, node: Node, threads: int
) -> tuple[Tensor, Tensor | None, _C.Problem]:
    """Returns the weight, bias and problem of a layer as a convolution. A linear layer is a 1x1
    convolution, and a scale and shift is a depthwise one. The channels of a pixel are adjacent in
    images, and the pixels of a channel in values of other ranks.

    Raises:
        CannotTrace: the layer computes its weights.
    """

    def constant_of(name: str) -> Tensor | None:
        given = field(node, name)
        value = None if given is None else constant(module, given)
        if given is not None and value is None:
            raise CannotTrace(f"{node.name} computes its own {name}")
        return None if value is None else value.detach()

    x: Any = node.args[0]
    value, dtype = val(x), val(node).dtype
    has_residual = False
    window: list[Any] = [[1, 1], [0, 0], [1, 1], 1]
    mode = "zeros"
    if node.target is fused.scale_shift:
        scale, bias = constant_of("scale"), constant_of("shift")
        assert scale is not None
        weight = scale.view(-1, 1, 1, 1)
        window[3] = weight.shape[0]
        sizes = [*value.shape[:2], 1, math.prod(value.shape[2:])]
    else:
        given, bias = constant_of("weight"), constant_of("bias")
        assert given is not None
        weight, has_residual = given, field(node, "residual") is not None
        if node.target is fused.linear:
            weight = weight[:, :, None, None]
            rows, channels = math.prod(value.shape[:-1]), value.shape[-1]
            sizes = [rows, channels, 1, 1] if rows <= FEW_ROWS else [1, channels, 1, rows]
        else:
            window = [field(node, name) for name in ("stride", "padding", "dilation", "groups")]
            mode = field(node, "padding_mode")
            sizes = [*value.shape]
            few = _FEW_PIXELS if threads == 1 else _UNSHARED_PIXELS
            if sizes[2] * sizes[3] <= few and _is_pointwise(weight, window):
                sizes = [*sizes[:2], 1, sizes[2] * sizes[3]]
    weight = weight.to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype).contiguous()
    meta_x, meta_w = (torch.empty(s, dtype=dtype, device="meta") for s in (sizes, weight.shape))
    stride, padding, dilation, groups = window
    problem = forward_problem(
        meta_x, meta_w, bias is not None, stride, padding, dilation, groups,
        field(node, "activation"), has_residual,
        layout="nhwc" if node.target is fused.linear or value.dim() in (2, 4) else "nchw",
        padding_mode=mode,
    )  # fmt: skip
    return weight, bias, problem


def _same_places(a: Tensor, b: Tensor) -> bool:
    """Returns whether all elements of two tensors of the same sizes are at the same places."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size <= 1 or one == other for size, one, other in strides)


def _is_small(node: Node) -> bool:
    """Returns whether torch computes a node on one thread because it has so few numbers."""
    values = [val(n) for n in (node, *node.all_input_nodes)]
    tensors = [t for v in values for t in (v if isinstance(v, (list, tuple)) else [v])]
    return all(t.numel() < _FEW_NUMBERS for t in tensors if isinstance(t, Tensor))


def _is_pointwise(weight: Tensor, window: list[Any]) -> bool:
    stride, padding, _, groups = window
    return weight.shape[2:] == (1, 1) and [*stride, *padding, groups] == [1, 1, 0, 0, 1]


def _owners(section: Section) -> dict[Node, Node]:
    """Returns, for each node, the node whose memory its value may be a view of: by the schema of
    its operator, or because their fake values share memory."""
    owner: dict[Node, Node] = {}
    by_memory: dict[int, Node] = {}
    for node in (*section.inputs, *section.nodes):
        value = val(node)
        tensors = value if isinstance(value, (list, tuple)) else [value]
        memory = [t.untyped_storage()._cdata for t in tensors if isinstance(t, Tensor)]
        viewed = next((n for n in _viewed(node) if n in owner), None)
        shared = next((by_memory[m] for m in memory if m in by_memory), None)
        first = owner[viewed] if viewed is not None else shared if shared is not None else node
        owner[node] = first
        by_memory |= dict.fromkeys(memory, first)
    return owner


def _viewed(node: Node) -> Iterator[Node]:
    if node.target is operator.getitem:
        yield node.args[0]  # type: ignore[misc]
    if isinstance(node.target, OpOverload):
        for argument in node.target._schema.arguments:
            value = arguments(node)[argument.name]
            if argument.alias_info is not None and isinstance(value, Node):
                yield value
