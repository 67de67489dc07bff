"""The command line: `gvcluster demo`. Each command's module is imported when it is called for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from gvcluster._version import __version__
from gvcluster.errors import ConfigError
from gvcluster.testing.errors import ServerMissing
from gvcluster.testing.servers import find_server

DEFAULT_SERVER = "valkey-9.1.2"

_INSTALL = "python3 -m pip install 'gvcluster[demo]'  (in a clone: python3 -m pip install '.[demo]')"

_DEMO = """\
Starts a cluster of 3 primaries and 3 replicas on this machine, lets many greenlets read and write through one
gvcluster.Cluster, kills a primary with SIGKILL in the middle, and shows what the greenlets notice of it.

Every value carries the name of the greenlet that wrote it and a sequence number, and every reply is checked against
what that greenlet knows: a reply that went to the wrong greenlet, a write that ran twice, or one that got lost without
a failover to blame would be counted as a wrong reply.
"""

_EXIT_CODES = """\
exit codes: 0 all is well; 1 a wrong reply, an error that is not an ambiguous write, or the service did not come back;
2 bad arguments; 130 Ctrl-C. Nothing is left behind: no server, no file.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; those of the process if None.

    Returns:
        The exit code. Bad arguments, `--help` and `--version` raise SystemExit.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        code: int = chosen.run(chosen, chosen.parser)
    except KeyboardInterrupt:
        print("interrupted: the servers are gone", file=sys.stderr)
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
    _add_demo(commands.add_parser(
        "demo",
        help="a cluster on this machine, 500 greenlets, and the death of a primary",
        description=_DEMO,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seconds", type=_within(float, 5, 3600), default=20.0, metavar="S",
        help="how long the greenlets work, 5 to 3600 (default 20); a primary is killed after a third of it")
    add("--greenlets", type=_within(int, 3, 10_000), default=500, metavar="N",
        help="how many greenlets, 3 to 10000 (default 500)")
    add("--seed", type=int, default=None, metavar="N",
        help="makes the choice of the victim and of the commands the same again (default: another one each time)")
    add("--server", default=DEFAULT_SERVER, metavar="NAME",
        help=f"which server LocalCluster starts (default {DEFAULT_SERVER})")
    add("--plain", action="store_true",
        help="plain lines, one a second, as when the output is not a terminal")
    parser.set_defaults(run=_run_demo, parser=parser)


def _run_demo(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        missing = _missing(chosen.server)
    except ConfigError as error:
        parser.error(str(error))
    if missing is not None:
        print(f"gvcluster demo: {missing}", file=sys.stderr)
        return 1
    from gvcluster.cli.demo import Plan, run

    return run(Plan.of(chosen.server, chosen.seconds, chosen.greenlets, chosen.seed), plain=chosen.plain)


def _missing(server: str) -> str | None:
    """What is not installed, and the command that installs it."""
    if find_spec("rich") is None:
        return f"rich is not installed here. Install it with: {_INSTALL}"
    try:
        find_server(server)
    except ServerMissing as error:
        if DEFAULT_SERVER.startswith(server):
            return f"{DEFAULT_SERVER} is not installed here. Install it with: {_INSTALL}"
        return str(error)
    return None


def _within(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """A number from least to most, for argparse."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    return number
