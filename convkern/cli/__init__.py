"""The command line, `python -m convkern`: a module for each command."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from convkern.cli import bench, compare, explain, info, train
from convkern.cli.arguments import Parser
from convkern.fashion_mnist import DatasetError

INTERRUPTED = 130  # as shells report a program that Ctrl-C ended


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv` (default: `sys.argv[1:]`) and return its exit code.

    0 means success and 1 that training diverged; 2 means that the data, the output directory
    or the problem cannot be used, or that the arguments are wrong (then as a SystemExit); 130
    means that Ctrl-C ended it.
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
    """A second Ctrl-C does not cut the sentence off. Only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def build_parser() -> Parser:
    """Return the parser of all commands; each sets `run`, a function of the parsed arguments,
    and may set `interrupted`, the sentence after Ctrl-C, of them and the words given."""
    parser = Parser(prog="convkern", description="Fast convolution for PyTorch.")
    parser.set_defaults(interrupted=lambda args, words: "interrupted")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (train, compare, explain, bench, info):
        command.add_command(commands)
    return parser
