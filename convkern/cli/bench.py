"""`bench`: convkern and its peers timed side by side."""

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from convkern.bench import (
    PASSES,
    PEERS,
    VISION_MODELS,
    ModelTimes,
    Suite,
    check_report,
    compare,
    measure_peaks,
    models_table,
    read_results,
    read_shapes,
    run_suite,
    table,
    time_models,
    time_training,
    with_batch,
    write_report,
)
from convkern.cli.arguments import Commands, counts, names
from convkern.fashion_mnist import read_fashion_mnist
from convkern.problem import DTYPES
from convkern.tables import wide_console
from convkern.testing import variant


def add_command(commands: Commands) -> None:
    summary = "time convkern and its peers side by side"
    parser = commands.add_parser("bench", help=summary, description=summary)
    add, instead = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add(
        "--shapes",
        type=names,
        default=["fmnist"],
        metavar="NAME,...",
        help="problem strings, files of them, or names in benchmarks/shapes (fmnist)",
    )
    add(
        "--passes",
        type=names,
        default=list(PASSES),
        metavar="PASS,...",
        help=f"of {', '.join(PASSES)} (all)",
    )
    add(
        "--peers",
        type=names,
        default=["torch", "torch_channels_last"],
        metavar="PEER,...",
        help=f"of {', '.join(PEERS)} (torch,torch_channels_last)",
    )
    add(
        "--layout",
        choices=("nchw", "nhwc"),
        help="of all problems (as they say); to compare with torch in the same layout only, give "
        "its peer alone",
    )
    add("--dtype", choices=tuple(DTYPES), help="of all problems (as they say)")
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: the current GPU, against cuDNN through torch, by events (%(default)s)",
    )
    add(
        "--tf32",
        action="store_true",
        help="on cuda, allow TF32 for float32",
    )
    add(
        "--threads",
        type=counts,
        metavar="N,...",
        help="numbers of threads of the CPU (1 and torch's)",
    )
    add(
        "--batches",
        type=counts,
        metavar="N,...",
        help="every problem with each of these batch sizes (its own)",
    )
    add("--seconds", type=float, default=1.0, help="for each row (%(default)s)")
    add("--out", type=Path, metavar="FILE", help="where to write the result as JSON")
    instead(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing: compare two results; exit with 1 if a row became slower",
    )
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="write DIR/index.html, a page with charts, and the charts as PNG files; also measures "
        "the peaks of the CPU for the roofline",
    )
    instead(
        "--from",
        dest="results",
        type=names,
        metavar="FILE,...",
        help="measure nothing: make the --report of results that --out wrote",
    )
    add(
        "--against",
        type=Path,
        metavar="OLD",
        help="compare with an older result, in the report too; exit with 1 if a row became slower",
    )
    instead(
        "--models",
        type=names,
        metavar="NAME,...",
        help="measure models of torchvision instead, in --layout or both; of the published table: "
        + ",".join(VISION_MODELS),
    )
    instead(
        "--train",
        action="store_true",
        help="measure epochs of the Fashion-MNIST model instead",
    )
    parser.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    console = wide_console()
    _check(args)
    if args.report is not None:
        check_report(args.report)
    against = None if args.against is None else Suite.read(args.against)
    suites: list[Suite] = []
    models: list[ModelTimes] = []
    if args.compare:
        against, new = (Suite.read(path) for path in args.compare)
        suites = [new]
    elif args.results:
        suites, models = read_results([Path(name) for name in args.results])
    elif args.models:
        models = [_bench_models(args, console)]
    elif args.train:
        console.print(time_training(read_fashion_mnist(), report=console.print))
    else:
        suites = [_bench_suite(args, console)]
    slower = 0
    if against is not None:
        rows = [row for suite in suites for row in suite.rows]
        changes, slower = compare(against, Suite({}, "", rows))
        console.print(changes)
    if args.report is not None:
        page = write_report(args.report, suites, models, against)
        console.print(f"report: {page}")
    return int(slower > 0)


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError where options do not go together."""
    if (args.models or args.train) and (args.device != "cpu" or args.tf32):
        raise ValueError("models and training are measured on the CPU: not on device cuda")
    if args.train and args.report is not None:
        raise ValueError("--report is of layers and models, not of --train")
    if args.results and args.report is None and args.against is None:
        raise ValueError("--from is for --report or --against")
    if args.against is not None and (args.models or args.train or args.compare):
        raise ValueError(
            "--against is for the suite's results, not for --models, --train, --compare"
        )


def _bench_models(args: argparse.Namespace, console: Console) -> ModelTimes:
    layouts = [args.layout] if args.layout else ["nchw", "nhwc"]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=len(args.models))
        times = time_models(
            args.models, layouts, args.seconds, report=lambda name: bar.advance(task)
        )
    console.print(models_table(times.rows))
    if args.out is not None:
        times.write(args.out)
    return times


def _bench_suite(args: argparse.Namespace, console: Console) -> Suite:
    for given, known, what in ((args.passes, PASSES, "passes"), (args.peers, PEERS, "peers")):
        if not set(given) <= set(known):
            raise ValueError(f"{what} must be among {', '.join(known)}, got {','.join(given)}")
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if args.device == "cpu" and "onnxruntime" in args.peers and missing:
        raise ValueError(
            f"peer onnxruntime needs {' and '.join(missing)}: pip install 'convkern[bench]'"
        )
    problems = [
        variant(problem, layout=args.layout, dtype=args.dtype)
        for name in args.shapes
        for own in read_shapes(name)
        for problem in ([with_batch(own, n) for n in args.batches] if args.batches else [own])
    ]
    default_threads = (1, torch.get_num_threads()) if args.device == "cpu" else ()
    threads = list(dict.fromkeys(args.threads or default_threads))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        rows = len(problems) * len(args.passes) * max(1, len(threads))
        task = bar.add_task("measuring", total=rows)
        suite = run_suite(
            problems, args.passes, args.peers, threads, args.seconds,
            report=lambda row: bar.advance(task), device=args.device, tf32=args.tf32,
        )  # fmt: skip
    console.print(table(suite.rows))
    if args.report is not None and threads:
        try:
            suite.peaks.extend(measure_peaks(threads))
        except ValueError as error:  # the rest of the report does without
            console.print(f"no roofline: {error}")
    if args.out is not None:
        suite.write(args.out)
    return suite
