"""`compare`: the study of padding and stride, from the training to the report."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch.distributed as dist
from rich.console import Console

from convkern.cli.arguments import Commands, names, natural, positive
from convkern.fashion_mnist import MODELS, FashionMNISTData, read_fashion_mnist
from convkern.study import (
    Plan,
    Study,
    Watcher,
    dead_seeds,
    judge,
    run_study,
    steadiness,
    time_epochs,
)
from convkern.study.progress import TrainingBar, progress, timing_bar
from convkern.study.tables import results_table
from convkern.tables import wide_console

INTERRUPTED = 130  # as shells report a program that Ctrl-C ended


def add_command(commands: Commands) -> None:
    summary = "compare padding and stride on Fashion-MNIST: train, judge, and draw a report"
    parser = commands.add_parser("compare", help=summary, description=summary)
    add = parser.add_argument
    add(
        "--models",
        type=names,
        default=list(MODELS),
        metavar="NAME,...",
        help=f"of {','.join(MODELS)} (all)",
    )
    add("--seeds", type=positive, default=3, help="how many, from 0 on (%(default)s)")
    add("--epochs", type=positive, default=5, help="passes over the data (%(default)s)")
    add("--data", type=Path, metavar="DIR", help="where the data is (searched for if not given)")
    add(
        "--out",
        type=Path,
        default=Path("runs/compare"),
        metavar="DIR",
        help="where to write the report, its pictures and the checkpoints (%(default)s)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from the checkpoints in --out: the same result as without interruption",
    )
    add(
        "--timing-epochs",
        type=natural,
        default=3,
        metavar="N",
        help="epochs to time of each model with either layer; 0: none (%(default)s)",
    )
    add("--tensorboard", type=Path, metavar="DIR", help="where to write TensorBoard's event files")
    add("--quiet", action="store_true", help="print only the verdicts and the report's path")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    plan = _prepare(args)
    console = Console(quiet=args.quiet, highlight=False, soft_wrap=True)
    try:
        study = _study(args, plan, console)
    except KeyboardInterrupt:
        print(
            f"convkern: interrupted; what was trained is in {args.out}. To go on, give the same "
            "command with --resume",
            file=sys.stderr,
        )
        return INTERRUPTED
    if not args.quiet:
        wide_console().print(results_table(study))
        if note := steadiness(study):
            print(note)
    print(dead_seeds(study))
    for verdict in judge(study):
        print(verdict.text)
    print(f"report: {args.out / 'report.html'}")
    return 0


def _prepare(args: argparse.Namespace) -> Plan:
    """Fail now rather than after the training."""
    if dist.is_available() and dist.is_torchelastic_launched():
        raise ValueError("compare trains in one process: start it without torchrun")
    if unknown := [name for name in args.models if name not in MODELS]:
        raise ValueError(f"models must be among {','.join(MODELS)}, got {','.join(unknown)}")
    missing = [name for name in ("matplotlib", "jinja2", "scipy") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the report needs {', '.join(missing)}: pip install 'convkern[report]'")
    if args.tensorboard is not None and find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs tensorboard: pip install 'convkern[tensorboard]'")
    plan = Plan(args.models, range(args.seeds), args.epochs, args.out)
    if not args.resume and (existing := plan.existing()):
        raise ValueError(
            f"{existing[0]} exists: add --resume to go on from it, or choose another --out"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    return plan


def _study(args: argparse.Namespace, plan: Plan, console: Console) -> Study:
    """The study, written to --out with its report."""
    from convkern.study.report import write_report  # needs what may not be installed

    data = read_fashion_mnist(args.data)
    console.print(f"data: {data.source}")
    with ExitStack() as stack:
        bar = stack.enter_context(progress(console))
        watchers: list[Watcher] = [TrainingBar(bar, plan, len(data.train))]
        if args.tensorboard is not None:
            from convkern.study.events import Events

            watchers.append(stack.enter_context(Events(args.tensorboard)))
        study, models = run_study(data, plan, watchers)
    study = replace(study, times=_times(args, data, console))
    study.write(args.out / "study.json")
    console.print("drawing the report")
    write_report(args.out, study, models, data)
    return study


def _times(
    args: argparse.Namespace, data: FashionMNISTData, console: Console
) -> dict[str, dict[str, list[float]]]:
    """Of as many epochs as asked for; those of a finished study that is resumed are kept."""
    if not args.timing_epochs:
        return {}
    file = args.out / "study.json"
    times = Study.read(file).times if args.resume and file.exists() else {}
    wanted = {model: times.get(model, {}) for model in args.models}
    counts = {len(seconds) for by_conv in wanted.values() for seconds in by_conv.values()}
    if all(wanted.values()) and counts == {args.timing_epochs}:
        return wanted
    console.print("timing epochs with either layer")
    with progress(console) as bar:
        report = timing_bar(bar, 2 * len(args.models) * args.timing_epochs)
        return time_epochs(data, args.models, args.timing_epochs, report)
