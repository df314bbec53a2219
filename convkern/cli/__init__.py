"""The command line, `python -m convkern`: a module for each command."""

import argparse
import sys

from convkern.cli import bench, compare, explain, info, train
from convkern.fashion_mnist import DatasetError


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
    for command in (train, compare, explain, bench, info):
        command.add_command(commands)
    return parser
