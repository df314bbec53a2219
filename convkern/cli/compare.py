"""`compare` runs the study of padding and stride, from the training to the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch.distributed as dist

from convkern._files import check_writable, locked
from convkern._show.progress import Progress
from convkern.cli.arguments import Commands, add_training, names, natural, positive, resuming
from convkern.fashion_mnist import (
    CONVS,
    MODELS,
    MODES,
    VARIANTS,
    FashionMNISTData,
    read_fashion_mnist,
)
from convkern.fashion_mnist.models import parts
from convkern.fashion_mnist.study import (
    Plan,
    Study,
    Watcher,
    dead_seeds,
    judge,
    run_study,
    steadiness,
    time_epochs,
)
from convkern.fashion_mnist.study.progress import TrainingBar, timing_bar
from convkern.fashion_mnist.study.tables import results_table


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
    add(
        "--modes",
        type=names,
        nargs="?",
        const=list(MODES),
        metavar="NAME,...",
        help="compare other modes of padding with zeros, in each model that has padding: of "
        f"{','.join(MODES)} (all if none is named; without --modes zeros alone)",
    )
    add("--seeds", type=positive, default=3, help="how many, from 0 on (%(default)s)")
    add_training(parser)
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
    parser.set_defaults(run=_compare, interrupted=_interrupted)


def _compare(args: argparse.Namespace) -> int:
    plan = _prepare(args)
    with locked(args.out):
        if not args.resume and (existing := plan.existing()):
            raise ValueError(
                f"{existing[0]} exists: add --resume to go on from it, or choose another --out"
            )
        study = _study(args, plan)
    if not args.quiet:
        print(results_table(study))
        if note := steadiness(study):
            print(note)
    print(dead_seeds(study))
    for verdict in judge(study):
        print(verdict.text)
    print(f"report: {args.out / 'report.html'}")
    return 0


def _interrupted(args: argparse.Namespace, words: Sequence[str]) -> str:
    return (
        f"interrupted; what was trained is in {args.out}. To go on: "
        f"python -m convkern {resuming(words, args.resume)}"
    )


def _prepare(args: argparse.Namespace) -> Plan:
    """Fails before the training rather than after it."""
    if dist.is_available() and dist.is_torchelastic_launched():
        raise ValueError("compare trains in one process: start it without torchrun")
    if unknown := [name for name in args.models if name not in MODELS]:
        hint = "; --modes adds modes of padding" * any(name in VARIANTS for name in unknown)
        raise ValueError(f"models must be among {','.join(MODELS)}, got {','.join(unknown)}{hint}")
    missing = [name for name in ("matplotlib", "jinja2", "scipy") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the report needs {', '.join(missing)}: pip install 'convkern[report]'")
    if args.tensorboard is not None and find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs tensorboard: pip install 'convkern[tensorboard]'")
    plan = Plan(_with_modes(args), range(args.seeds), args.epochs, args.out)
    check_writable(args.out / "report.html", args.out / "study.json")
    if args.tensorboard is not None:
        check_writable(args.tensorboard / "events")
    return plan


def _with_modes(args: argparse.Namespace) -> list[str]:
    """Returns the models, each followed by its variants with the modes of padding that were asked
    for."""
    if args.modes is None:
        return list(args.models)
    if not args.modes:
        raise ValueError(f"--modes needs names among {','.join(MODES)}, or none for all")
    if unknown := [mode for mode in args.modes if mode not in MODES]:
        why = ", and zeros is always compared with" * ("zeros" in unknown)
        raise ValueError(f"modes must be among {','.join(MODES)}{why}, got {','.join(unknown)}")
    if len(set(args.modes)) < len(args.modes):
        raise ValueError(f"each mode once, not {','.join(args.modes)}")
    padded = dict.fromkeys(parts(name)[0] for name in VARIANTS)
    if args.models and not padded.keys() & set(args.models):
        raise ValueError(
            f"--modes needs a model with padding: --models must have one of {','.join(padded)}, "
            f"got {','.join(args.models)}"
        )
    return [
        name
        for model in args.models
        for name in (model, *(f"{model}-{mode}" for mode in args.modes))
        if name == model or name in VARIANTS
    ]


def _study(args: argparse.Namespace, plan: Plan) -> Study:
    """Returns the study, after writing it to --out with its report."""
    from convkern.fashion_mnist.study.report import write_report  # its imports may be missing

    data = read_fashion_mnist(args.data)
    progress = Progress(args.quiet)
    progress.print(f"data: {data.source}")
    with ExitStack() as stack:
        stack.enter_context(progress)
        watchers: list[Watcher] = [TrainingBar(progress, plan, len(data.train))]
        if args.tensorboard is not None:
            from convkern.fashion_mnist.study.events import Events

            watchers.append(stack.enter_context(Events(args.tensorboard)))
        study, models = run_study(data, plan, watchers)
    study = replace(study, times=_times(args, plan.models, data))
    study.write(args.out / "study.json")
    progress.print("drawing the report")
    write_report(args.out, study, models, data)
    return study


def _times(
    args: argparse.Namespace, models: Sequence[str], data: FashionMNISTData
) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of the requested number of epochs. If a finished study is resumed, its
    times are kept."""
    if not args.timing_epochs:
        return {}
    progress = Progress(args.quiet)
    times = _earlier_times(args.out / "study.json", progress) if args.resume else {}
    wanted = {model: times.get(model, {}) for model in models}
    counts = {len(seconds) for by_conv in wanted.values() for seconds in by_conv.values()}
    if all(set(by_conv) == set(CONVS) for by_conv in wanted.values()) and counts == {
        args.timing_epochs
    }:
        return wanted
    progress.print("timing epochs with either layer")
    with progress:
        report = timing_bar(progress, 2 * len(models) * args.timing_epochs)
        return time_epochs(data, models, args.timing_epochs, report)


def _earlier_times(file: Path, progress: Progress) -> dict[str, dict[str, list[float]]]:
    """Returns the times of a finished study. There are none if there is no such study or if its
    file is damaged. Everything else in the file follows from the checkpoints and is written
    anew."""
    if not file.exists():
        return {}
    try:
        return Study.read(file).times
    except ValueError:
        progress.print(f"{file} is damaged: it is made anew, and epochs are timed again")
        return {}
