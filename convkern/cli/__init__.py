"""The command line, `python -m convkern`. Each command has its own module."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from convkern.cli import bench, compare, explain, info, train
from convkern.cli.arguments import Parser
from convkern.fashion_mnist import DatasetError

INTERRUPTED = 130  # the exit code by which shells report Ctrl-C


def main(argv: list[str] | None = None) -> int:
    """Runs the command in `argv` (default: `sys.argv[1:]`) and returns its exit code.

    0 means success, and 1 that training diverged. 2 means that the data, the output directory or
    the problem cannot be used, or that the arguments are wrong (then as a SystemExit). 130 means
    that Ctrl-C ended the command.
    """
    words = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(words)
    try:
        return int(args.run(args))
    except (DatasetError, OSError, FloatingPointError, ValueError) as error:
        print(f"convkern: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt:
        with _without_interrupts():
            if sentence := args.interrupted(args, words):
                print(f"convkern: {sentence}", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keeps a second Ctrl-C from cutting off the sentence. Only the main thread can do this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def build_parser() -> Parser:
    """Returns the parser of all commands. Each command sets `run`, a function of the parsed
    arguments. It may also set `interrupted`, which returns the sentence after Ctrl-C from them and
    the given words."""
    parser = Parser(prog="convkern", description="Fast convolution for PyTorch.")
    parser.set_defaults(interrupted=lambda args, words: "interrupted")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (train, compare, explain, bench, info):
        command.add_command(commands)
    return parser
