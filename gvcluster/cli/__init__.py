"""The command line. A command is a file with `add_arguments(parser)`, and imports what is costly when it is run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gvcluster._version import __version__
from gvcluster.cli import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; those of the process if None.

    Returns:
        The exit code. Bad arguments, `--help` and `--version` raise SystemExit.
    """
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gvcluster",
        description="The gevent-native client for Valkey, Redis and Garnet Cluster.",
        epilog="`gvcluster COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"gvcluster {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo.add_arguments(commands.add_parser("demo", help=demo.IN_SHORT))
    return parser
