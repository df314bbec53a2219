"""convkern.explain: which kernel runs a problem, why, and why not the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convkern import _C
from convkern._C import Problem
from convkern.functional import canonical, check_types, has_kernels
from convkern.problem import forward_problem

_LEAST_CAPABILITY = 80  # of the GPUs that the CUDA kernels are built for


@dataclass(frozen=True)
class Explanation:
    """The plan of one problem. ``str()`` gives it as text.

    Attributes:
        problem: the problem string.
        kernel: the name of the kernel that runs, ``"torch"`` where convkern has none.
        reason: why that kernel.
        rejected: (kernel, reason) for each other kernel of the dtype, in order of preference.
        flops: of the direct sum, two per multiply-add.
        min_bytes: that must move at least once: operands read, result written.
        workspace_bytes: that the kernel works in, with torch's current number of threads.
    """

    problem: str
    kernel: str
    reason: str
    rejected: list[tuple[str, str]] = field(default_factory=list)
    flops: float = 0.0
    min_bytes: int = 0
    workspace_bytes: int = 0

    def __str__(self) -> str:
        lines = [f"problem    {self.problem}", f"kernel     {self.kernel}: {self.reason}"]
        lines += [f"rejected   {name}: {reason}" for name, reason in self.rejected]
        intensity = self.flops / self.min_bytes if self.min_bytes else 0.0
        lines += [
            f"FLOPs      {self.flops:,.0f}",
            f"bytes      {self.min_bytes:,} at least, {intensity:,.1f} FLOPs a byte",
            f"workspace  {self.workspace_bytes:,} bytes",
        ]
        return "\n".join(lines)


def explain(
    input: Tensor | str,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    device: str | None = None,
) -> Explanation:
    """Explains ``convkern.conv2d`` with the same arguments, or the problem of a problem string such
    as ``"n512c1h28w28k1r14s14_f32_nchw_fwd+bias"``. Nothing is computed; meta tensors will do.

    Args:
        device: ``"cpu"``, ``"cuda"`` or, for a GPU that need not be here, its compute capability
            as in ``"cuda:sm_90"``; input's own device by default.

    Raises:
        ValueError: the problem string is malformed or describes an impossible convolution; or the
            device is none, or this build has no kernels for it.
        RuntimeError, TypeError: as conv2d.
    """
    if isinstance(input, str):
        return _explain_problem(Problem(input), device or "cpu", input.partition("#")[2])
    check_types(input, weight, bias)
    assert weight is not None  # check_types() raised otherwise
    if not has_kernels(input, weight, bias):
        return Explanation(
            problem=f"{input.dtype} on {input.device.type}",
            kernel="torch",
            reason="convkern computes dense float32, float64, bfloat16 and float16 on CPU and CUDA",
        )
    x, steps, pads, spacing = canonical(_meta(input), weight, stride, padding, dilation)
    w, b = _meta(weight), None if bias is None else _meta(bias)
    window = (steps, pads, spacing, groups)
    torch.ops.convkern.conv2d(x, w, b, *window, activation)  # checks; computes nothing
    problem = forward_problem(x, w, b is not None, *window, activation == "relu")
    own_device = "cpu" if input.is_meta else input.device.type
    return _explain_problem(problem, device or own_device)


def _meta(t: Tensor) -> Tensor:
    """On the meta device, in the dtype that autocast gives it in a call from here."""
    device = t.device.type
    if (
        device in ("cpu", "cuda")
        and torch.is_autocast_enabled(device)
        and t.is_floating_point()
        and t.dtype != torch.float64
    ):
        return t.to("meta", torch.get_autocast_dtype(device))
    return t.to("meta")


def _with_kernels(device: str) -> str:
    """The device without its compute capability, for which there must be kernels."""
    capability = re.fullmatch(r"cuda:sm_(\d+)a?", device)
    if capability is None:
        return device
    if int(capability[1]) < _LEAST_CAPABILITY:
        raise ValueError(f"device must be sm_{_LEAST_CAPABILITY} or later for CUDA, got {device!r}")
    return "cuda"


def _explain_problem(problem: Problem, device: str, label: str = "") -> Explanation:
    plan = _C.plan(problem, _with_kernels(device))
    if plan["forced"]:
        reason = "forced"
    elif plan["reference"]:
        reason = "every other kernel leaves the problem to it"
    else:
        reason = "the first in order of preference that supports the problem"
    return Explanation(
        problem=f"{problem}#{label}" if label else str(problem),
        kernel=plan["kernel"],
        reason=reason,
        rejected=plan["rejected"],
        flops=problem.flops,
        min_bytes=problem.min_bytes,
        workspace_bytes=plan["workspace_bytes"],
    )
