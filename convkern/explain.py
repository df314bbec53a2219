"""convkern.explain: which kernel runs a problem, why, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convkern import _C
from convkern._C import Problem

_DTYPE_NAMES = {
    torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"
}  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """The plan of one problem. ``str()`` gives it as text.

    Attributes:
        problem: the problem string.
        kernel: the name of the kernel that runs, ``"torch"`` where convkern has none.
        reason: why that kernel.
        rejected: (kernel, reason) for each other kernel, in order of preference.
        flops: of the direct sum, two per multiply-add.
        min_bytes: that must move at least once: operands read, result written.
        workspace_bytes: that the kernel allocates, with torch's current number of threads.
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
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    device: str | None = None,
) -> Explanation:
    """Explains ``convkern.conv2d`` with the same arguments, or the problem of a problem string such
    as ``"n512c1h28w28k1r14s14_f32_nchw_fwd+bias"``. Nothing is computed; meta tensors will do.

    Args:
        device: ``"cpu"`` or ``"cuda"``; input's own device by default.

    Raises:
        ValueError: the problem string is malformed or describes an impossible convolution.
        RuntimeError: as conv2d.
    """
    if isinstance(input, str):
        return _explain_problem(Problem(input), device or "cpu", input)
    from convkern.functional import _ints

    if weight is None:
        raise TypeError("explain: weight must be a Tensor when input is one")
    kind = input.device.type
    if input.dtype not in _DTYPE_NAMES or kind not in ("cpu", "cuda", "meta"):
        return Explanation(
            problem=f"{input.dtype} on {kind}",
            kernel="torch",
            reason="convkern computes float32, float64, bfloat16 and float16 on CPU and CUDA",
        )
    channels_last = torch.channels_last in (
        torch._prims_common.suggest_memory_format(t) for t in (input, weight) if t.dim() == 4
    )
    n, c, h, w = input.shape if input.dim() == 4 else (1, *input.shape)
    o, _, r, s = weight.shape
    (p, q), (u, v) = _ints(padding, "padding"), _ints(stride, "stride")
    d, e = _ints(dilation, "dilation")
    text = (
        f"n{n}c{c}h{h}w{w}k{o}r{r}s{s}p{p}q{q}u{u}v{v}d{d}e{e}g{groups}_{_DTYPE_NAMES[input.dtype]}"
        f"_{'nhwc' if channels_last else 'nchw'}_fwd"
        f"{'' if bias is None else '+bias'}{'+relu' if activation == 'relu' else ''}"
    )
    return _explain_problem(Problem(text), device or ("cpu" if kind == "meta" else kind), text)


def _explain_problem(problem: Problem, device: str, text: str) -> Explanation:
    plan = _C.plan(problem, device)
    if plan["forced"]:
        reason = "forced"
    elif plan["reference"]:
        reason = "no other kernel supports the problem"
    else:
        reason = "the first in order of preference that supports the problem"
    label = text.partition("#")[2]
    return Explanation(
        problem=f"{problem}#{label}" if label else str(problem),
        kernel=plan["kernel"],
        reason=reason,
        rejected=plan["rejected"],
        flops=problem.flops,
        min_bytes=problem.min_bytes,
        workspace_bytes=plan["workspace_bytes"],
    )
