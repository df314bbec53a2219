"""Models as graphs of torch's operators, for inference with inputs of given shapes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils import _pytree as pytree

from convkern.optimize.constants import fold_constants
from convkern.optimize.effects import (
    Aliases,
    Guard,
    fix_layouts,
    make_functional,
    refuse_hidden_effects,
    remove_copies,
    remove_identities,
    remove_modes,
)
from convkern.optimize.graphs import CannotTrace, dense, tidy, val


def trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Returns the graph of what a model computes in inference, of inputs of these shapes.

    Each node calls an operator that changes nothing in place, and ``node.meta["val"]`` is its fake
    value: a tensor without data that has the shape, dtype, strides and device.
    ``node.meta["nn_module_stack"]`` has the parts of the model whose forward calls the operator,
    the outermost first, as torch's own tracers note them. Parameters and buffers are constants of
    the graph, the same tensors as the model's. What depends on no input is computed once.

    The graph module returns the tensors and numbers in the model's output as a list. It has three
    attributes: ``output_spec``, with which :func:`torch.utils._pytree.tree_unflatten` makes the
    model's output of that list; ``output_strides``, the strides of its tensors, which are not
    expanded; and ``sources``, the tensors of the model from which each computed constant was made.

    Args:
        model: a module in inference mode, all parts of it.
        inputs: the arguments of its forward. Only their shapes, strides, dtypes and devices count.

    Raises:
        CannotTrace: the model does something that no such graph can do.
        TypeError: model is not a module, or an input not a tensor.
        ValueError: the model, or a part of it, is in training mode.
    """
    _check(model, inputs)
    specs: list[Any] = []

    def flat(*arguments: Tensor) -> list[Any]:
        with _noting_paths(model):
            leaves, spec = pytree.tree_flatten(model(*arguments))
        _check_output(leaves)
        specs.append(spec)
        return leaves

    attributes = _attributes(model)
    record = make_fx(flat, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
    guard = Guard(v for _, table in attributes for v in table.values() if isinstance(v, Tensor))
    try:
        with torch.inference_mode(False), torch.no_grad(), guard:
            module = record(*_distinct(inputs))
    except CannotTrace:
        _restore(attributes)
        raise
    except Exception as error:
        _restore(attributes)
        sizes = ", ".join("x".join(map(str, t.shape)) for t in inputs)
        raise CannotTrace(
            f"the model cannot be traced with inputs of {sizes}, {_sentence(error)}"
        ) from error
    changed = _restore(attributes)
    if changed:
        raise CannotTrace(f"the model's forward replaces its own attribute {changed!r}")
    vars(module).update(
        output_spec=specs[-1], sources={}, origins={}, derived={}, computed_constants=0,
        fake_mode=_mode_of(module),
    )  # fmt: skip
    try:
        _normalise(module)
        vars(module)["output_strides"] = _output_strides(module)
    except CannotTrace:
        raise
    except Exception as error:
        raise CannotTrace(f"the model cannot be traced, {_sentence(error)}") from error
    return module


@contextmanager
def _noting_paths(model: nn.Module) -> Iterator[None]:
    """Lets the tracer that is at work note, at each node, the parts of the model whose forward
    calls its operator. Calls of the model by other threads are not concerned."""
    mode = get_proxy_mode()
    assert mode is not None
    stack: dict[str, Any] = mode.tracer.module_stack
    thread = threading.get_ident()
    with ExitStack() as hooks:
        for path, part in model.named_modules():

            def enter(part: nn.Module, _: Any, path: str = path) -> None:
                if threading.get_ident() == thread:
                    stack[path] = path, type(part)

            def leave(part: nn.Module, _: Any, output: Any, path: str = path) -> None:
                if threading.get_ident() == thread:
                    stack.pop(path, None)

            hooks.callback(part.register_forward_pre_hook(enter, prepend=True).remove)
            hooks.callback(part.register_forward_hook(leave, always_call=True).remove)
        yield


def _distinct(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Returns tensors like the inputs, of which no two are the same: the tracer would take these
    for one input."""
    seen: set[int] = set()
    result = []
    for t in inputs:
        result.append(torch.empty_like(t) if id(t) in seen else t)
        seen.add(id(t))
    return result


def _sentence(error: Exception) -> str:
    """Returns the class and the first line of an error."""
    reason = str(error).strip().partition("\n")[0] or "no reason given"
    return f"{type(error).__name__}: {reason}"


def _normalise(module: GraphModule) -> None:
    """Leaves in the graph only operators without effects that compute the model's output."""
    remove_modes(module)
    refuse_hidden_effects(module)
    aliases = Aliases(module)
    fold_constants(module, aliases)
    remove_identities(module)
    make_functional(module, aliases)
    remove_copies(module)
    fix_layouts(module, aliases)
    tidy(module)


def _output_strides(module: GraphModule) -> list[tuple[int, ...]]:
    """Returns the strides of the tensors that a graph returns; where their elements share memory,
    those of a dense tensor."""
    (output,) = module.graph.find_nodes(op="output")
    return [dense(val(leaf)).stride() for leaf in output.args[0] if isinstance(leaf, Node)]


def _check(model: Any, inputs: Any) -> None:
    """Raises unless the arguments of trace are as it says."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for value in inputs:
        if not isinstance(value, Tensor):
            raise TypeError(f"inputs must be tensors, got {type(value).__name__}")
    for name, part in model.named_modules():
        if part.training:
            raise ValueError(
                f"model must be in inference mode, call model.eval() before: {name or 'the model'} "
                "is in training mode"
            )


def _check_output(leaves: list[Any]) -> None:
    """Raises unless the model's output is made of tensors and plain values."""
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, int, float, str, type(None))):
            raise CannotTrace(
                f"the model returns a {type(leaf).__name__}, of which torch's pytree knows no parts"
            )


def _mode_of(module: GraphModule) -> Any:
    """Returns the mode of torch that made the fake values of a graph."""
    for node in module.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode
    raise CannotTrace("the model computes no tensor")


def _attributes(model: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns the attributes of all parts of a model, each time the table and a copy of it."""
    tables: list[dict[str, Any]] = []
    for part in model.modules():
        tables += [vars(part), part._parameters, part._buffers]
    return [(table, dict(table)) for table in tables]


def _restore(attributes: list[tuple[dict[str, Any], dict[str, Any]]]) -> str | None:
    """Puts back the tensors that were attributes of a model before it was traced. Those that the
    tracer set have no data. Returns the name of an attribute that had changed, or None."""
    changed = None
    for table, before in attributes:
        for name in [*table]:
            value, old = table[name], before.get(name)
            if value is not old and (isinstance(value, Tensor) or isinstance(old, Tensor)):
                changed = name
                if name in before:
                    table[name] = old
                else:
                    del table[name]
    return changed
