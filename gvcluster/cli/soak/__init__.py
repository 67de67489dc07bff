"""`gvcluster soak`: its arguments. The soak itself is in `command.py` and what that imports.

The checks are pure: `history.py` (what is checked), `linear.py` (C2), `counting.py` (C3, C6), `lists.py` (C4, C7),
`wire.py` (C1, C5), `resources.py` (C8).
"""

from __future__ import annotations

import argparse
import sys

from gvcluster.cli.arguments import above, words, words_of, writable
from gvcluster.cli.soak.plan import SORTS
from gvcluster.errors import ConfigError
from gvcluster.testing.errors import LocalClusterError

IN_SHORT = "let everything go wrong for a while, and check that nothing is mixed up, lost or done twice"

_DESCRIPTION = """\
Starts a cluster of 3 primaries and 3 replicas on this machine, lets many
greenlets work over two clients, one of them through proxies that harm what
passes, and plays one fault after the other. After each, all that the greenlets
were told is compared with what the servers have and what the wire has carried.
The same seed gives the same plan.

With --commands it counts instead: pipelines without a pause, of which greenlets
are killed and timed out, while primaries are killed with SIGKILL.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command is about."""
    parser.description, parser.epilog = _DESCRIPTION, _epilog()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--minutes",
        type=above(float, 0),
        default=10.0,
        metavar="M",
        help="for each server; each fault comes once anyway",
    )
    add("--seed", type=int, metavar="N", help="to have the same plan again")
    add("--servers", type=words, default=["valkey-9.1.2"], metavar="NAME,…", help="one after the other (valkey-9.1.2)")
    add("--faults", type=words_of(SORTS), default=list(SORTS), metavar="NAME,…", help="only these; see below")
    add("--json", type=writable, metavar="FILE", help="where to write the ledger")
    add("--html", type=writable, metavar="FILE", help="where to write a page with plots")
    add("--no-timings", dest="timings", action="store_false", help="criteria of time do not decide: for busy machines")
    add("--greenlets", type=above(int, 127), default=256, metavar="N", help="128 at least (256)")
    add("--pace", type=above(float, 0), default=6000.0, metavar="N", help="steps per second, of all together (6000)")
    add("--fault-seconds", type=above(float, 0), default=15.0, metavar="S", help="how long a fault lasts (15)")
    add("--node-timeout", type=above(float, 0), default=2.0, metavar="S", help="of the servers (2)")
    add("--commands", type=above(int, 0), metavar="N", help="end after so many commands, and not by time")
    add("--interruptions", type=above(int, -1), default=0, metavar="N", help="with --commands: and so many of these")
    add("--kills", type=above(int, -1), default=0, metavar="N", help="with --commands: and so many kill -9")
    add("--width", type=above(int, 0), default=50, metavar="N", help="with --commands: commands in a pipeline (50)")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from gvcluster.cli.soak.command import Settings, run

    try:
        return run(Settings.of(chosen))
    except (ConfigError, LocalClusterError) as error:
        print(f"gvcluster soak: {error}", file=sys.stderr)
        return 1


def _epilog() -> str:
    faults = "\n".join(f"  {name:12} {sort.phase}  {sort.text}" for name, sort in SORTS.items())
    return f"""\
faults:
{faults}
  STRICT: every write that was acknowledged must be there in the end.
  LOSSY: servers replicate asynchronously, and may lose some in a failover.

exit codes:
  0    all criteria that decide are met
  1    one is not, or the servers could not be had
  130  Ctrl-C; the ledger is written all the same
Whatever happens, no server is left behind.
"""
