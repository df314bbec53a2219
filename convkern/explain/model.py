"""Which kernels run the convolution layers of a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map_only

from convkern._show import html
from convkern._show.tables import Table
from convkern.explain.explanation import Explanation, explain_conv2d, on_meta
from convkern.modules import Conv2d
from convkern.optimize import Optimized
from convkern.surgery import why_kept

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

            def look(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                found.append((names[layer], _explain_layer(layer, inputs[0], output, device)))

            stack.callback(layer.register_forward_hook(look).remove)
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


def _explain_layer(layer: nn.Module, x: Tensor, y: Tensor, device: str | None) -> Explanation:
    if not isinstance(layer, nn.Conv2d):
        kind = type(layer).__name__
        reason = f"{kind}: convkern computes 2D convolutions that are not transposed"
        return Explanation(kind, "torch", reason, flops=_direct_flops(layer, x, y))
    own = x.device.type
    x, w = _dataless(x), _dataless(layer.weight)
    b = None if layer.bias is None else _dataless(layer.bias)
    # The plan is made of real meta tensors, which exist outside the mode only.
    with unset_fake_temporarily():
        given: Any = layer
        result = explain_conv2d(
            x, w, b, layer.stride, given.padding, layer.dilation, layer.groups,
            padding_mode=given.padding_mode, activation=getattr(layer, "activation", None),
            device=device or (own if own == "cuda" else "cpu"),
        )  # fmt: skip
        return result if isinstance(layer, Conv2d) else _of_torch(layer, result)


def _of_torch(layer: nn.Conv2d, plan: Explanation) -> Explanation:
    """The plan of a layer that is not convkern's: torch's, and what would change that."""
    kept = why_kept(layer)
    reason = (
        f"nn.Conv2d, which replace_conv2d keeps: {kept}"
        if kept is not None
        else f"nn.Conv2d, which convkern.replace_conv2d would run on {plan.kernel}"
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
