"""`train`: a network on Fashion-MNIST, in one process or several."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from convkern.cli.arguments import Commands, natural, positive
from convkern.fashion_mnist import (
    CONVS,
    MODELS,
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


def add_command(commands: Commands) -> None:
    summary = "train a convolutional network on Fashion-MNIST and test it"
    parser = commands.add_parser("train", help=summary, description=summary)
    add = parser.add_argument
    add("--model", choices=MODELS, default="padding3", help="network (%(default)s)")
    add("--conv", choices=CONVS, default="convkern", help="convolution layer (%(default)s)")
    add("--epochs", type=positive, default=5, help="passes over the data (%(default)s)")
    add("--batch-size", type=positive, default=512, help="samples in a step (%(default)s)")
    add("--seed", type=int, default=0, help="of parameters and shuffling (%(default)s)")
    add("--workers", type=natural, default=0, help="data loading processes (%(default)s)")
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
