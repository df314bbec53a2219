"""convkern.optimize: models for inference whose layers are fused, planned and packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convkern import _C
from convkern.optimize.batches import separable, set_batch
from convkern.optimize.fusions import Fusions, fuse
from convkern.optimize.program import Step, compiled, spell_out, split, whole
from convkern.optimize.trace import trace


@dataclass(frozen=True)
class Plan:
    """What :class:`Optimized` has worked out for inputs of some shapes.

    Attributes:
        fusions: what was fused.
        steps: the steps of the program in their order.
        parts: the parts that the batch is computed in.
        together: why the batch is computed as a whole, or None if it is not.
    """

    program: _C.Program
    tail: _C.Program | None  # computes the whole batch
    fusions: Fusions
    steps: list[Step]
    parts: int
    together: str | None
    versions: list[tuple[Tensor, int]]
    spec: pytree.TreeSpec
    leaves: list[Any]  # of the output; None stands for a tensor


def plan(model: nn.Module, inputs: tuple[Tensor, ...], parts: int | None = None) -> Plan:
    """Works out a plan for inputs of these shapes."""
    module = trace(model, inputs)
    originals = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    fusions = fuse(module)
    threads = torch.get_num_threads()
    batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
    together = separable(module, batch) if batch > 1 else "the batch has one image"
    if parts is None:
        parts = batch if together is None and batch % threads == 0 else 1
    spell_out(module)
    tail = None
    if parts > 1:
        head, rest = split(module)
        tail_steps: list[Step] = []
        if rest is not None:
            tail, tail_steps = compiled(module, rest, threads)
        set_batch(module, batch, batch // parts)
        program, steps = compiled(module, head, 1)
        steps += tail_steps
    else:
        program, steps = compiled(module, whole(module), threads)
    (output,) = module.graph.find_nodes(op="output")
    leaves = [None if isinstance(v, torch.fx.Node) else v for v in output.args[0]]
    versions = [(t, t._version) for t in originals.values()]
    return Plan(
        program, tail, fusions, steps, parts, together, versions, module.output_spec, leaves
    )


class Optimized(nn.Module):
    """The result of :func:`optimize`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._plans: dict[Any, Plan] = {}

    def forward(self, *inputs: Tensor) -> Any:
        """Computes the model, without recording gradients."""
        plan = self.plan_for(inputs)
        results = plan.program.run(list(inputs), plan.parts)
        if plan.tail is not None:
            results = plan.tail.run(results, 1)
        tensors = iter(results)
        leaves = [next(tensors) if leaf is None else leaf for leaf in plan.leaves]
        return pytree.tree_unflatten(leaves, plan.spec)

    def plan_for(self, inputs: tuple[Tensor, ...]) -> Plan:
        """Returns the plan for inputs of these shapes, which is made if there is none yet or if
        the model's weights have changed since."""
        key = (
            *((t.shape, t.stride(), t.dtype) for t in inputs),
            torch.get_num_threads(),
            _C.float32_precision(),
        )
        known = self._plans.get(key)
        if known is None or any(t._version != version for t, version in known.versions):
            known = self._plans[key] = plan(self.model, inputs)
        return known


def optimize(model: nn.Module, *example: Tensor) -> Optimized:
    """Returns a module that computes the model in inference, faster."""
    result = Optimized(model)
    result.plan_for(example)
    return result
