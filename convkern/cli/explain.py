"""`explain` shows which kernel runs a problem or the layers of a model, and why."""

import argparse
import inspect
import re
from importlib.util import find_spec

import torch
from torch import nn

from convkern.cli.arguments import Commands, positive
from convkern.explain import explain
from convkern.explain.explanation import Explanation
from convkern.explain.model import ModelExplanation
from convkern.surgery import replace_conv2d


def add_command(commands: Commands) -> None:
    summary = "name the kernel that runs a problem, or each layer of a model, and why"
    parser = commands.add_parser("explain", help=summary, description=summary)
    parser.add_argument(
        "problem",
        metavar="PROBLEM|MODEL",
        help="e.g. n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+bias (see convkern.explain); with "
        "--input the name of a model of torchvision, as convkern.replace_conv2d makes it",
    )
    parser.add_argument(
        "--input", type=_sizes, metavar="NxCxHxW", help="the model's input, e.g. 8x3x224x224"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda or, without a GPU, as in cuda:sm_90 (%(default)s)",
    )
    parser.add_argument(
        "--full", action="store_true", help="also list the kernels that were not chosen, and why"
    )
    parser.add_argument(
        "--picture",
        action="store_true",
        help="also draw which cells of rows and columns the outputs of the problem read",
    )
    parser.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    explanation: Explanation | ModelExplanation
    if args.input is None:
        if re.match(r"n\d", args.problem) is None:
            raise ValueError(
                f"{args.problem!r} is no problem string, which begins as n8c3h224w224; for a model "
                "of torchvision give its input, e.g. --input 8x3x224x224"
            )
        explanation = explain(args.problem, device=args.device)
    elif args.picture:
        raise ValueError("--picture draws one problem: give a problem string, without --input")
    else:
        explanation = _explain_model(args.problem, args.input, args.device)
    print(explanation.full() if args.full else explanation)
    if isinstance(explanation, Explanation) and args.picture:
        print(explanation.picture())
    return 0


def _explain_model(name: str, sizes: list[int], device: str) -> ModelExplanation:
    if find_spec("torchvision") is None:
        raise ValueError(
            "models by name are torchvision's, which is not installed: pip install 'convkern[data]'"
        )
    from torchvision.models import get_model, get_model_builder

    # In models of two parts the backbone has its own weights, which another argument names.
    taken = inspect.signature(get_model_builder(name)).parameters
    none = {key: None for key in ("weights", "weights_backbone") if key in taken}
    with torch.device("meta"):  # saves memory and time, as weights are not read
        model: nn.Module = get_model(name, **none)
        images = torch.empty(sizes)
    replace_conv2d(model)
    try:
        return explain(model, images, device=device)
    except RuntimeError as error:
        shape = "x".join(map(str, sizes))
        raise ValueError(f"{name} does not take an input of {shape}: {error}") from error


def _sizes(text: str) -> list[int]:
    return [positive(size) for size in text.split("x")]
