"""Rules by which DTensor may shard the three ops. Importing this file registers them.

A rule applies to one dimension of the mesh. It says how the operands of an op may be placed and how
the result then is placed. DTensor combines rules for a mesh of several dimensions, and it
redistributes operands that fit no rule. Each axis of a convolution's loops can be split, except
those of the window:

- N, the batch: of x, gy and y. The gradient of the weight is then a partial sum.
- O, the output channels, without groups: of w, b, gy and y. The gradient of the input is partial.
- C, the input channels, without groups: of x, w and gx. The output is partial, and so is the
  bias, which each process would otherwise add.
- With groups, all channels at once, if each process gets whole groups.

The windows of neighbouring rows and columns overlap, so DTensor gathers rows and columns.
:func:`convkern.distributed.conv2d_sharded_rows` splits rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor._op_schema import (
    OpSchema,
    OpSpec,
    OpStrategy,
    PlacementList,
    RuntimeSchemaInfo,
)
from torch.distributed.tensor._ops.utils import expand_to_full_mesh_op_strategy
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_PROPAGATOR = DTensor._op_dispatcher.sharding_propagator
# By these an op says which arguments a process gets. Torch before 2.13 can only replace a
# size by that of the process's result, so that groups are not divided between processes there.
_ADJUSTERS = getattr(_PROPAGATOR, "op_to_scalar_shape_adjuster", None)

# Positions of arguments among the ops' arguments.
_BIAS, _SIZE, _GROUPS, _ACTIVATION, _RESIDUAL = 2, 2, 6, 7, 8


class _Op(NamedTuple):
    """One of the three ops: the names of its tensors, and its rules.

    A rule is a list: the placement of the result, then those of the tensors in their order.
    """

    tensors: tuple[str, ...]
    rules: list[PlacementList]  # for any number of groups
    whole: list[PlacementList]  # only without groups
    grouped: list[PlacementList]  # only with groups


_R, _SUM, _0, _1 = Replicate(), Partial(), Shard(0), Shard(1)

_FORWARD = _Op(
    ("x", "w", "b"),
    rules=[[_R, _R, _R, _R], [_0, _0, _R, _R]],
    whole=[[_1, _R, _0, _0], [_SUM, _1, _1, _SUM]],
    grouped=[[_1, _1, _0, _0]],
)
_GRAD_INPUT = _Op(
    ("gy", "w"),
    rules=[[_R, _R, _R], [_0, _0, _R]],
    whole=[[_SUM, _1, _0], [_1, _R, _1]],
    grouped=[[_1, _1, _0]],
)
_GRAD_WEIGHT = _Op(
    ("gy", "x"),
    rules=[[_R, _R, _R], [_SUM, _0, _0]],
    whole=[[_0, _1, _R], [_1, _R, _1]],
    grouped=[[_0, _1, _1]],
)


def register_sharding() -> None:
    """Registers the rules of the three ops. Importing `convkern.distributed` has already done
    it."""
    ops = torch.ops.convkern
    for overload, op in (
        (ops.conv2d.default, _FORWARD),
        (ops.conv2d_grad_input.default, _GRAD_INPUT),
        (ops.conv2d_grad_weight.default, _GRAD_WEIGHT),
    ):
        # DTensor caches its decision for all arguments except the values of the two operands.
        _PROPAGATOR.register_op_strategy(overload, partial(_strategy, op), RuntimeSchemaInfo(2))
        if _ADJUSTERS is not None:
            _ADJUSTERS[overload] = partial(_local_schema, op)
        elif op is not _FORWARD:
            _PROPAGATOR.op_to_shape_and_stride_idx[overload] = _SIZE


def _strategy(op: _Op, schema: OpSchema) -> OpStrategy:
    """Returns the placements that this call admits."""
    groups = _argument(schema, _GROUPS, 1)
    rules = list(op.rules)
    if groups == 1:
        rules += op.whole
    elif _ADJUSTERS is not None:
        rules += op.grouped
    if op is _FORWARD:
        if _argument(schema, _ACTIVATION, None) is not None:  # it applies to the sum only
            rules = [rule for rule in rules if not isinstance(rule[0], Partial)]
        if _argument(schema, _BIAS, None) is None:
            rules = [rule[:-1] for rule in rules]
        if _argument(schema, _RESIDUAL, None) is not None:  # it is placed as the result
            rules = [[*rule, rule[0]] for rule in rules]

    every = expand_to_full_mesh_op_strategy(schema.get_mesh_from_args(), schema, rules)
    shapes = [operand.shape for operand in schema.args_strategy]
    names = _tensors(op, schema)
    return OpStrategy([spec for spec in every.strategies if _divides(names, spec, shapes, groups)])


def _tensors(op: _Op, schema: OpSchema) -> list[str]:
    """Returns the names of the tensors that are given to this call, in their order."""
    names = list(op.tensors)
    if op is _FORWARD and _argument(schema, _BIAS, None) is None:
        names.remove("b")
    if op is _FORWARD and _argument(schema, _RESIDUAL, None) is not None:
        names.append("residual")
    return names


def _divides(
    names: Sequence[str], spec: OpSpec, shapes: Sequence[Sequence[int]], groups: int
) -> bool:
    """Returns whether the operands of these shapes, placed so, give every process its part."""
    operands = zip(names, spec.input_specs or (), shapes, strict=True)
    return all(_splits_well(name, given, shape, groups) for name, given, shape in operands)


def _splits_well(name: str, spec: DTensorSpec, shape: Sequence[int], groups: int) -> bool:
    """Returns whether every process gets a part, and whole groups of the channels."""
    for axis, size in enumerate(shape):
        batch = name in ("x", "gy", "residual") and axis == 0
        unit = 1 if batch or groups == 1 else size // groups
        parts = [size]
        for placement, count in zip(spec.placements, spec.mesh.shape, strict=True):
            if placement.is_shard(axis):
                parts = [part for whole in parts for part in _chunks(whole, count)]
        if len(parts) > 1 and any(part == 0 or part % unit for part in parts):
            return False
    return True


def _chunks(size: int, count: int) -> list[int]:
    """Returns the sizes of `count` shards. They are those of torch.chunk, followed by zeros."""
    full = -(-size // count)
    return [max(0, min(full, size - part * full)) for part in range(count)]


def _local_schema(op: _Op, specs: list[DTensorSpec], schema: OpSchema) -> OpSchema:
    """Returns the call that one process makes, with the groups and the sizes of its shards."""
    shapes = {
        name: compute_local_shape_and_global_offset(
            spec.shape, spec.mesh, spec.placements, skip_offset=True
        )[0]
        for name, spec in zip(_tensors(op, schema), specs, strict=True)
    }
    arguments: list[Any] = list(schema.args_schema)
    groups = _argument(schema, _GROUPS, 1)
    if groups > 1:
        tensor, axis = ("gy", 1) if "gy" in shapes else ("w", 0)
        out_channels = specs[op.tensors.index(tensor)].shape[axis]
        groups = arguments[_GROUPS] = groups * shapes[tensor][axis] // out_channels
    if op is _GRAD_INPUT:
        channels = shapes["w"][1] * groups
        arguments[_SIZE] = [shapes["gy"][0], channels, *arguments[_SIZE][2:]]
    if op is _GRAD_WEIGHT:
        group_channels = shapes["x"][1] // groups
        arguments[_SIZE] = [shapes["gy"][1], group_channels, *arguments[_SIZE][2:]]
    return OpSchema(schema.op, tuple(arguments), schema.kwargs_schema)


def _argument(schema: OpSchema, position: int, default: Any) -> Any:
    """Returns an argument or its default. The dispatcher leaves out arguments at the end that have
    their defaults."""
    arguments = schema.args_schema
    return arguments[position] if position < len(arguments) else default


register_sharding()
