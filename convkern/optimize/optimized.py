"""convkern.optimize: models for inference whose layers are fused, planned and packed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from convkern import _C
from convkern.optimize.batches import separable, set_batch
from convkern.optimize.fusions import Fusions, fuse
from convkern.optimize.graphs import CannotTrace, constant, paths_of, sources
from convkern.optimize.measured import Slower, keep_faster
from convkern.optimize.program import Step, compiled
from convkern.optimize.recent import Recent
from convkern.optimize.sections import split, whole
from convkern.optimize.text import grouped
from convkern.optimize.trace import trace

MAX_PLANS = 16
_TENSOR = object()  # stands for a tensor among the leaves of a model's output
# The tracer has state of its process, so that one model is traced at a time.
_planning = threading.RLock()
os.register_at_fork(
    before=_planning.acquire, after_in_parent=_planning.release, after_in_child=_planning.release
)


@dataclass(frozen=True)
class Plan:
    """What :class:`Optimized` has worked out for inputs of some shapes. ``str()`` gives it as text.

    Attributes:
        inputs: the shapes and dtypes of the inputs, as text.
        fusions: what was fused, and what was not and why. The layers in `slower` were fused before
            they were left to torch.
        steps: the steps of the program in their order, each with its kernel.
        parts: the parts that the batch is cut into. One thread computes each. 1: all threads
            compute the whole batch.
        together: why the batch is not cut, or None if it is.
        slower: the layers that ``measure=True`` has left to torch.
    """

    inputs: str
    fusions: Fusions
    steps: list[Step]
    parts: int
    together: str | None
    slower: list[Slower]
    programs: list[_C.Program]  # the first computes the parts, a second the whole batch after it
    leaves: list[Any]  # of the output; _TENSOR stands for a tensor
    spec: pytree.TreeSpec
    constants: list[Tensor]  # of the model, whose values are in the plan

    def run(self, inputs: tuple[Tensor, ...]) -> Any:
        """Computes the model."""
        results = self.programs[0].run(list(inputs), self.parts)
        for program in self.programs[1:]:
            results = program.run(results, 1)
        tensors = iter(results)
        leaves = [next(tensors) if leaf is _TENSOR else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)

    def __str__(self) -> str:
        ours = sum(step.kernel != "torch" for step in self.steps)
        theirs = grouped((step.what, step.path) for step in self.steps if step.kernel == "torch")
        slower = grouped((layer.problem, layer.path) for layer in self.slower)
        cut = f"{self.parts} parts of the batch, each on one thread"
        joined = ", ".join(f"{count} {name}" for name, count in self.fusions.fused.items() if count)
        lines = [
            f"inputs    {self.inputs}",
            f"runs      {cut if self.parts > 1 else f'as a whole: {self.together}'}",
            f"fused     {joined or 'nothing'}",
            f"convkern  {ours} steps",
            *(f"torch     {line}" for line in theirs or ["nothing"]),
            *(f"slower    {line}" for line in slower),
            *(f"kept      {line}" for line in self.fusions.what_stays()),
        ]
        return "\n".join(lines)


def make_plan(
    model: nn.Module, inputs: tuple[Tensor, ...], *, measure: bool = False, parts: int | None = None
) -> Plan:
    """Works out a plan for inputs of these shapes. `parts` is for tests."""
    module = trace(model, inputs)
    fusions = fuse(module)
    threads = torch.get_num_threads()
    batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
    together = separable(module, batch) if batch > 1 else "it is no batch of several images"
    if together is None and batch % threads != 0:
        together = f"{threads} threads do not share {batch} images equally"
    if parts is None:
        parts = batch if together is None else 1
    try:
        programs, steps, slower = _programs(module, threads, batch, parts, measure)
    except RuntimeError:
        if parts == 1:
            raise
        whole_batch = make_plan(model, inputs, measure=measure, parts=1)
        return replace(whole_batch, together="its parts could not be planned")
    computed = sources(module)
    constants = [t for origins in computed.values() for t in origins]
    constants += [
        value
        for node in module.graph.find_nodes(op="get_attr")
        if node.target not in computed and (value := constant(module, node)) is not None
    ]
    paths = paths_of(module)
    steps = [replace(step, path=paths[step.node]) for step in steps]
    (output,) = module.graph.find_nodes(op="output")
    leaves = [_TENSOR if isinstance(v, torch.fx.Node) else v for v in output.args[0]]
    text = ", ".join(f"{'x'.join(map(str, t.shape))} {_name(t.dtype)}" for t in inputs)
    spec = vars(module)["output_spec"]
    return Plan(text, fusions, steps, parts, together, slower, programs, leaves, spec, constants)


def _programs(
    module: GraphModule, threads: int, batch: int, parts: int, measure: bool
) -> tuple[list[_C.Program], list[Step], list[Slower]]:
    slower = []
    if parts == 1:
        if measure:
            slower = keep_faster(module, threads)
        program, steps = compiled(module, whole(module), threads)
        return [program], steps, slower
    part = batch // parts
    if measure:
        set_batch(module, batch, part)
        slower = keep_faster(module, 1)
        set_batch(module, part, batch)
    head, tail = split(module, batch)
    last = [] if tail is None else [compiled(module, tail, threads)]
    set_batch(module, batch, part)
    both = [compiled(module, head, 1), *last]
    (_, first), *rest = both
    steps = [replace(step, runs=parts) for step in first]
    steps += [step for _, others in rest for step in others]
    return [program for program, _ in both], steps, slower


def _check_inputs(inputs: tuple[Any, ...]) -> None:
    for value in inputs:
        if not isinstance(value, Tensor):
            raise TypeError(f"the inputs of an optimized model must be tensors, got {type(value)}")


def _is_special(inputs: tuple[Tensor, ...]) -> bool:
    """Returns whether a call is not a plain one, of dense tensors of the CPU."""
    return (
        torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._functorch.maybe_current_level() is not None
        or not all(_is_plain(t) for t in inputs)
    )


_PLAIN = (Tensor, nn.Parameter)


def _is_plain(t: Tensor) -> bool:
    """Returns whether a tensor is dense, on the CPU, and has its numbers themselves in memory."""
    return type(t) in _PLAIN and t.is_cpu and t.layout == torch.strided and not t.is_neg()


def _watch(model: nn.Module, plans: Iterable[Plan] = ()) -> _C.Watch:
    """Returns what notices that a model has got other weights or parts."""
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise CannotTrace(f"{name or 'the model'} is compiled by torch.jit")
    tables = [t for m in model.modules() for t in (m._parameters, m._buffers, m._modules)]
    known = {id(t) for table in tables for t in table.values()}
    others = {id(t): t for plan in plans for t in plan.constants if id(t) not in known}
    return _C.Watch(tables, list(others.values()))


class Optimized(nn.Module):
    """A model for inference; the result of :func:`convkern.optimize`.

    It is called as the model is, with tensors. Inputs of other shapes get a plan of their own at
    the first call. The plans that were used last are kept, `max_plans` at most. ``print()`` says
    what was fused, and what stayed and why, and :func:`convkern.explain` shows each step with its
    kernel. Several threads may call it at once.

    Weights that change are noticed, and a new plan is made: by an optimizer, ``load_state_dict``,
    a new parameter or a new part of the model. Not noticed are changes through ``.data``, those of
    weights that were made in inference mode, and those of numbers such as a batch norm's ``eps``.

    Attributes:
        model: the model itself.
        measure: whether layers that torch computes faster are left to torch.
        max_plans: how many plans are kept.
    """

    def __init__(
        self, model: nn.Module, *, measure: bool = False, max_plans: int = MAX_PLANS
    ) -> None:
        super().__init__()
        self.model = model
        self.measure = measure
        self.max_plans = max_plans
        self.training = False
        self._plans: Recent[Plan] = Recent(max_plans)
        self._watch: _C.Watch | None = None

    def forward(self, *inputs: Tensor) -> Any:
        """Computes the model. Gradients are not recorded.

        Calls that something records, transforms or casts (torch.compile, a tracer, torch.func,
        autocast, inputs without data or of a tensor subclass) are calls of the model itself, and
        so are calls in training mode.
        """
        _check_inputs(inputs)
        if self.model.training or _is_special(inputs):
            return self.model(*inputs)
        return self.plan_for(inputs).run(inputs)

    def plan_for(self, inputs: tuple[Tensor, ...]) -> Plan:
        """Returns the plan for inputs of these shapes, dtypes and strides, with torch's number of
        threads. It is made if there is none, or none any more.

        Raises:
            CannotTrace: the model does something that no plan can do.
            TypeError: an input is no tensor.
        """
        _check_inputs(inputs)
        if self._is_outdated():
            with _planning:
                if self._is_outdated():
                    self._plans = Recent(self.max_plans)
                    self._watch = _watch(self.model)
        key = (
            *((t.shape, t.stride(), t.dtype) for t in inputs),
            torch.get_num_threads(),
            _C.float32_precision(),
            _C.batch_invariant(),
        )
        plan = self._plans.get(key)
        if plan is None:
            with _planning:
                plan = self._plans.get(key)
                if plan is None:
                    plan = make_plan(self.model, inputs, measure=self.measure)
                    plans = self._plans.added(key, plan)
                    watch = _watch(self.model, plans.values())
                    # If the weights have changed meanwhile, the next call notices it.
                    if not self._is_outdated():
                        self._plans, self._watch = plans, watch
        return plan

    def _is_outdated(self) -> bool:
        """Returns whether the plans are of other weights than the model has."""
        return self._watch is None or self._watch.has_changed()

    @property
    def plans(self) -> list[Plan]:
        """The plans that are kept, in the order in which they were made."""
        return self._plans.values()

    def __getstate__(self) -> dict[str, Any]:  # of copies and pickles, which plan anew
        state = dict(self.__dict__)
        state.update(_plans=Recent(self.max_plans), _watch=None)
        return state

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return "\n".join([f"Optimized({name})", *("\n" + str(plan) for plan in self.plans)])


def optimize(
    model: nn.Module, *example: Tensor, measure: bool = False, max_plans: int = MAX_PLANS
) -> Optimized:
    """Returns a module that computes a model in inference on the CPU, faster.

    The model is traced to a graph of torch's operators. Batch norms and scales are folded into
    convolutions and linear layers; bias, residual and activation are applied as these write their
    results. Weights are packed once, images stay channels_last from layer to layer, and the results
    of layers share planned memory. If the model computes every image of a batch on its own, each
    thread computes one image after the other, whose numbers stay in the caches. Operators that
    convkern does not have remain torch's.

    Args:
        model: a module in inference mode, ``model.eval()``, on the CPU. It is not changed.
        example: the arguments of its forward, tensors. Other shapes work too: a plan is made when
            they are first seen, in up to two seconds.
        measure: time each different layer once on its real sizes, and leave those to torch that
            torch computes faster.
        max_plans: how many plans are kept, those that were used last. Each has packed weights and
            memory for results of its own. Inputs of more different shapes in turn are planned again
            at every call, so that it had better be no less than their number.

    Returns:
        A module that is called as the model. Its results have no gradients. They are as accurate as
        those of :func:`convkern.conv2d` under :func:`convkern.set_float32_precision`.

    Raises:
        convkern.CannotTrace: the model does something that no graph can do, such as a
            choice that depends on values; the message says what.
        TypeError: model is not a module, an example not a tensor, or max_plans not an int.
        ValueError: the model, or a part of it, is in training mode; a tensor is not on the CPU; or
            max_plans is less than 1.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fast = convkern.optimize(model, torch.randn(2, 3, 32, 32))
        >>> fast(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 8, 30, 30])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if type(max_plans) is not int:
        raise TypeError(f"max_plans must be an int, got {type(max_plans).__name__}")
    if max_plans < 1:
        raise ValueError(f"max_plans must be at least 1, got {max_plans}")
    tensors = [*model.parameters(), *model.buffers(), *example]
    device = next((t.device for t in tensors if isinstance(t, Tensor) and not t.is_cpu), None)
    if device is not None:
        raise ValueError(f"optimize: model and example must be on the CPU, got {device}")
    if torch.is_autocast_enabled("cpu"):
        raise CannotTrace("autocast is on, which a graph for inference cannot do")
    result = Optimized(model, measure=measure, max_plans=max_plans)
    result.plan_for(example)
    return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__ = ["CannotTrace", "Optimized", "Plan", "optimize"]
