"""Which kernel runs a convolution, why, why not the others, and what bounds its speed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convkern import _C, peaks
from convkern._C import Problem
from convkern._show import html
from convkern.choices import Activation, Padding, PaddingMode, Sides
from convkern.explain.picture import picture
from convkern.functional import canonical, check_mode, check_types, has_kernels
from convkern.peaks import Peaks
from convkern.problem import forward_problem

_KERNELS = {row["name"]: row for row in _C.kernels()}
_LEAST_CAPABILITY = 80  # of the GPUs that the CUDA kernels are built for


@dataclass(frozen=True)
class Explanation:
    """The plan of one problem. ``str()`` is the short answer, :meth:`full` adds the kernels that
    were not chosen, and :meth:`picture` draws what outputs read; Jupyter shows it as a table.

    Attributes:
        problem: the problem string.
        kernel: the name of the kernel that runs, ``"torch"`` where convkern has none.
        reason: why that kernel.
        rejected: (kernel, reason) for each other kernel of the dtype, in order of preference.
        flops: of the direct sum, two per multiply-add.
        min_bytes: that must move at least once: operands read, result written.
        workspace_bytes: that the kernel works in, with so many threads.
        threads: of torch, in the call.
    """

    problem: str
    kernel: str
    reason: str
    rejected: list[tuple[str, str]] = field(default_factory=list)
    flops: float = 0.0
    min_bytes: int = 0
    workspace_bytes: int = 0
    threads: int = 1

    @property
    def algorithm(self) -> str:
        """The algorithm of the kernel, such as ``"direct_batchlane"``; ``""`` for torch's."""
        return _KERNELS[self.kernel]["algorithm"] if self.kernel in _KERNELS else ""

    @property
    def intensity(self) -> float:
        """FLOPs a byte that must move."""
        return self.flops / self.min_bytes if self.min_bytes else 0.0

    @property
    def ridge(self) -> float:
        """FLOPs a byte at which arithmetic and memory take equally long on this machine, with the
        threads of the call and the kernel's instruction set. It is measured when it is first asked
        for, in about a third of a second and 384 MiB of memory. 0 where it is not known: without
        that memory, in a forked process, for kernels of a GPU and for ``"torch"``."""
        measured = self._peaks()
        if measured is None:
            return 0.0
        return _share_of_peak(self.kernel) * measured.peak / measured.bandwidth

    @property
    def bound(self) -> str:
        """The side that is expected to bound the speed, by the roofline model and the ridge:
        ``"compute"``, the multiply-adds, or ``"memory"``, the bytes; ``""`` without a ridge."""
        if not self.min_bytes or not self.ridge:
            return ""
        return "compute" if self.intensity > self.ridge else "memory"

    def _peaks(self) -> Peaks | None:
        kernel = _KERNELS.get(self.kernel)
        if kernel is None or kernel["device"] != "cpu":
            return None
        known = peaks.known_peaks(self.threads, kernel["isa"])
        return None if isinstance(known, str) else known

    def full(self) -> str:
        """The text with a line for each kernel that was not chosen, and why."""
        rejected = [("rejected", f"{name}: {reason}") for name, reason in self.rejected]
        return _lines([*self._facts(), *rejected])

    def picture(self) -> str:
        """Returns a picture in text of the cells that the first, second and last output read, along
        the rows and along the columns of the input.

        The cells of the input are between the bars, by their numbers. Outside is the padding: a 0
        for a zero, or the number of the cell that is repeated, with a prime. The marks below are
        the taps of the kernel. Of both gradients it is the same picture, and the sentence below it
        says what each pass does with the cells. Cells are left out where a line would exceed 78
        characters.

        Raises:
            ValueError: there is no problem string, as for dtypes that convkern does not compute.

        Example:
            >>> problem = "n1c1h5w5k1r3s3p1q1u2v2_f32_nchw_fwd+reflect"
            >>> print(convkern.explain(problem).picture())
            rows and columns: 5 cells, padding 1 before and 1 after (reflect), kernel 3,
              stride 2: 3 outputs
              1' | 0 1 2 3 4 | 3'
              ^------^             output 0
                     ^---^         output 1
                         ^-----^   output 2
            Each output is the sum of the marked cells times the taps of the kernel.
        """
        if "_" not in self.problem:
            raise ValueError(f"a picture needs a problem string, got problem={self.problem!r}")
        return picture(Problem(self.problem))

    def __str__(self) -> str:
        count = len(self.rejected)
        others = f"{count} other kernel{'s' * (count > 1)}, listed by .full() or --full"
        return _lines([*self._facts(), *([("rejected", others)] if count else [])])

    def _repr_html_(self) -> str:
        rejected = html.table(("kernel", "why not"), (False, False), self.rejected)
        others = html.details(f"{len(self.rejected)} other kernels", rejected)
        return html.facts(self._facts()) + (others if self.rejected else "")

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("problem", self.problem), ("kernel", f"{self.kernel}: {self.reason}")]
        facts += self._bound_facts()
        if self.min_bytes:
            facts += [("FLOPs", f"{self.flops:,.0f}"), ("bytes", f"{self.min_bytes:,} at least")]
        if self.kernel != "torch":
            facts.append(("workspace", f"{self.workspace_bytes:,} bytes"))
        return facts

    def _bound_facts(self) -> list[tuple[str, str]]:
        measured = self._peaks()
        if measured is None or not self.bound:
            return []
        side = "above" if self.bound == "compute" else "not above"
        rate, bandwidth = measured.peak * 1e-9, measured.bandwidth * 1e-9
        machine = (
            f"{measured.threads} threads do {rate:,.0f} GFLOP/s of float32 and {bandwidth:.0f}"
        )
        text = f"{self.intensity:,.1f} FLOPs a byte, {side} the ridge of {self.ridge:.3g}"
        return [("bound", f"{self.bound}: {text} (measured: {machine} GB/s)")]


def _lines(facts: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:11}{text}" for name, text in facts)


def explain_conv2d(
    input: Tensor | str,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Sides | Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    activation: Activation | None = None,
    residual: Tensor | None = None,
    device: str | None = None,
) -> Explanation:
    """See :func:`convkern.explain`, of a call of conv2d or a problem string."""
    if isinstance(input, str):
        return _explain_problem(Problem(input), device or "cpu", input.partition("#")[2])
    check_types(input, weight, bias, residual, activation)
    check_mode(padding_mode)
    assert weight is not None  # check_types() raised otherwise
    if not has_kernels(input, weight, bias, residual):
        return Explanation(
            problem=f"{input.dtype} on {input.device.type}",
            kernel="torch",
            reason="convkern computes dense float32, float64, bfloat16 and float16 on CPU and CUDA",
        )
    x, steps, pads, spacing = canonical(on_meta(input), weight, stride, padding, dilation)
    w, b = on_meta(weight), None if bias is None else on_meta(bias)
    window = (steps, pads, spacing, groups)
    added = None if residual is None else on_meta(residual)
    if added is not None and added.dim() == 3:
        added = added.unsqueeze(0)
    # This checks and computes nothing.
    torch.ops.convkern.conv2d(x, w, b, *window, activation, added, padding_mode)
    problem = forward_problem(
        x, w, b is not None, *window, activation, added is not None, padding_mode=padding_mode
    )
    own_device = next((t.device.type for t in (input, weight) if not t.is_meta), "cpu")
    return _explain_problem(problem, device or own_device)


def explain_transposed(
    input: Tensor,
    weight: Tensor,
    result: Tensor,
    window: Sequence[int | Sequence[int]],
    groups: int,
    device: str,
) -> Explanation:
    """The plan of a transposed convolution of this result: the gradient of the input of the
    convolution that makes its input of its result. The window is stride, padding, dilation."""
    if not has_kernels(input, weight, None):
        return explain_conv2d(input, weight)
    y, steps, pads, spacing = canonical(on_meta(result), weight, *window)
    forward = forward_problem(y, on_meta(weight), False, steps, pads, spacing, groups)
    return _explain_problem(Problem(str(forward).replace("_fwd", "_gx")), device)


def on_meta(t: Tensor) -> Tensor:
    """A tensor on the meta device, in the dtype that autocast gives it in a call from here."""
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
        rejected=[(name, why) for name, why in plan["rejected"] if _of_dtype(name, problem.dtype)],
        flops=problem.flops,
        min_bytes=problem.min_bytes,
        workspace_bytes=plan["workspace_bytes"],
        threads=torch.get_num_threads(),
    )


def _of_dtype(kernel: str, dtype: str) -> bool:
    half = ("half",) if dtype in ("bf16", "f16") else ()
    return _KERNELS[kernel]["dtype"] in (dtype, "any", *half)


def _share_of_peak(kernel: str) -> float:
    """The peak of a CPU kernel's multiply-adds as a multiple of that of float32."""
    if _KERNELS[kernel]["isa"] == "avx512bf16":
        return 2.0  # a lane adds two products at once
    return 0.5 if _KERNELS[kernel]["dtype"] == "f64" else 1.0  # a vector has half as many numbers
