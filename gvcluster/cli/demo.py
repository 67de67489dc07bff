"""`gvcluster demo`: its arguments, and what must be installed for it.

The show itself is in `director.py`, that on a cluster of the user's own in `guest.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from importlib.util import find_spec

from gvcluster.cli.arguments import between
from gvcluster.errors import ConfigError, GvClusterError, TopologyUnavailable
from gvcluster.options import ClusterOptions
from gvcluster.seeds import parse_seeds, parse_url
from gvcluster.testing.errors import LocalClusterError, ServerMissing
from gvcluster.testing.servers import find_server

IN_SHORT = "watch 500 greenlets while a primary is killed and slots are moved"

_DEFAULT_SERVER = "valkey-9.1.2"
_INSTALL = "python3 -m pip install 'gvcluster[demo]' (from a clone: python3 -m pip install '.[demo]')"
_USERNAME, _PASSWORD = "GVCLUSTER_USERNAME", "GVCLUSTER_PASSWORD"

_DESCRIPTION = """\
Starts a cluster of 3 primaries and 3 replicas on this machine, lets many
greenlets read and write through one gvcluster.Cluster, and shows what they
notice when a primary is killed with SIGKILL, when another one hands over to
its replica, and when slots are moved to another shard and back, key by key and
(on Valkey 9) atomically. What is planned must not cost a single error.

Every value names the greenlet that wrote it, the key and the number of the
write, and every reply is compared with what the greenlet knows. A reply that
went to the wrong greenlet, a write that ran twice, or one that is gone without
a failover to blame counts as a wrong reply.

With --nodes it reads and writes on a cluster of yours, and does no more: keys
of its own with a random prefix, each with an expiry, all deleted at the end.
Nothing is killed, moved or configured.
"""

_EXIT_CODES = """\
environment, for --nodes:
  GVCLUSTER_USERNAME, GVCLUSTER_PASSWORD
       who you are; on the command line everybody would see it

exit codes:
  0    all is well
  1    a wrong reply; or an error other than that of a write that may have run;
       any error in what is planned, or on your cluster; or the service did not
       come back; or no connection; or something is not installed
  2    the arguments make no sense
  130  Ctrl-C
Whatever happens, no server, no file and no key is left behind.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command is about."""
    parser.description, parser.epilog = _DESCRIPTION, _EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    seconds, greenlets = between(float, 5, 3600), between(int, 3, 10_000)
    add("--nodes", type=_target, metavar="H:P,…", help="your cluster: some of its nodes, or a URL (valkeys:// is TLS)")
    add("--seconds", type=seconds, default=20.0, metavar="S", help="of work, at least; 5 to 3600 (default 20)")
    add("--greenlets", type=greenlets, default=500, metavar="N", help="3 to 10000 (default 500)")
    add("--seed", type=int, metavar="N", help="to have the same victim and the same commands again")
    add("--server", metavar="NAME", help=f"what to start (default {_DEFAULT_SERVER})")
    add("--plain", action="store_true", help="plain lines, one a second, as when the output is no terminal")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    if chosen.nodes is not None and chosen.server is not None:
        parser.error("--nodes is your own cluster, --server one that is started here: choose")
    try:
        return _play(chosen) if chosen.nodes is None else _visit(chosen)
    except ConfigError as error:
        parser.error(str(error))


def _play(chosen: argparse.Namespace) -> int:
    wanted = chosen.server or _DEFAULT_SERVER
    try:
        server = find_server(wanted)
    except ServerMissing as error:
        return _refuse(_missing(_DEFAULT_SERVER) if _DEFAULT_SERVER.startswith(wanted) else str(error))
    if find_spec("rich") is None:
        return _refuse(_missing("rich"))

    from gvcluster.cli.director import run
    from gvcluster.cli.load import Plan

    try:
        return run(Plan.of(server.name, chosen.seconds, chosen.greenlets, chosen.seed), plain=chosen.plain)
    except LocalClusterError as error:
        return _refuse(str(error))


def _visit(chosen: argparse.Namespace) -> int:
    if find_spec("rich") is None:
        return _refuse(_missing("rich"))

    from gvcluster.cli.guest import Target, run
    from gvcluster.cli.load import Plan

    seeds, options = chosen.nodes
    target = Target(seeds, {**options, **_credentials()})
    try:
        return run(Plan.of("", chosen.seconds, chosen.greenlets, chosen.seed), target, plain=chosen.plain)
    except ConfigError:
        raise
    except GvClusterError as error:
        return _refuse(_why_not(error))


def _target(text: str) -> tuple[str, ClusterOptions]:
    """Read seeds or a URL, for argparse."""
    if "@" in text:
        raise argparse.ArgumentTypeError(f"`ps` shows it to everybody: put the password into {_PASSWORD}")
    try:
        seeds, options = parse_url(text) if "://" in text else (text, ClusterOptions())
        parse_seeds(seeds)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return seeds, options


def _credentials() -> ClusterOptions:
    username, password = os.environ.get(_USERNAME), os.environ.get(_PASSWORD)
    options = ClusterOptions()
    if password:
        options["password"] = password
    if username:
        options["username"] = username
    return options


def _why_not(error: GvClusterError) -> str:
    """What keeps us from using somebody's cluster, and what to do about it."""
    met = [str(failure) for _, failure in error.failures] if isinstance(error, TopologyUnavailable) else []
    text = f"{met[0]}; {len(met) - 1} more nodes were asked" if len(met) > 1 else "".join(met) or str(error)
    if "cluster support disabled" in text:
        return f"this is a server, but no cluster (cluster-enabled is off): {text}"
    if "NOAUTH" in text or "WRONGPASS" in text:
        return f"the servers want a password, or another one; put it into {_PASSWORD}: {text}"
    return f"the cluster can not be used: {text}"


def _missing(what: str) -> str:
    return f"{what} is not installed here. Install it with: {_INSTALL}"


def _refuse(reason: str) -> int:
    print(f"gvcluster demo: {reason}", file=sys.stderr)
    return 1
