"""`gvcluster demo`: its arguments, and what must be installed for it. The show itself is in `director.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from gvcluster.errors import ConfigError
from gvcluster.testing.errors import LocalClusterError, ServerMissing
from gvcluster.testing.servers import find_server

IN_SHORT = "watch 500 greenlets while a primary is killed"

_DEFAULT_SERVER = "valkey-9.1.2"
_INSTALL = "python3 -m pip install 'gvcluster[demo]' (from a clone: python3 -m pip install '.[demo]')"

_DESCRIPTION = """\
Starts a cluster of 3 primaries and 3 replicas on this machine, lets many
greenlets read and write through one gvcluster.Cluster, kills a primary with
SIGKILL on the way, and shows what the greenlets notice of it.

Every value names the greenlet that wrote it, the key and the number of the
write, and every reply is compared with what the greenlet knows. A reply that
went to the wrong greenlet, a write that ran twice, or one that is gone without
a failover to blame counts as a wrong reply.
"""

_EXIT_CODES = """\
exit codes:
  0    all is well
  1    a wrong reply; or an error other than that of a write that may have run;
       or the service did not come back; or something is not installed
  2    the arguments make no sense
  130  Ctrl-C
Whatever happens, no server and no file is left behind.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command is about."""
    parser.description, parser.epilog = _DESCRIPTION, _EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    seconds, greenlets = _between(float, 5, 3600), _between(int, 3, 10_000)
    add("--seconds", type=seconds, default=20.0, metavar="S", help="of work, 5 to 3600 (default 20)")
    add("--greenlets", type=greenlets, default=500, metavar="N", help="3 to 10000 (default 500)")
    add("--seed", type=int, metavar="N", help="to have the same victim and the same commands again")
    add("--server", default=_DEFAULT_SERVER, metavar="NAME", help=f"what to start (default {_DEFAULT_SERVER})")
    add("--plain", action="store_true", help="plain lines, one a second, as when the output is no terminal")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    try:
        server = find_server(chosen.server)
    except ConfigError as error:
        parser.error(str(error))
    except ServerMissing as error:
        return _refuse(_missing(_DEFAULT_SERVER) if _DEFAULT_SERVER.startswith(chosen.server) else str(error))
    if find_spec("rich") is None:
        return _refuse(_missing("rich"))

    from gvcluster.cli.director import Plan, run

    plan = Plan.of(server.name, chosen.seconds, chosen.greenlets, chosen.seed)
    try:
        return run(plan, plain=chosen.plain)
    except LocalClusterError as error:
        return _refuse(str(error))


def _missing(what: str) -> str:
    return f"{what} is not installed here. Install it with: {_INSTALL}"


def _refuse(reason: str) -> int:
    print(f"gvcluster demo: {reason}", file=sys.stderr)
    return 1


def _between(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """Read a number from least to most, for argparse."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number
