"""`bench` times problems and models against their peers, and reports the results."""

import argparse
import contextlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from convkern._files import check_writable
from convkern._show.progress import Progress
from convkern.bench import (
    INFERENCE_MODELS,
    INFERENCE_PEERS,
    LAYOUT_NAMES,
    PASSES,
    PEERS,
    TRAINING_PEERS,
    VISION_MODELS,
    InferenceTimes,
    ModelTimes,
    Suite,
    check_inference,
    check_report,
    check_training,
    compare,
    inference_table,
    measure_peaks,
    models_table,
    read_results,
    read_shapes,
    run_suite,
    table,
    time_inference,
    time_models,
    time_training,
    training_table,
    with_batch,
    write_report,
)
from convkern.cli.arguments import Commands, counts, names, positive
from convkern.memory import keep_memory
from convkern.problem import DTYPES
from convkern.testing import variant

_EXIT = "exit with 1 if a row became slower"


def add_command(commands: Commands) -> None:
    summary = "time convkern and its peers side by side"
    description = f"{summary}; the options of `bench` alone are those of `bench problems`"
    parser = commands.add_parser("bench", help=summary, description=description)
    parser.default_command = "problems"
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    kinds_of = (
        _add_problems,
        _add_models,
        _add_inference,
        _add_training,
        _add_compare,
        _add_report,
    )
    for add in kinds_of:
        add(kinds)


def _add_problems(kinds: Commands) -> None:
    summary = "time problems; `bench` alone means this"
    parser = kinds.add_parser("problems", help=summary, description=summary)
    add = parser.add_argument
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
        choices=tuple(LAYOUT_NAMES),
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
    add("--tf32", action="store_true", help="on cuda, allow TF32 for float32")
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
    _add_measuring(parser)
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="write DIR/index.html, a page with charts, and the charts as PNG files; also measures "
        "the peaks of the CPU for the roofline",
    )
    add("--against", type=Path, metavar="OLD", help=f"compare with an older result; {_EXIT}")
    parser.set_defaults(run=_problems)


def _add_models(kinds: Commands) -> None:
    summary = "time models of torchvision with their own layers and with convkern's"
    description = f"{summary}; the process keeps freed memory (keep_memory), where it can"
    parser = kinds.add_parser("models", help=summary, description=description)
    _add_names(parser, VISION_MODELS)
    parser.add_argument("--layout", choices=tuple(LAYOUT_NAMES), help="of the models (both)")
    _add_measuring(parser)
    parser.add_argument("--report", type=Path, metavar="DIR", help="write DIR/index.html")
    parser.set_defaults(run=_models)


def _add_inference(kinds: Commands) -> None:
    summary = "time models by convkern.optimize and by other libraries for inference"
    description = f"{summary}; the process keeps freed memory (keep_memory), where it can"
    parser = kinds.add_parser("inference", help=summary, description=description)
    _add_names(parser, INFERENCE_MODELS)
    _add_peers(parser, INFERENCE_PEERS)
    parser.add_argument(
        "--batches", type=counts, default=[1, 8], metavar="N,...", help="batch sizes (1,8)"
    )
    _add_measuring(parser)
    parser.set_defaults(run=_inference)


def _add_training(kinds: Commands) -> None:
    summary = "time training steps of torchvision's models by convkern and by torch"
    description = (
        f"{summary}, in channels_last: convkern.fuse_training, also with recompute, and only the "
        "layers replaced; the process keeps freed memory (keep_memory), where it can"
    )
    parser = kinds.add_parser("training", help=summary, description=description)
    _add_names(parser, VISION_MODELS)
    _add_peers(parser, TRAINING_PEERS)
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="images (8)")
    parser.add_argument("--size", type=positive, default=224, metavar="N", help="their size (224)")
    _add_measuring(parser)
    parser.set_defaults(run=_training)


def _add_compare(kinds: Commands) -> None:
    summary = f"compare two results of problems that --out wrote; {_EXIT}"
    parser = kinds.add_parser("compare", help=summary, description=summary)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.set_defaults(run=_compare)


def _add_report(kinds: Commands) -> None:
    summary = "make a page with charts of results that --out wrote"
    parser = kinds.add_parser("report", help=summary, description=summary)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write index.html")
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT", help="of problems, models or inference"
    )
    parser.add_argument(
        "--against", type=Path, metavar="OLD", help=f"compare with an older result, too; {_EXIT}"
    )
    parser.set_defaults(run=_report)


def _add_names(parser: argparse.ArgumentParser, published: Iterable[str]) -> None:
    parser.add_argument(
        "models",
        type=names,
        metavar="NAME,...",
        help="in the published table: " + ",".join(published),
    )


def _add_peers(parser: argparse.ArgumentParser, peers: Iterable[str]) -> None:
    parser.add_argument(
        "--peers",
        type=names,
        default=["torch"],
        metavar="PEER,...",
        help=f"of {', '.join(peers)} (torch)",
    )
    parser.add_argument("--medium", action="store_true", help="time float32 precision `medium` too")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row (%(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write the result as JSON"
    )


def _problems(args: argparse.Namespace) -> int:
    _check_outputs(args)
    against = None if args.against is None else Suite.read(args.against)
    suite = _measure_problems(args)
    print(table(suite.rows))
    if args.report is not None and args.device == "cpu":
        try:
            threads = dict.fromkeys(row.threads for row in suite.rows if row.threads is not None)
            suite.peaks.extend(measure_peaks(threads))
        except MemoryError as error:  # the report does without the roofline
            print(f"no roofline: {error}")
    if args.out is not None:
        suite.write(args.out)
    return _finish(args.report, [suite], old=against)


def _models(args: argparse.Namespace) -> int:
    _check_outputs(args)
    layouts = [args.layout] if args.layout else list(LAYOUT_NAMES)
    _keep_memory()
    with Progress() as progress:
        bar = progress.bar("measuring", len(args.models), "models")
        times = time_models(args.models, layouts, args.seconds, report=lambda name: bar.advance())
    print(models_table(times.rows))
    if args.out is not None:
        times.write(args.out)
    return _finish(args.report, models=[times])


def _keep_memory() -> None:
    """Keeps freed memory for all sides, so that none waits for new pages."""
    with contextlib.suppress(RuntimeError):  # another C library than glibc
        keep_memory()


def _inference(args: argparse.Namespace) -> int:
    check_inference(args.models, args.batches, args.peers)
    if args.out is not None:
        check_writable(args.out)
    _keep_memory()
    with Progress() as progress:
        bar = progress.bar("measuring", len(args.models), "models")
        times = time_inference(
            args.models, args.batches, args.peers, args.seconds,
            medium=args.medium, report=lambda name: bar.advance(),
        )  # fmt: skip
    print(inference_table(times.rows))
    if args.out is not None:
        times.write(args.out)
    return 0


def _training(args: argparse.Namespace) -> int:
    check_training(args.models, args.peers)
    if args.out is not None:
        check_writable(args.out)
    _keep_memory()
    with Progress() as progress:
        bar = progress.bar("measuring", len(args.models), "models")
        times = time_training(
            args.models, args.peers, args.seconds, args.batch, args.size,
            medium=args.medium, report=lambda name: bar.advance(),
        )  # fmt: skip
    print(training_table(times.rows))
    if args.out is not None:
        times.write(args.out)
    return 0


def _compare(args: argparse.Namespace) -> int:
    old, new = Suite.read(args.old), Suite.read(args.new)
    return _finish(None, [new], old=old)


def _report(args: argparse.Namespace) -> int:
    check_report(args.folder)
    against = None if args.against is None else Suite.read(args.against)
    return _finish(args.folder, *read_results(args.results), old=against)


def _check_outputs(args: argparse.Namespace) -> None:
    """Fails before the measurements rather than after them."""
    if args.out is not None:
        check_writable(args.out)
    if args.report is not None:
        check_report(args.report)


def _finish(
    folder: Path | None,
    suites: Sequence[Suite] = (),
    models: Sequence[ModelTimes] = (),
    inference: Sequence[InferenceTimes] = (),
    old: Suite | None = None,
) -> int:
    """Compares with an older result, writes the report, and returns the exit code."""
    slower = 0
    if old is not None:
        new = Suite({}, "", [row for suite in suites for row in suite.rows])
        changes, slower = compare(old, new)
        print(changes)
    if folder is not None:
        print(f"report: {write_report(folder, suites, models, old, inference)}")
    return int(slower > 0)


def _measure_problems(args: argparse.Namespace) -> Suite:
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
    with Progress() as progress:
        rows = len(problems) * len(args.passes) * max(1, len(threads))
        bar = progress.bar("measuring", rows, "rows")
        return run_suite(
            problems, args.passes, args.peers, threads, args.seconds,
            report=lambda row: bar.advance(), device=args.device, tf32=args.tf32,
        )  # fmt: skip
