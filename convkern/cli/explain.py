"""`explain`: which kernel runs a problem, and why."""

import argparse

from convkern.cli.arguments import Commands
from convkern.explain import explain


def add_command(commands: Commands) -> None:
    summary = "name the kernel that runs a problem, and why"
    parser = commands.add_parser("explain", help=summary, description=summary)
    parser.add_argument(
        "problem", help="e.g. n512c1h28w28k1r14s14p2q2_f32_nchw_fwd+bias (see convkern.explain)"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda or, without a GPU, as in cuda:sm_90 (%(default)s)",
    )
    parser.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    print(explain(args.problem, device=args.device))
    return 0
