"""What all hubs of one Cluster share. Changed by single assignments only, so that no lock is needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gevent.hub import get_hub
from gevent.monkey import get_original

from gvcluster.core.address import Address
from gvcluster.core.command_spec import Command
from gvcluster.core.commands import COMMANDS
from gvcluster.core.retry import Pace
from gvcluster.core.routing import ReadPolicy, read_policy
from gvcluster.core.topology import Topology
from gvcluster.core.views import Memory
from gvcluster.events import Closed, Event
from gvcluster.net.turns import Turns
from gvcluster.options import Options
from gvcluster.tables import commands_from
from gvcluster.tls import Tls, tls_from


class ClusterState:
    """Options, the slot map of the day, and whether the cluster still takes work.

    tls: how every connection is made secure, None where none is.
    command_timeout: seconds; starts as the option and can be changed at run time.
    topology: the last accepted slot map.
    memory: what decides whether a fetched map is newer.
    fetched: when the fetch of the last usable map began, even if it was no news (monotonic clock).
    adrift: nobody gave a map when one was fetched last: the seeds are believed again, whoever they are by now.
    closing: no new calls. closed: no calls at all.
    redirects, retries: how many were followed or made, over all calls.
    turns, pace: which hub fetches the slot map, and how soon the next fetch may begin.
    runtimes: one for each hub that uses the cluster.
    closers: who has called close() first.
    thread: what each native thread keeps until it ends; also where `threading.local` is patched.
    additions: what the user registered and the servers told of commands that gvcluster's own table does not list.
    commands: that table with the additions.
    read_from: who serves reads, if not only the primaries.
    """

    __slots__ = (
        *("additions", "adrift", "closed", "closers", "closing", "command_timeout", "commands", "fetched", "memory"),
        *("options", "pace", "read_from", "redirects", "retries", "runtimes", "seeds", "thread", "tls", "topology"),
        "turns",
    )

    def __init__(self, seeds: tuple[Address, ...], options: Options, command_timeout: float) -> None:
        self.seeds, self.options, self.command_timeout = seeds, options, command_timeout
        self.topology: Topology | None = None
        self.memory, self.turns, self.pace = Memory(), Turns(), Pace()
        self.fetched = float("-inf")
        self.adrift = self.closing = self.closed = False
        self.redirects = self.retries = 0
        self.runtimes: list[Any] = []
        self.closers: dict[None, object] = {}
        self.thread: Any = get_original("threading", "local")()
        self.additions: dict[str, Command] = {}
        self.commands = COMMANDS
        self.tls: Tls | None = tls_from(options)
        self.read_from: ReadPolicy | None = read_policy(options.read_from)
        self.add_commands(commands_from(options.command_table))

    def add_commands(self, commands: Iterable[Command]) -> None:
        """Know these as well, in all hubs. Those of gvcluster's own table stay as they are."""
        self.additions.update((command.name, command) for command in commands)
        seen: dict[str, Command] = {}
        while seen != self.additions:  # another thread has added some, and its table may have been published first
            seen = dict(self.additions)
            self.commands = COMMANDS.plus(seen.values())

    @property
    def patience(self) -> float:
        """How long a call without options of its own waits for its first reply, in seconds."""
        return min(self.command_timeout, self.options.timeout)

    def id_expected_at(self, address: Address) -> str | None:
        """The id of the node that the slot map has at this address, if it is to be checked."""
        if not self.options.client_info or self.topology is None or (self.adrift and address in self.seeds):
            return None
        node = self.topology.node_at(address)
        return node.id or None if node is not None else None

    def is_first_to_close(self) -> bool:
        """Whether nobody has closed the cluster yet: of all threads, one gets a yes, once."""
        me = object()
        return self.closers.setdefault(None, me) is me

    def tell(self, event: Event) -> None:
        """Call the user's `on_event`, never after Closed.

        An observer that raises stops nobody: the hub reports the error as it reports a greenlet's end.
        """
        if self.options.on_event is None or (self.closed and not isinstance(event, Closed)):
            return
        try:
            self.options.on_event(event)
        except Exception as error:
            get_hub().handle_error(self.options.on_event, type(error), error, error.__traceback__)
