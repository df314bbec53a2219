"""The parser that the commands share, and the types of their arguments."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias


class Parser(argparse.ArgumentParser):
    """A parser that may have commands. `default_command` is run if none is named."""

    default_command: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        first = words[0] if words else "--"
        if self.default_command and first.startswith("-") and first not in ("-h", "--help"):
            words.insert(0, self.default_command)
        return super().parse_known_args(words, namespace)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that every training takes."""
    add = parser.add_argument
    add("--epochs", type=positive, default=5, help="passes over the data (%(default)s)")
    add("--data", type=Path, metavar="DIR", help="where the data is (searched for if not given)")


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def counts(text: str) -> list[int]:
    return [positive(count) for count in names(text)]


def integer(text: str) -> int:
    return _at_least(-(2**63), text)


def positive(text: str) -> int:
    return _at_least(1, text)


def natural(text: str) -> int:
    return _at_least(0, text)


def resuming(words: Sequence[str], said: bool) -> str:
    """Returns the words of a command line with --resume, which is `said` if it is already there."""
    return shlex.join([*words, *["--resume"] * (not said)])


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1  # not a number at all
    if number >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} does not fit 64 bits")
    if number < least:
        bound = f" of at least {least}" if least >= 0 else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number{bound}")
    return number
