"""The command line. A command is a file with `add_arguments(parser)`, and imports what is costly when it is run.

Those of `inspect` are click's: docs/decisions/0011-two-parsers-one-name.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gvcluster._version import __version__
from gvcluster.cli import bench, demo, inspect, soak

# As a shell has it of a program that SIGPIPE has ended, and EX_IOERR: no command ends so by itself.
_NOBODY_READS, _NOT_WRITTEN = 141, 74


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; those of the process if None.

    Returns:
        The exit code. Bad arguments, `--help` and `--version` raise SystemExit.
    """
    _open_what_is_closed()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _write_no_more()
        return _NOBODY_READS
    except OSError as error:
        _write_no_more()
        print(f"gvcluster: {error}", file=sys.stderr)
        return _NOT_WRITTEN


def _run(given: Sequence[str]) -> int:
    if given and given[0] in inspect.IN_SHORT:
        return inspect.run(given[0], given[1:])
    chosen = _parser().parse_args(given)
    code: int = chosen.run(chosen)
    return code


def _open_what_is_closed() -> None:
    """Have all three standard streams: who closes one (`>&-`) leaves None in its place, and its number to a socket."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _write_no_more() -> None:
    """Where the output goes nowhere, let the interpreter find nothing to complain of when it writes out the rest."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gvcluster",
        description="The gevent-native client for Valkey, Redis and Garnet Cluster.",
        epilog="`gvcluster COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"gvcluster {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo.add_arguments(commands.add_parser("demo", help=demo.IN_SHORT))
    bench.add_arguments(commands.add_parser("bench", help=bench.IN_SHORT))
    soak.add_arguments(commands.add_parser("soak", help=soak.IN_SHORT))
    for name, in_short in inspect.IN_SHORT.items():  # click reads their arguments: here they are only listed
        commands.add_parser(name, help=in_short)
    return parser
