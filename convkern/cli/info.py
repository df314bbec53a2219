"""`info`: what is installed, compiled and detected."""

import argparse

from convkern.cli.arguments import Commands
from convkern.info import info


def add_command(commands: Commands) -> None:
    summary = "say what is installed, compiled and detected"
    parser = commands.add_parser("info", help=summary, description=summary)
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    for name, text in info().items():
        print(f"{name:13}{text}")
    return 0
