"""Cluster: what users touch. Every method is a few lines; `net` does the work, `core` makes the decisions."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Self, Unpack, cast

from gevent.hub import Hub, get_hub

from gvcluster.call_options import CallOptions, call_options_from
from gvcluster.checks import seconds, whole_number
from gvcluster.core.address import Address
from gvcluster.core.commands import route
from gvcluster.core.formatting import format_command, parse_command
from gvcluster.core.merging import nodes_to_ask
from gvcluster.core.routing import readers_of
from gvcluster.core.script_text import ScriptText
from gvcluster.core.slots import Key, hash_slot
from gvcluster.core.topology import Node, Topology
from gvcluster.errors import ConfigError, SlotNotCovered, TopologyUnavailable
from gvcluster.events import Closed
from gvcluster.exclusive import ExclusiveConnection
from gvcluster.multikey import MultiKeyCommands
from gvcluster.net import forks
from gvcluster.net.executor import Executor
from gvcluster.net.hubs import Hubs, release
from gvcluster.net.state import ClusterState
from gvcluster.net.submission import Callback
from gvcluster.net.warming import Warming
from gvcluster.optimistic import Transactions
from gvcluster.options import ClusterOptions, options_from
from gvcluster.pending import PendingReply, checked_callback
from gvcluster.pipeline import Pipeline, PipelineOptions
from gvcluster.pubsub import PubSub, PubSubOptions
from gvcluster.reports import Explanation, Statistics
from gvcluster.scan import ScanCommands
from gvcluster.scripts import Script
from gvcluster.seeds import Seeds, parse_seeds, parse_url
from gvcluster.tables import registered

# How often `nodes()` begins again when primaries come and go while it is used.
_RESTARTS = 16


class Cluster(MultiKeyCommands, ScanCommands, Transactions):
    """A client of one cluster, for all greenlets of a process.

    Making one does no I/O, and needs no hub: do it at import time if you like, before a fork or before anything is
    monkey-patched. The first command connects.
    """

    def __init__(self, seeds: Seeds, **options: Unpack[ClusterOptions]) -> None:
        """Name the seeds and the options.

        Args:
            seeds: `"host:port,host:port"`, or a list of such strings, Addresses or (host, port). Any one that answers
                is enough.
            options: See `gvcluster.options.Options`. Times are in seconds.

        Raises:
            ConfigError: An option or a seed makes no sense.
        """
        checked = options_from(options)
        self._state = ClusterState(parse_seeds(seeds), checked, checked.command_timeout)
        self._hubs = Hubs(self._state)
        self._executor: Any = None  # the one used last; valid only in its own hub
        self._hub: Hub | None = None
        self._draws_its_own = "rng" not in options
        forks.remember(self)
        # At the end of the process the system closes everything, and a module that kept a client needs no warning.
        weakref.finalize(self, release, self._state).atexit = False

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClusterOptions]) -> Self:
        """Make a cluster from `valkey://user:password@h1:p,h2:p/0?command_timeout=1.5`.

        Args:
            url: Scheme `valkey` or `redis`, with an `s` more for TLS, also with `+cluster`. User and password are
                percent-decoded. The query gives options; those given as arguments win.
            options: As for `Cluster`.

        Raises:
            ConfigError: The URL, an option or a seed makes no sense. The message never shows the URL.
        """
        seeds, given = parse_url(url)
        given.update(options)
        return cls(seeds, **given)

    def __repr__(self) -> str:
        state = "closed" if self._state.closed else repr(self._state.topology) if self._state.topology else "no map yet"
        return f"<Cluster {','.join(map(str, self._state.seeds))} {state}>"

    # -- commands -----------------------------------------------------------------------------------------------------

    def execute(self, *args: Any, **options: Unpack[CallOptions]) -> Any:
        """Send one command to the node that serves its key, and return the reply.

        A command without a key that concerns several nodes (DBSIZE, KEYS, FLUSHALL, SCRIPT LOAD, CONFIG SET, PING …)
        goes to all of them at once, as its request policy says: to the primaries, or to the replicas as well. What they
        answer is merged as its response policy says: added up, joined, or one for all. Where neither makes sense (INFO,
        LATENCY LATEST …) it is a dict of Address → reply. The nodes are those of the slot map as it is at the
        beginning (of a newer one, if a redirect has contradicted it); one that refuses for now is tried again, and a
        replica that succeeded its primary takes its place.

        Args:
            args: The command and its arguments, each a str (sent as UTF-8), bytes, int or float.
            options: `node`: a Node, an Address or "host:port": that node only, no redirects and no retries.
                `route_key`: choose the node by this key instead of those in the command.
                `timeout`: seconds for the whole call. `command_timeout`: seconds for one attempt's reply.
                `retry`: "safe", "never", or "always", which may run a write twice.
                `bulk`: whether to use the lane for large calls, so that no small one waits behind this one's reply.
                By default commands above 64 KiB do, and those whose last reply was above 256 KiB. Such a call may
                overtake an ordinary one that was given up before, and the other way round.
                `read_from`: who serves it if it only reads, as the option of the cluster; others do not care.

        Returns:
            What the server answers: bytes, int, list, None, and in RESP3 also float, bool, dict.

        Raises:
            ConfigError: The arguments make no sense; nothing was sent.
            RoutingError: No node can be chosen.
            ReplyError: The server refused.
            NodeError, RetriesExhausted: No reply; `maybe_executed` says whether the command may have run.
            PartialFailure: Of several nodes, some failed; `results` is a dict of Address → reply or error. None of
                them was told twice what it may have done already.
            PoolFull: `max_waiting` calls wait for room on the lane already; nothing was sent.

        Blocks: until the reply is in, at most `timeout`, and the server's own wait for blocking commands: one that is
            sent again, after a redirect or a failover, waits for the rest of its time only. A kill or a gevent.Timeout
            ends the wait at once: the command is not sent if it was not yet, else its reply is dropped; the connection
            lives on.
        """
        executor = self._executor
        if self._hub is not get_hub():
            executor = self._executor_here()
        if options:
            return executor.execute_by(args, call_options_from(options))
        return executor.execute(args)

    def pipeline(self, **options: Unpack[PipelineOptions]) -> Pipeline:
        """Make an empty pipeline: commands that are sent together, one write per node. See `gvcluster.Pipeline`.

        Args:
            options: `timeout`: seconds for each execution, redirects and retries included. `retry`: as for `execute`.
                `read_from`: as for `execute`, where all its commands only read; with a write among them all go to
                the primaries, so that what comes after it sees what it wrote.

        Raises:
            ConfigError: An option makes no sense.
        """
        checked = call_options_from(cast(CallOptions, options), PipelineOptions)
        return Pipeline(self._state, self._state.commands, self._executor_here, checked)

    def submit(self, *args: Any, callback: Callback | None = None, **options: Unpack[CallOptions]) -> PendingReply:
        """Send one command and return at once. (libvalkey: valkeyClusterAsyncCommandArgv, …ToNode.)

        Redirects and retries are those of `execute`. Commands for one node are sent in the order of their submission;
        only those that need a second attempt are later. Without a connection, or before the first slot map, they wait
        up to their deadline. Can be called in the hub, and so in callbacks.

        Args:
            args: As for `execute`.
            callback: `callback(reply, error)`, called once, in the hub, whatever becomes of the command; `error` is
                None exactly when it succeeded. It must not wait: methods that do raise BlockedInHub there. It may
                submit. What it raises, the hub reports, like a greenlet's end.
            options: As for `execute`; but `bulk` changes nothing, for large commands keep their order, too.

        Returns:
            A PendingReply, with `get`, `wait`, `ready` and `then`.

        Raises:
            ConfigError, RoutingError: As `execute`. Like all that is raised here, without a call of the callback.
            ClosedError: The cluster takes no work any more.
            PoolFull: `max_in_flight` calls are in flight on the node's lane, or wait for a connection.
        """
        checked = call_options_from(options) if options else options
        executor = self._executor if self._hub is get_hub() else self._executor_here()
        return PendingReply(executor.submitter.submit(args, checked, checked_callback(callback)))

    def submit_command(
        self, format: str | bytes, *values: Any, callback: Callback | None = None, **options: Unpack[CallOptions]
    ) -> PendingReply:
        """Submit one command, written as C's printf would. (libvalkey: valkeyClusterAsyncCommand, …ToNode.)

        Args:
            format: See `gvcluster.core.formatting.format_command`: only its own blanks split, those of values do not.
            values: One for each specifier.
            callback, options: As for `submit`.

        Returns:
            A PendingReply.

        Raises:
            ConfigError, RoutingError, ClosedError: As `submit`, and where format and values do not fit.
        """
        return self.submit(*format_command(format, *values), callback=callback, **options)

    def command(self, format: str | bytes, *args: Any, **options: Unpack[CallOptions]) -> Any:
        """Write a command as C's printf would, and execute it: `command("SET %s %d", key, 42)`.

        Args:
            format: Only its own blanks split arguments: a value with blanks, quotes or CRLF in it stays one argument.
                See `gvcluster.core.formatting.format_command`.
            args: One value for each specifier. A value in the format itself is what this call is there to avoid.
            options: As for `execute`.

        Returns:
            As `execute`.

        Raises:
            ConfigError: Too few or too many values, a wrong type, an unknown specifier; nothing was sent.
            GvClusterError: As `execute`.

        Blocks: as `execute`.

        Source: libvalkey's valkeyClusterCommand.
        """
        return self.execute(*format_command(format, *args), **options)

    def command_to_node(self, node: Any, format: str | bytes, *args: Any) -> Any:
        """Execute a printf-like command at one node: no redirects, no retries. As `command(..., node=node)`.

        Args:
            node: A Node, an Address or "host:port".
            format: As for `command`.
            args: As for `command`.

        Raises:
            GvClusterError: As `command`. A redirect is raised as Redirected.

        Blocks: as `execute`.

        Source: libvalkey's valkeyClusterCommandToNode.
        """
        if node is None:
            raise ConfigError('node must be a Node, an Address or "host:port", not None')
        return self.execute(*format_command(format, *args), node=node)

    def execute_formatted(self, data: bytes | bytearray | memoryview, **options: Unpack[CallOptions]) -> Any:
        """Execute a command that is RESP-encoded already, routed and checked like any other.

        Args:
            data: Exactly one command, an array of bulk strings: `b"*1\\r\\n$4\\r\\nPING\\r\\n"`.
            options: As for `execute`.

        Returns:
            As `execute`.

        Raises:
            ConfigError: It is not exactly one whole command; nothing was sent.
            GvClusterError: As `execute`.

        Blocks: as `execute`.

        Source: libvalkey's valkeyClusterFormattedCommand, which looks for the first key only.
        """
        return self.execute(*parse_command(data), **options)

    def script(self, source: str | bytes, *, read_only: bool = False) -> Script:
        """Make a script that can be called: `script(keys=[...], args=[...])`. Nothing is sent.

        Functions need nothing of the kind: `execute("FCALL", "name", 1, key, arg)`.

        Args:
            source: Lua.
            read_only: It writes nothing, and the server is to see to that (EVALSHA_RO; Valkey, and Redis from 7 on). It
                may then be repeated, and served by replicas.

        Raises:
            ConfigError: The source is neither str nor bytes.
        """
        return Script(self._executor_here, ScriptText(source, read_only=read_only))

    def register_command(
        self,
        name: str,
        arity: int = -1,
        keys: tuple[int, int, int] | None = None,
        *,
        read_only: bool = False,
        blocking: bool = False,
    ) -> None:
        """Tell of a command that gvcluster does not list, such as a module's. Without it a node is asked.

        Args:
            name: In any case; a subcommand after a blank: `"MYMODULE GET"`.
            arity: The number of arguments, the name included; negative: at least so many.
            keys: The first key's position (the name is 0), the last one's (negative: from the end), and the step from
                one to the next, as modules tell the server; None if it has no key. What has its keys elsewhere is for
                the option `command_table`.
            read_only: It changes nothing, so that it may be repeated.
            blocking: The server may let it wait: it gets a connection of its own.

        Raises:
            ConfigError: The arguments make no sense, or gvcluster lists the command already.
        """
        self._state.add_commands([registered(name, arity, keys or (0, 0, 0), read_only=read_only, blocking=blocking)])

    def explain(self, *args: Any) -> Explanation:
        """Say what the client would do with a command. Nothing is sent.

        Args:
            args: As for `execute`.

        Returns:
            An Explanation: keys, slot, node, and whether it may be repeated.

        Raises:
            ConfigError, CrossSlot, UnknownCommand: As `execute`.
        """
        way = route(args, self._state.commands)
        topology = self._state.topology
        node = topology.owner(way.slot) if topology is not None and way.slot is not None else None
        nodes = nodes_to_ask(way.command, topology) if topology is not None and way.slot is None else ()
        readers = readers_of(self._state.read_from, way.command, node, topology)
        return Explanation(way.command.name, way.keys, way.slot, node, way.read_only, way.blocking, nodes, readers)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[Node]:
        """Iterate over the primaries, so that each primary of the last slot map is visited.

        Begins again when the set of primaries changes meanwhile, and may then repeat a node; after 16 such changes it
        gives up. libvalkey's iterator ends after one more node instead. Who sends nothing but commands to nodes that he
        names meets no redirect: he learns of new primaries by `refresh` or the option `refresh_interval`.

        Raises:
            TopologyUnavailable: No slot map can be had, or it changes faster than you iterate.

        Blocks: for the first slot map only, if none is known yet.
        """
        for _ in range(_RESTARTS + 1):
            primaries = self._topology().primaries
            for node in primaries:
                yield node
                if _addresses(self._topology().primaries) != _addresses(primaries):
                    break
            else:
                return
        raise TopologyUnavailable(f"the set of primaries changed {_RESTARTS} times while nodes() was used")

    def primaries(self) -> tuple[Node, ...]:
        """Return the primaries of the slot map as it is now.

        Raises:
            TopologyUnavailable: No slot map can be had.

        Blocks: for the first slot map only, if none is known yet.
        """
        return self._topology().primaries

    def replicas(self, of: Node | None = None) -> tuple[Node, ...]:
        """Return the replicas of the slot map as it is now.

        Args:
            of: Only those of this node's shard; None: all.

        Raises:
            ConfigError: `of` is no Node.
            TopologyUnavailable: No slot map can be had.

        Blocks: for the first slot map only, if none is known yet.
        """
        if of is None:
            return self._topology().replicas
        if not isinstance(of, Node):
            raise ConfigError(f"of must be a Node, such as one of primaries(), not {type(of).__name__}")
        return self._topology().replicas_of(of)

    def node_for_key(self, key: Key) -> Node | None:
        """Return the primary that serves the key, or None where the slot map names none.

        Raises:
            ConfigError: The key is neither str, bytes nor a number.
            TopologyUnavailable: No slot map can be had.

        Blocks: for the first slot map only, if none is known yet.
        """
        slot = hash_slot(key)
        return self._topology().owner(slot)

    def connection(
        self, node: Any = None, *, route_key: Key | None = None, timeout: float | None = None
    ) -> ExclusiveConnection:
        """Borrow a connection to one node for yourself: use it in a `with` statement. (valkeyClusterGetValkeyContext.)

        A node has at most `max_connections` of them; who finds all lent waits, first come, first served.

        Args:
            node: A Node, an Address or "host:port".
            route_key: Instead of `node`: a key; the node is the one that serves it now.
            timeout: Seconds; the option `timeout` if None. `connect_timeout` and `pool_timeout` hold as well.

        Raises:
            ConfigError: Neither or both of `node` and `route_key` are given, or they make no sense.
            SlotNotCovered, TopologyUnavailable: No node is known that serves the key.
            ConnectFailed, AuthFailed: No connection.
            PoolTimeout, PoolFull: All are lent, and none came free in time; or `max_waiting` callers wait already.
            ClosedError: The cluster was closed.

        Blocks: until there is one. A kill or Timeout leaves it to the next.
        """
        if (node is None) == (route_key is None):
            raise ConfigError("name the node, or a key that it serves with route_key=: one of the two")
        deadline, executor = self._deadline(timeout), self._executor_here()
        executor.runtime.loop.refuse_to_wait_in_hub()
        executor.refuse_if_closing()
        if route_key is not None:
            node = self.node_for_key(route_key)
            if node is None:
                slot = hash_slot(route_key)
                raise SlotNotCovered(f"no node serves slot {slot}: the slot map has no owner for it", slot=slot)
        address = call_options_from({"node": node})["node"]
        pool = executor.runtime.nodes.pool_at(address)
        return ExclusiveConnection(pool, pool.wait_exclusive(deadline), self._state, executor.runtime.loop)

    def pubsub(self, **options: Unpack[PubSubOptions]) -> PubSub:
        """Make an object for subscriptions: use it in a `with` statement. See `gvcluster.PubSub`.

        PUBLISH and SPUBLISH are commands like any other: `execute("PUBLISH", channel, data)`.

        Args:
            options: `on_message`: `on_message(item)` is called for each Message or Gap, in order, by a greenlet of the
                object's own; it may wait. What it raises, the hub reports. Without it, iterate or call `get`.
                `max_messages`, `max_bytes`: what may wait to be taken; when it is more, the oldest are dropped, and a
                Gap stands in their place. 10,000 and 64 MiB.
                `ping_interval`: seconds of silence after which the node is pinged; if it does not answer within
                `command_timeout`, another connection is opened. 10.

        Raises:
            ConfigError: An option makes no sense.
            ClosedError: The cluster was closed.
        """
        return PubSub(self._executor_here, options)

    @staticmethod
    def hash_slot(key: Key) -> int:
        """Return the hash slot of a key, 0 to 16383.

        Raises:
            ConfigError: The key is neither str, bytes nor a number.
        """
        return hash_slot(key)

    @property
    def route_version(self) -> int:
        """How many slot maps were accepted so far; 0 before the first."""
        return self._state.topology.route_version if self._state.topology is not None else 0

    def refresh(self, timeout: float | None = None) -> None:
        """Fetch the slot map now.

        Args:
            timeout: Seconds; the option `timeout` if None.

        Raises:
            TopologyUnavailable: Nobody gave one in time. The map known before stays in use.

        Blocks: until a map that was asked for after the call is in. A kill or Timeout does not abort the fetch.
        """
        self._executor_here().runtime.refresher.fetch(self._deadline(timeout))

    # -- life ---------------------------------------------------------------------------------------------------------

    def connect(self, timeout: float | None = None) -> None:
        """Wait until the first slot map is known. Optional: the first command does it too.

        Args:
            timeout: Seconds; the option `timeout` if None.

        Raises:
            TopologyUnavailable: No seed gave a map; `failures` says what each answered.

        Blocks: until the map is in. A kill or Timeout does not abort the fetch.
        """
        self._executor_here().runtime.refresher.wait_first(self._deadline(timeout))

    def warm_up(self, connections: int = 0, *, timeout: float | None = None) -> int:
        """Open the lanes to all primaries now, for this hub, so that no command has to wait for them.

        Args:
            connections: So many exclusive connections to each as well, at most `max_connections`.
            timeout: Seconds; the option `timeout` if None.

        Returns:
            How many connections of those asked for are open. A node that can not be reached is no error here.

        Raises:
            ConfigError: `connections` makes no sense.
            TopologyUnavailable: No slot map can be had.

        Blocks: until all are open, or the time is over. A kill or Timeout does not abort what is being opened.
        """
        whole_number("connections", connections, 0)
        options, deadline = self._state.options, self._deadline(timeout)
        if connections > options.max_connections:
            raise ConfigError(f"connections must be at most max_connections, which is {options.max_connections}")
        runtime = self._executor_here().runtime
        runtime.loop.refuse_to_wait_in_hub()
        runtime.refresher.wait_first(deadline)
        pools = [runtime.nodes.pool_at(node.address) for node in self._topology().primaries]
        return Warming(pools, options.lanes, connections, deadline).wait(runtime.loop)

    def start(self) -> None:
        """Begin to connect and return at once; the event `Ready` follows."""
        refresher = self._executor_here().runtime.refresher
        if self._state.topology is None:
            refresher.until_ready = True
            refresher.schedule()

    @property
    def command_timeout(self) -> float:
        """Seconds that one attempt waits for its reply; can be changed at any time."""
        return self._state.command_timeout

    @command_timeout.setter
    def command_timeout(self, value: float) -> None:
        self._state.command_timeout = seconds("command_timeout", value)
        self._hubs.everywhere(Executor.keep_time)

    def statistics(self) -> Statistics:
        """Count what happened so far, over all hubs of this process."""
        return self._hubs.statistics()

    def close_idle(self) -> int:
        """Close the connections of this hub that nobody uses now; they are opened again when needed.

        Returns:
            How many were closed.
        """
        return self._executor_here().runtime.nodes.close_idle()

    def disconnect(self, timeout: float | None = None) -> None:
        """Refuse new commands, let those in flight end, then close.

        Args:
            timeout: Seconds; the option `timeout` if None. What is in flight then is ended as by `close`.

        Blocks: until nothing is in flight, in any hub. A kill or Timeout there closes at once.
        """
        if self._state.closing:
            return
        self._executor_here().runtime.loop.refuse_to_wait_in_hub()
        try:
            self._hubs.drain(self._deadline(timeout))
        finally:
            self.close()

    def close(self) -> None:
        """End all calls with an error, and all connections, now. Can be called twice. Never waits."""
        if not self._state.is_first_to_close():
            return
        self._state.closing = self._state.closed = True
        self._hubs.everywhere(Executor.close)
        self._state.tell(Closed())

    def __enter__(self) -> Self:
        """Connect.

        Blocks: as `connect`.
        """
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect after a good end, close after a bad one.

        Blocks: as `disconnect`.
        """
        if error is None:
            self.disconnect()
        else:
            self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """Forget the parent's hubs and connections: the next command makes new ones."""
        self._executor = self._hub = None
        self._hubs.start_over()
        if self._draws_its_own:  # else all workers of a server would back off in step
            self._state.options.rng.seed()

    def _executor_here(self) -> Executor:
        """The executor of the hub that runs now, made at first use."""
        executor = self._hubs.here()
        self._executor, self._hub = executor, executor.hub
        return executor

    def _topology(self) -> Topology:
        if self._state.topology is None:
            self.connect()
        assert self._state.topology is not None
        return self._state.topology

    def _deadline(self, timeout: float | None) -> float:
        return monotonic() + (self._state.options.timeout if timeout is None else seconds("timeout", timeout))


def connect(seeds: Seeds, **options: Unpack[ClusterOptions]) -> Cluster:
    """Make a Cluster and wait until it is ready.

    Args:
        seeds: As for `Cluster`.
        options: As for `Cluster`.

    Raises:
        ConfigError: An option or a seed makes no sense.
        TopologyUnavailable: No seed gave a slot map; `failures` says what each answered.

    Blocks: until the first slot map is in, at most the option `timeout`.
    """
    cluster = Cluster(seeds, **options)
    try:
        cluster.connect()
    except BaseException:
        cluster.close()
        raise
    return cluster


def _addresses(nodes: tuple[Node, ...]) -> frozenset[Address]:
    return frozenset(node.address for node in nodes)
