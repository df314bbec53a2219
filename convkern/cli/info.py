"""`info` shows what is installed, compiled, detected and missing."""

import argparse

from convkern.cli.arguments import Commands
from convkern.info import info


def add_command(commands: Commands) -> None:
    summary = "say what is installed, compiled, detected and missing, for a bug report"
    parser = commands.add_parser("info", help=summary, description=summary)
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    for name, text in info().items():
        for heading, line in zip((name, *[""] * len(text)), text.splitlines(), strict=False):
            print(f"{heading:13}{line}")
    return 0
