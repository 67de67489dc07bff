"""What all hubs of one Cluster share. Changed by single assignments only, so that no lock is needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gevent.hub import get_hub
from gevent.monkey import get_original

from gvcluster.core.address import Address
from gvcluster.core.command_spec import Command
from gvcluster.core.commands import COMMANDS, CommandTable
from gvcluster.core.retry import Pace
from gvcluster.core.routing import ReadPolicy, read_policy
from gvcluster.core.topology import Topology
from gvcluster.core.views import Memory
from gvcluster.events import Closed, Event
from gvcluster.net.turns import Turns
from gvcluster.options import Options
from gvcluster.tables import commands_from
from gvcluster.tls import Tls, tls_from


@dataclass(slots=True, eq=False)
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

    seeds: tuple[Address, ...]
    options: Options
    command_timeout: float
    topology: Topology | None = None
    memory: Memory = field(default_factory=Memory)
    fetched: float = field(default=float("-inf"))
    adrift: bool = False
    closing: bool = False
    closed: bool = False
    redirects: int = 0
    retries: int = 0
    turns: Turns = field(default_factory=Turns)
    pace: Pace = field(default_factory=Pace)
    runtimes: list[Any] = field(default_factory=list)
    closers: dict[None, object] = field(default_factory=dict)
    thread: Any = field(default_factory=get_original("threading", "local"))
    additions: dict[str, Command] = field(default_factory=dict)
    commands: CommandTable = COMMANDS
    tls: Tls | None = field(init=False)
    read_from: ReadPolicy | None = field(init=False)

    def __post_init__(self) -> None:
        self.tls = tls_from(self.options)
        self.read_from = read_policy(self.options.read_from)
        self.add_commands(commands_from(self.options.command_table))

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
