"""The command line, `python -m convkern`: one function per command, found in `build_parser`."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from convkern.bench import (
    PASSES,
    PEERS,
    VISION_MODELS,
    Suite,
    compare,
    models_table,
    read_shapes,
    run_suite,
    time_models,
    time_training,
)
from convkern.bench import table as bench_table
from convkern.bench.tables import wide_console
from convkern.explain import explain
from convkern.fashion_mnist import (
    CONVS,
    MODELS,
    Checkpoint,
    DatasetError,
    Processes,
    Training,
    TrainResult,
    build_convnet,
    make_loaders,
    read_fashion_mnist,
    test_model,
    torchrun_processes,
    train_model,
)
from convkern.info import info
from convkern.problem import DTYPES
from convkern.testing import variant


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv` (default: `sys.argv[1:]`) and return its exit code.

    0 means success and 1 that training diverged; 2 means that the data, the output directory
    or the problem cannot be used, or that the arguments are wrong (then as a SystemExit).
    """
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (DatasetError, OSError, FloatingPointError, ValueError) as error:
        print(f"convkern: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(prog="convkern", description="Fast convolution for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_explain(commands)
    _add_bench(commands)
    _add_info(commands)
    return parser


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "train a convolutional network on Fashion-MNIST and test it"
    parser = commands.add_parser("train", help=summary, description=summary)
    add = parser.add_argument
    add("--model", choices=MODELS, default="padding3", help="network (%(default)s)")
    add("--conv", choices=CONVS, default="convkern", help="convolution layer (%(default)s)")
    add("--epochs", type=_positive, default=5, help="passes over the data (%(default)s)")
    add("--batch-size", type=_positive, default=512, help="samples in a step (%(default)s)")
    add("--seed", type=int, default=0, help="of parameters and shuffling (%(default)s)")
    add("--workers", type=_natural, default=0, help="data loading processes (%(default)s)")
    add("--data", type=Path, metavar="DIR", help="where the data is (searched for if not given)")
    add("--out", type=Path, metavar="DIR", help="where to write model.pt and metrics.json")
    add("--checkpoint", type=Path, metavar="DIR", help="where to save the state after each epoch")
    add(
        "--resume",
        action="store_true",
        help="go on from the checkpoint, if there is one: the same result as without interruption",
    )
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    with torchrun_processes() as processes:
        processes.main_first(lambda: _prepare_training(args, processes))
        data = processes.main_first(lambda: read_fashion_mnist(args.data))
        say = print if processes.is_main else _say_nothing
        say(f"data: {data.source}")
        loaders = make_loaders(
            data, args.batch_size, args.workers, seed=args.seed, processes=processes
        )
        model, optimizer, cost = build_convnet(args.model, args.conv, seed=args.seed)
        training = Training(model, optimizer, loaders[0], processes)
        start, after_epoch = _checkpointing(args, training, say)
        result = train_model(
            processes.parallel(model), optimizer, cost, loaders[0], args.epochs,
            progress=processes.is_main, start=start, after_epoch=after_epoch, processes=processes,
        )  # fmt: skip
        loss, accuracy = test_model(model, cost, loaders[1], processes=processes)
        say(f"test loss {loss:.4f}, accuracy {accuracy:.4f}")
        if args.out is not None and processes.is_main:
            torch.save(model.state_dict(), args.out / "model.pt")
            metrics = {
                "arguments": _given(args, processes),
                "data": data.source,
                **asdict(result),
                "seconds": sum(result.epoch_seconds),
                "test_loss": loss,
                "accuracy": accuracy,
            }
            text = json.dumps(metrics, indent=2, default=str)
            (args.out / "metrics.json").write_text(text + "\n")
    return 0


def _prepare_training(args: argparse.Namespace, processes: Processes) -> None:
    """Fail now rather than after the training."""
    if args.resume and args.checkpoint is None:
        raise ValueError("--resume needs --checkpoint DIR, where the checkpoint is")
    if args.batch_size < processes.count:
        raise ValueError(
            f"--batch-size must be at least {processes.count}, the number of processes, "
            f"got {args.batch_size}"
        )
    for folder in (args.out, args.checkpoint):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint(args)
    if checkpoint and checkpoint.path.exists() and not args.resume:
        raise ValueError(f"{checkpoint.path} exists: add --resume to go on from it")


def _checkpoint(args: argparse.Namespace) -> Checkpoint | None:
    if args.checkpoint is None:
        return None
    settings = ("model", "conv", "batch_size", "seed")  # without which it is another training
    return Checkpoint(args.checkpoint, {name: getattr(args, name) for name in settings})


def _checkpointing(
    args: argparse.Namespace, training: Training, say: Callable[[str], None]
) -> tuple[TrainResult | None, Callable[[TrainResult], None]]:
    """Where training starts, and what it does after each epoch."""
    checkpoint = _checkpoint(args)
    if checkpoint is None:
        return None, lambda result: None
    start, processes = None, training.processes
    if found := processes.sum([float(checkpoint.path.exists())])[0]:
        if found < processes.count:
            raise ValueError(f"{checkpoint.path} must be there for all processes, not for some")
        start = processes.main_first(lambda: checkpoint.read(training))
        say(f"resumed after epoch {len(start.epoch_losses)}: {checkpoint.path}")
    return start, lambda result: checkpoint.write(training, result)


def _given(args: argparse.Namespace, processes: Processes) -> dict[str, object]:
    """The arguments for metrics.json; of checkpoints and processes only where they are used."""
    arguments = {name: value for name, value in vars(args).items() if name != "run"}
    for name in ("checkpoint", "resume"):
        if not arguments[name]:
            del arguments[name]
    return arguments | ({"processes": processes.count} if processes.count > 1 else {})


def _say_nothing(text: str) -> None:
    pass


def _add_explain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "time convkern and its peers side by side"
    parser = commands.add_parser("bench", help=summary, description=summary)
    add = parser.add_argument
    add(
        "--shapes",
        type=_names,
        default=["fmnist"],
        metavar="NAME,...",
        help="problem strings, files of them, or names in benchmarks/shapes (fmnist)",
    )
    add(
        "--passes",
        type=_names,
        default=list(PASSES),
        metavar="PASS,...",
        help=f"of {', '.join(PASSES)} (all)",
    )
    add(
        "--peers",
        type=_names,
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
        type=_counts,
        metavar="N,...",
        help="numbers of threads of the CPU (1 and torch's)",
    )
    add("--seconds", type=float, default=1.0, help="for each row (%(default)s)")
    add("--out", type=Path, metavar="FILE", help="where to write the result as JSON")
    add(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing: compare two results; exit with 1 if a row became slower",
    )
    add(
        "--models",
        type=_names,
        metavar="NAME,...",
        help="measure models of torchvision instead, in --layout or both; of the published table: "
        + ",".join(VISION_MODELS),
    )
    add("--train", action="store_true", help="measure epochs of the Fashion-MNIST model instead")
    parser.set_defaults(run=_bench)  # fmt: skip


def _bench(args: argparse.Namespace) -> int:
    console = wide_console()
    if args.compare:
        old, new = (Suite.read(path) for path in args.compare)
        table, slower = compare(old, new)
        console.print(table)
        return int(slower > 0)
    if args.models or args.train:
        if args.device != "cpu" or args.tf32:
            raise ValueError("models and training are measured on the CPU: not on device cuda")
        if args.models:
            _bench_models(args, console)
        else:
            console.print(time_training(read_fashion_mnist(), report=console.print))
    else:
        _bench_suite(args, console)
    return 0


def _bench_models(args: argparse.Namespace, console: Console) -> None:
    layouts = [args.layout] if args.layout else ["nchw", "nhwc"]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=len(args.models))
        times = time_models(
            args.models, layouts, args.seconds, report=lambda name: bar.advance(task)
        )
    console.print(models_table(times.rows))
    if args.out is not None:
        times.write(args.out)


def _bench_suite(args: argparse.Namespace, console: Console) -> None:
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
        for problem in read_shapes(name)
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
    console.print(bench_table(suite.rows))
    if args.out is not None:
        suite.write(args.out)


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "say what is installed, compiled and detected"
    parser = commands.add_parser("info", help=summary, description=summary)
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    for name, text in info().items():
        print(f"{name:13}{text}")
    return 0


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _counts(text: str) -> list[int]:
    return [_positive(count) for count in _names(text)]


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return number
