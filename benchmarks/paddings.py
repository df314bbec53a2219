"""What padding modes and asymmetric padding cost, forward and with the backward pass.

    python benchmarks/paddings.py --seconds 0.3

The layers are those of the suite that have padding. For each mode a cell has convkern's time with
that mode as a multiple of its time with zeros, and behind the slash torch's time with that mode
(a pad, then a convolution) as a multiple of convkern's. "one side" moves all padding after the
image. Freed memory is kept for both sides.

    python benchmarks/paddings.py --models

Models of timm that pad by hand in front of their convolutions, or change their weights before:
torch's time over that of the model with replace_layers, in convkern.enabled and with optimize, in
inference of 8 images of 224x224 in channels_last.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor

import convkern
from convkern._C import Problem
from convkern._show.tables import Table
from convkern.bench.timing import time_in_turn
from convkern.functional import torchs_conv2d
from convkern.testing import operands

LAYERS = {
    "Fashion-MNIST K14": "n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+bias",
    "Fashion-MNIST K10": "n512c1h19w19k1r10s10p2q2_f32_nchw_fwd+bias",
    "Fashion-MNIST K5, stride 2": "n512c1h16w16k1r5s5p2q2u2v2_f32_nchw_fwd+bias",
    "LeNet K5": "n512c1h28w28k6r5s5p2q2_f32_nchw_fwd+bias",
    "first layer 3x3": "n64c3h32w32k8r3s3p1q1_f32_nchw_fwd+bias",
    "ResNet-50 7x7, stride 2": "n8c3h224w224k64r7s7p3q3u2v2_f32_nchw_fwd",
    "ResNet-50 3x3, 56x56": "n8c64h56w56k64r3s3p1q1_f32_nchw_fwd",
    "ResNet-50 3x3, 14x14": "n8c256h14w14k256r3s3p1q1_f32_nchw_fwd",
    "ResNeXt 3x3, 28x28": "n8c256h28w28k256r3s3p1q1g32_f32_nchw_fwd",
    "depthwise 3x3, 112x112": "n8c32h112w112k32r3s3p1q1g32_f32_nchw_fwd",
    "depthwise 3x3, 28x28": "n8c192h28w28k192r3s3p1q1g192_f32_nchw_fwd",
    "depthwise 7x7, 56x56": "n8c96h56w56k96r7s7p3q3g96_f32_nchw_fwd+bias",
    "depthwise 7x7, 14x14": "n8c384h14w14k384r7s7p3q3g384_f32_nchw_fwd+bias",
    "depthwise 31x31, 56x56": "n4c128h56w56k128r31s31p15q15g128_f32_nchw_fwd",
}
MODES = ("reflect", "replicate", "circular")
MODELS = ("tf_efficientnet_b0", "tf_mobilenetv3_large_100", "resnetv2_50x1_bit")


def cells(text: str, last: bool, both: bool, seconds: float) -> list[tuple[float, float]]:
    """Returns, for each mode and for one side, the time with it over that with zeros, and torch's
    time over convkern's."""
    problem = Problem(text)
    ops = operands(text.replace("nchw", "nhwc") if last else text)
    stride, padding, dilation, groups = ops.window
    leaves = [t.requires_grad_(both) for t in (ops.x, ops.w, ops.b) if t is not None]
    inputs = leaves if ops.b is not None else [*leaves, None]
    after = tuple((0, 2 * n) for n in problem.padding)

    def call(function: Callable[..., Tensor], pad: Any, mode: str) -> Callable[[], object]:
        run = partial(function, *inputs, stride, pad, dilation, groups, padding_mode=mode)
        if not both:
            return torch.no_grad()(run)
        return lambda: torch.autograd.grad(run(), leaves, ops.gy)

    kinds = [(mode, padding, mode) for mode in MODES] + [("one side", after, "zeros")]
    calls = {"zeros": call(convkern.conv2d, padding, "zeros")}
    for name, pad, mode in kinds:
        calls[name] = call(convkern.conv2d, pad, mode)
        calls[f"torch {name}"] = call(torchs_conv2d, pad, mode)
    samples = {name: s.median for name, s in time_in_turn(calls, seconds).items()}
    return [
        (samples[name] / samples["zeros"], samples[f"torch {name}"] / samples[name])
        for name, _, _ in kinds
    ]


def time_models(names: tuple[str, ...], seconds: float) -> None:
    """Prints torch's time over convkern's for whole models."""
    import timm  # a peer of benchmarks only

    columns = ("layers replaced", "replace_layers", "enabled", "optimize")
    table = Table(("inference",), columns)
    x = torch.randn(8, 3, 224, 224).to(memory_format=torch.channels_last)
    for name in names:
        plain = timm.create_model(name).eval().to(memory_format=torch.channels_last)
        replaced, intercepted = copy.deepcopy(plain), copy.deepcopy(plain)
        report = convkern.replace_layers(replaced)
        run = torch.no_grad()(convkern.enabled()(intercepted))
        fast = convkern.optimize(copy.deepcopy(plain), x)
        calls = {
            "torch": torch.no_grad()(partial(plain, x)),
            "replaced": torch.no_grad()(partial(replaced, x)),
            "enabled": partial(run, x),
            "optimize": partial(fast, x),
        }
        times = {key: s.median for key, s in time_in_turn(calls, seconds).items()}
        ratios = (f"{times['torch'] / times[key]:.2f}x" for key in list(calls)[1:])
        count = len(report.replaced)
        table.add_row(name, f"{count} of {count + len(report.kept)}", *ratios)
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.3, help="for each call")
    parser.add_argument("--models", action="store_true", help="time whole models of timm instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    convkern.keep_memory()
    if args.models:
        time_models(MODELS, args.seconds * 10)
        return
    for last in (False, True):
        for both in (False, True):
            layout = "channels last" if last else "channels first"
            title = f"{layout}, {'forward+backward' if both else 'forward'}"
            table, rows = Table((title,), (*MODES, "one side")), []
            for name, text in LAYERS.items():
                row = cells(text, last, both, args.seconds)
                rows.append(row)
                table.add_row(name, *(f"{cost:.2f} / {ratio:.2f}x" for cost, ratio in row))
            means = [
                tuple(map(geometric_mean, zip(*c, strict=True))) for c in zip(*rows, strict=True)
            ]
            table.add_row(
                "geometric mean", *(f"{cost:.2f} / {ratio:.2f}x" for cost, ratio in means)
            )
            print(table, flush=True)


if __name__ == "__main__":
    main()
