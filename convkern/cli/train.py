"""`train` trains a network on Fashion-MNIST, in one process or several."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import torch
import torch.distributed as dist

from convkern._files import check_writable, locked, write_file
from convkern.cli.arguments import Commands, add_training, integer, natural, positive, resuming
from convkern.fashion_mnist import (
    CONVS,
    MODELS,
    MODES,
    Checkpoint,
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
from convkern.fashion_mnist.models import variant


def add_command(commands: Commands) -> None:
    summary = "train a convolutional network on Fashion-MNIST and test it"
    parser = commands.add_parser("train", help=summary, description=summary)
    add = parser.add_argument
    add("--model", choices=MODELS, default="padding3", help="network (%(default)s)")
    add(
        "--padding-mode",
        choices=("zeros", *MODES),
        default="zeros",
        help="what padding holds (%(default)s)",
    )
    add("--conv", choices=CONVS, default="convkern", help="convolution layer (%(default)s)")
    add("--batch-size", type=positive, default=512, help="samples in a step (%(default)s)")
    add("--seed", type=integer, default=0, help="of parameters and shuffling (%(default)s)")
    add("--workers", type=natural, default=0, help="data loading processes (%(default)s)")
    add_training(parser)
    add("--out", type=Path, metavar="DIR", help="where to write model.pt and metrics.json")
    add("--checkpoint", type=Path, metavar="DIR", help="where to save the state after each epoch")
    add(
        "--resume",
        action="store_true",
        help="go on from the checkpoint, if there is one: the same result as without interruption",
    )
    parser.set_defaults(run=_train, interrupted=_interrupted)


def _train(args: argparse.Namespace) -> int:
    with torchrun_processes() as processes, ExitStack() as locks:
        name = processes.main_first(lambda: variant(args.model, args.padding_mode))
        checkpoint = _checkpoint(args)
        processes.main_first(lambda: _prepare_training(args, checkpoint, processes, locks))
        data = processes.main_first(lambda: read_fashion_mnist(args.data))
        processes.say(f"data: {data.source}")
        loaders = make_loaders(
            data, args.batch_size, args.workers, seed=args.seed, processes=processes
        )
        model, optimizer, cost = build_convnet(name, args.conv, seed=args.seed)
        training = Training(model, optimizer, loaders[0], processes)
        start = None if checkpoint is None else _resumed(checkpoint, training, args.epochs)

        def after_epoch(result: TrainResult) -> None:
            if checkpoint is not None:
                checkpoint.write(training, result)

        result = train_model(
            processes.parallel(model), optimizer, cost, loaders[0], args.epochs,
            progress=processes.is_main, start=start, after_epoch=after_epoch, processes=processes,
            warn=_warn,
        )  # fmt: skip
        loss, accuracy = test_model(model, cost, loaders[1], processes=processes)
        processes.say(f"test loss {loss:.4f}, accuracy {accuracy:.4f}")
        if args.out is not None and processes.is_main:
            weights = BytesIO()
            torch.save(model.state_dict(), weights)
            write_file(args.out / "model.pt", weights.getvalue())
            metrics = {
                "arguments": _given(args, processes),
                "data": data.source,
                **asdict(result),
                "seconds": sum(result.epoch_seconds),
                "test_loss": loss,
                "accuracy": accuracy,
            }
            text = json.dumps(metrics, indent=2, default=str)
            write_file(args.out / "metrics.json", text + "\n")
    return 0


def _prepare_training(
    args: argparse.Namespace, checkpoint: Checkpoint | None, processes: Processes, locks: ExitStack
) -> None:
    """Fails before the training rather than after it. The main process locks the folders for
    all."""
    if args.resume and args.checkpoint is None:
        raise ValueError("--resume needs --checkpoint DIR, where the checkpoint is")
    if args.batch_size < processes.count:
        raise ValueError(
            f"--batch-size must be at least {processes.count}, the number of processes, "
            f"got {args.batch_size}"
        )
    files = [] if args.out is None else [args.out / "model.pt", args.out / "metrics.json"]
    check_writable(*files, *([checkpoint.path] if checkpoint else []))
    if processes.is_main:
        folders = {folder.resolve(): folder for folder in (args.checkpoint, args.out) if folder}
        for folder in folders.values():
            locks.enter_context(locked(folder))
    if checkpoint and checkpoint.path.exists() and not args.resume:
        raise ValueError(f"{checkpoint.path} exists: add --resume to go on from it")


def _interrupted(args: argparse.Namespace, words: Sequence[str]) -> str:
    """Returns the sentence after Ctrl-C. It says what was saved and which command continues from
    it."""
    torchrun = dist.is_available() and dist.is_torchelastic_launched()
    if torchrun and os.environ.get("RANK", "0") != "0":
        return ""  # the main process says it
    checkpoint = _checkpoint(args)
    if checkpoint is None:
        return "interrupted; nothing was saved, as --checkpoint DIR would have done"
    saved = f"the last finished epoch is in {checkpoint.path}"
    if not checkpoint.path.exists():
        saved = "no epoch was finished"
    program = "torchrun ..." if torchrun else "python"
    return f"interrupted; {saved}. To go on: {program} -m convkern {resuming(words, args.resume)}"


def _checkpoint(args: argparse.Namespace) -> Checkpoint | None:
    if args.checkpoint is None:
        return None
    settings = ("conv", "batch_size", "seed")  # with other values it is another training
    model = variant(args.model, args.padding_mode)
    return Checkpoint(
        args.checkpoint, {"model": model, **{name: getattr(args, name) for name in settings}}
    )


def _resumed(checkpoint: Checkpoint, training: Training, epochs: int) -> TrainResult | None:
    """Loads the checkpoint into the training and returns the result so far. Returns None if there
    is no checkpoint yet."""
    processes = training.processes
    found = processes.sum([float(checkpoint.path.exists())])[0]
    if not found:
        return None
    if found < processes.count:
        raise ValueError(f"{checkpoint.path} must be there for all processes, not for some")
    start = processes.main_first(lambda: checkpoint.read(training))
    done = len(start.epoch_losses)
    if done > epochs:
        raise ValueError(f"{checkpoint.path} is of {done} epochs, more than --epochs {epochs}")
    processes.say(f"resumed after epoch {done}: {checkpoint.path}")
    return start


def _given(args: argparse.Namespace, processes: Processes) -> dict[str, object]:
    """Returns the arguments for metrics.json. Those of checkpoints, processes and modes of padding
    are included only if they are used."""
    arguments = {name: value for name, value in vars(args).items() if not callable(value)}
    for name in ("checkpoint", "resume"):
        if not arguments[name]:
            del arguments[name]
    if args.padding_mode == "zeros":
        del arguments["padding_mode"]
    return arguments | ({"processes": processes.count} if processes.count > 1 else {})


def _warn(text: str) -> None:
    print(f"convkern: {text}", file=sys.stderr)
