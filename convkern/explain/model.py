"""Which kernels run the convolution layers of a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map_only

from convkern._show import html
from convkern._show.tables import Table
from convkern.conv1d import conv1d, conv_transpose1d, window_of_row
from convkern.explain.explanation import Explanation, explain_conv2d, explain_transposed, on_meta
from convkern.interception import Calls
from convkern.keeping import OURS, kind_of, why_kept
from convkern.optimize import Optimized
from convkern.subclasses import is_derived
from convkern.transposed import conv_transpose2d

_LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip


@dataclass(frozen=True)
class ModelExplanation:
    """The plans of a model's convolution layers. ``str()`` and Jupyter give a table with a row for
    each; iterating gives (name, Explanation).

    Attributes:
        layers: (name, Explanation) of each call of a layer, in the order of the calls. The kernel
            of a layer that is not convkern's is ``"torch"``, and the reason says what would change
            that.
        kind: what the rows are, convolution layers or the steps of an optimized model.
    """

    layers: list[tuple[str, Explanation]]
    kind: str = "convolution layers"

    def __iter__(self) -> Iterator[tuple[str, Explanation]]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def flops(self) -> float:
        """The sum over all layers."""
        return sum(e.flops for _, e in self.layers)

    def full(self) -> str:
        """The full text of every layer's explanation."""
        return "\n\n".join(f"layer      {_named(name)}\n{e.full()}" for name, e in self.layers)

    def __str__(self) -> str:
        if not self.layers:
            return self._summary()
        return "\n".join([str(self._table()), *self._notes(), self._summary()])

    def _repr_html_(self) -> str:
        notes = [html.paragraph(text) for text in (*self._notes(), self._summary())]
        return self._table()._repr_html_() + "".join(notes)

    def _table(self) -> Table:
        result = Table(("layer", "problem", "kernel"), ("MFLOPs", "share"), ("bound",))
        total = self.flops or 1.0
        for name, e in self.layers:
            figures = _millions(e.flops), f"{e.flops / total:.1%}"
            result.add_row(_named(name), e.problem, e.kernel, *figures, e.bound)
        return result

    def _notes(self) -> Iterator[str]:
        """A line for each reason why layers are torch's."""
        layers: dict[str, list[str]] = {}
        for name, e in self.layers:
            if e.kernel == "torch":
                layers.setdefault(e.reason, []).append(_named(name))
        for reason, names in layers.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{names[0]}{more}: {reason}"

    def _summary(self) -> str:
        ours = [e for _, e in self.layers if e.kernel != "torch"]
        share = sum(e.flops for e in ours) / (self.flops or 1.0)
        return (
            f"{len(ours)} of {len(self.layers)} {self.kind} run on convkern, "
            f"{share:.1%} of {_millions(self.flops)} MFLOPs"
        )


def explain_model(model: nn.Module, inputs: Any, device: str | None = None) -> ModelExplanation:
    """See :func:`convkern.explain`, of a model and an example of its input."""
    arguments = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(arguments, tuple):
        raise TypeError(
            "a model needs an example of its input, a Tensor or a tuple of arguments, "
            f"got {type(inputs).__name__}"
        )
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if any(nn.parameter.is_lazy(t) for t in state.values()):
        raise ValueError("the model has layers without shapes yet: run it once, then explain it")
    found: list[tuple[str, Explanation]] = []
    names: dict[nn.Module, str] = {
        m: name for name, m in model.named_modules() if isinstance(m, _LAYERS)
    }
    with ExitStack() as stack:
        for layer in names:

            def look(layer: nn.Module, inputs: Any, options: dict[str, Any], output: Any) -> None:
                rows = _explain_layer(layer, inputs, options, output, device)
                found.extend((names[layer], row) for row in rows)

            stack.callback(layer.register_forward_hook(look, with_kwargs=True).remove)
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        # Tensors without data are of any device, also where the others are of one.
        tensors = [t for t in tree_leaves([state, arguments]) if isinstance(t, Tensor)]
        device_of_all = next((t.device for t in tensors if not t.is_meta), torch.device("meta"))

        def faked(t: Tensor) -> Tensor:
            if not t.is_meta:
                return mode.from_tensor(t)
            return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device_of_all)

        fake: dict[str, Tensor] = {name: faked(t) for name, t in state.items()}
        examples = tree_map_only(Tensor, faked, arguments)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_quiet(logging.getLogger("torch._subclasses.fake_tensor")))
        try:
            torch.func.functional_call(model, fake, examples)
        except torch._subclasses.fake_tensor.DataDependentOutputException as error:
            raise ValueError(
                f"the model's forward depends on values, not only on shapes ({error}): "
                "explain its layers one by one"
            ) from error
    return ModelExplanation(found)


def explain_optimized(model: Optimized, inputs: Any) -> ModelExplanation:
    """See :func:`convkern.explain`, of the result of convkern.optimize."""
    arguments = (inputs,) if isinstance(inputs, Tensor) else inputs
    if arguments is None and not model.plans:
        raise ValueError("the optimized model has no plan yet: give an example, or call it once")
    plan = model.plans[-1] if arguments is None else model.plan_for(arguments)
    rows = []
    for step in plan.steps:
        if step.kernel == "torch":
            row = Explanation(step.what, "torch", "an operator that convkern does not have")
        elif step.kernel == "pass":
            row = Explanation(step.what, "pass", "a pass over images between convolutions")
        else:
            row = explain_conv2d(step.what)
            row = replace(row, flops=row.flops * step.runs, min_bytes=row.min_bytes * step.runs)
        rows.append((step.node, row))
    return ModelExplanation(rows, "steps")


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silences a logger, which would print a traceback that is raised besides."""
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _explain_layer(
    layer: nn.Module, inputs: Any, options: dict[str, Any], y: Any, device: str | None
) -> list[Explanation]:
    """The plans of the convolutions that a layer calls, mostly one."""
    if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        kind = type(layer).__name__
        reason = f"{kind}: convkern computes convolutions of one and two dimensions"
        return [Explanation(kind, "torch", reason, flops=_direct_flops(layer, inputs[0], y))]
    with Calls() as calls:
        layer.forward(*inputs, **options)
    plans = [_explain_call(*call, device=device) for call in calls.found]
    if isinstance(layer, OURS[kind_of(layer)]) or is_derived(layer):
        return plans
    return [_of_torch(layer, plan) for plan in plans]


def _explain_call(
    function: Any, arguments: Any, options: dict[str, Any], y: Tensor, *, device: str | None
) -> Explanation:
    """The plan of one call of a function of convkern's, or of torch's that it replaces."""
    bound = signature(function).bind(*arguments, **options)
    bound.apply_defaults()
    call = bound.arguments
    own = call["input"].device.type
    x, w, y = _dataless(call["input"]), _dataless(call["weight"]), _dataless(y)
    b = None if call["bias"] is None else _dataless(call["bias"])
    window: Any = [call["stride"], call["padding"], call["dilation"]]
    device = device or (own if own == "cuda" else "cpu")
    # The plan is made of real meta tensors, which exist outside the mode only.
    with unset_fake_temporarily():
        if function in (conv1d, conv_transpose1d):
            x, w, y = x.unsqueeze(-2), w.unsqueeze(-2), y.unsqueeze(-2)
            window = window_of_row(*window)
        if function in (conv_transpose1d, conv_transpose2d):
            return explain_transposed(x, w, y, window, call["groups"], device)
        stride, padding, dilation = window
        return explain_conv2d(
            x, w, b, stride, padding, dilation, call["groups"],
            padding_mode=call["padding_mode"], activation=call["activation"], device=device,
        )  # fmt: skip


def _of_torch(layer: nn.Module, plan: Explanation) -> Explanation:
    """The plan of a layer that is not convkern's: torch's, and what would change that."""
    kept, kind = why_kept(layer), kind_of(layer)
    name = f"nn.{kind.__name__}" if type(layer) is kind else type(layer).__name__
    function = "replace_conv2d" if kind is nn.Conv2d else "replace_layers"
    reason = (
        f"{name}, which {function} keeps: {kept}"
        if kept is not None
        else f"{name}, which convkern.{function} would run on {plan.kernel}"
    )
    return replace(plan, kernel="torch", reason=reason, rejected=[], workspace_bytes=0)


def _dataless(fake: Tensor) -> Tensor:
    """A meta tensor as the fake one: of its shape, strides and, under autocast, dtype."""
    t = on_meta(fake)
    with unset_fake_temporarily():
        return torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="meta")


def _direct_flops(layer: Any, x: Tensor, y: Tensor) -> float:
    """The FLOPs of a layer that convkern does not compute. Each element of the output, or of the
    input if the layer is transposed, takes a multiply-add, which counts as two, for each channel of
    its group and each tap."""
    swept, channels = (x, layer.out_channels) if layer.transposed else (y, layer.in_channels)
    return float(2 * swept.numel() * (channels // layer.groups) * prod(layer.kernel_size))


def _named(name: str) -> str:
    return name or "(the model itself)"


def _millions(flops: float) -> str:
    return f"{flops / 1e6:,.1f}" if flops >= 1e6 else f"{flops / 1e6:.2g}"
