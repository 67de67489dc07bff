"""Who serves reads in one hub: for each shard the nodes that the read policy allows, and which of them are well.

Reads from replicas have pools of their own, whose connections begin with READONLY; it is never taken back, for
READWRITE is harmful at some servers. So `node=` a replica still answers as a replica does to anybody.

A node that has failed rests, and then is asked how it is by a greenlet: no call is spent on finding out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import count
from time import monotonic

from gvcluster.core.address import Address
from gvcluster.core.outcome import Doubtful, Lost, NotNow, Outcome, Refused, unfit
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call
from gvcluster.core.routing import ReadPolicy, choose, preference, rest
from gvcluster.core.slots import SLOTS
from gvcluster.core.topology import Node, Topology
from gvcluster.errors import GvClusterError, ReplyError, ReplyTimeout
from gvcluster.net.loop import HubLoop
from gvcluster.net.pool import NodePool
from gvcluster.net.state import ClusterState

# Seconds for which a read waits for a connection that is being opened, where another node could serve it as well.
IMPATIENCE = 0.5
# Seconds in which a node that was unwell must say how it is.
_PATIENCE = 1.0
# One that loads its data answers both with LOADING. A replica that has lost its primary and serves no stale data says
# MASTERDOWN to PING if it is a Valkey 9, to READONLY if it is a Redis 6.2; a primary is not to be asked for that.
_QUESTIONS = (encode(("PING",)), encode(("READONLY",)))


class Reader:
    """One node that may serve reads, seen from one hub."""

    __slots__ = ("failures", "is_asked", "pool", "rests_until")

    def __init__(self, pool: NodePool) -> None:
        self.pool = pool
        self.failures = 0  # in a row
        self.rests_until = 0.0
        self.is_asked = False  # how it is

    def __repr__(self) -> str:
        return f"<Reader {self.pool} failures={self.failures}>"

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.pool.address

    def is_late(self) -> bool:
        """Whether it owes a reply, and was silent for longer than others would be."""
        return self.pool.lanes.are_late()


class Choice:
    """The nodes of one shard that a policy allows. `first`: the best, each of which has its turn.

    The long way counts turns of its own: else, of two readers, one that has no connection yet would never get one, for
    the hot path's turn would be its, and the next one the other's.
    """

    __slots__ = ("first", "rare_turns", "tiers", "turns")

    def __init__(self, tiers: tuple[tuple[Reader, ...], ...], turn: int) -> None:
        self.tiers, self.turns, self.rare_turns = tiers, count(turn), count(turn)
        self.first = tiers[0] if tiers else ()


class Readers:
    """The readers of one hub. `table`, for the policy of the cluster, is always the same list: the hot path keeps it.

    Args:
        new_pool: makes a pool whose connections are for reading from replicas.
        pool_at: the ordinary pool of a node.
    """

    def __init__(
        self,
        state: ClusterState,
        loop: HubLoop,
        new_pool: Callable[[Address], NodePool],
        pool_at: Callable[[Address], NodePool],
    ) -> None:
        self.table: list[Choice | None] = [None] * SLOTS
        self.pools: dict[Address, NodePool] = {}
        self._state, self._loop, self._new_pool, self._pool_at = state, loop, new_pool, pool_at
        self._topology: Topology | None = None
        self._moved: set[int] = set()  # slots that MOVED took from the map's owner
        self._readers: dict[Address, Reader] = {}
        self._choices: dict[tuple[ReadPolicy, Address], Choice] = {}
        self._sick: set[Reader] = set()

    def __repr__(self) -> str:
        return f"<Readers {len(self.pools)} pools, {len(self._sick)} rest>"

    def adopt(self, topology: Topology, moved: Iterable[int]) -> list[NodePool]:
        """Serve by a new map. Returns the pools of those that are no replicas any more.

        Args:
            moved: slots of which MOVED says something newer.
        """
        self._topology, self._moved = topology, set(moved)
        self._choices.clear()
        replicas = {node.address for node in topology.replicas}
        departed = [self.pools.pop(address) for address in self.pools.keys() - replicas]
        serving = {*self.pools.values(), *(self._pool_at(node.address) for node in topology.primaries)}
        self._readers = {each.address: each for each in self._readers.values() if each.pool in serving}
        self._sick.intersection_update(self._readers.values())
        policy = self._state.read_from
        if policy is not None:
            choices = {id(node): self._choice(policy, node) for node in topology.primaries}
            self.table[:] = topology.spread(choices)
            for slot in self._moved:
                self.table[slot] = None
        return departed

    def patch(self, slot: int) -> None:
        """MOVED has taken this slot from the map's owner: its replicas do not have it either."""
        self._moved.add(slot)
        self.table[slot] = None

    def choose(self, call: Call, avoided: Collection[Address]) -> Reader | None:
        """Who is to serve a read now; None: whoever serves the slot, or nobody. Never switches."""
        choice = self._choice_for(call)
        return None if choice is None else self.pick(choice, avoided)

    def pick(self, choice: Choice, avoided: Collection[Address]) -> Reader | None:
        """Which of these nodes is to serve a read now; None if there are none. Never switches."""
        if self._sick:
            self._see_to_the_sick()
        turn = next(choice.rare_turns)
        return choose(choice.tiers, turn, avoided) or choose(choice.tiers, turn, ())

    def _choice_for(self, call: Call) -> Choice | None:
        return (
            self.choice_at(call.read_from, call.slot) if call.read_from is not None and call.slot is not None else None
        )

    def choice_at(self, policy: ReadPolicy, slot: int) -> Choice | None:
        """The nodes that may serve reads of a slot; None: whoever serves the slot, or nobody."""
        owner = self._topology.owner(slot) if self._topology is not None else None
        if owner is None or (slot in self._moved and not policy.never_primary):
            return None
        return self._choice(policy, owner)

    def has_others(self, call: Call, avoided: Collection[Address]) -> bool:
        """Whether a read may be served by more nodes than those."""
        choice = self._choice_for(call)
        return choice is not None and any(each.address not in avoided for tier in choice.tiers for each in tier)

    def _choice(self, policy: ReadPolicy, owner: Node) -> Choice:
        assert self._topology is not None
        choice = self._choices.get((policy, owner.address))
        if choice is None:
            told = preference(policy, owner, self._topology.replicas_of(owner))
            tiers = tuple(tuple(map(self._reader, tier)) for tier in told)
            # Clients that begin together must not all begin with the same replica.
            choice = Choice(tiers, self._state.options.rng.randrange(840))  # which 1 to 8 divide
            self._choices[policy, owner.address] = choice
        return choice

    def _reader(self, node: Node) -> Reader:
        reader = self._readers.get(node.address)
        if reader is None:
            pool = self._pool_at(node.address) if node.role == "primary" else self._reading_pool(node.address)
            reader = self._readers[node.address] = Reader(pool)
        return reader

    def _reading_pool(self, address: Address) -> NodePool:
        pool = self.pools.get(address)
        if pool is None:
            pool = self.pools[address] = self._new_pool(address)
        return pool

    # -- who is well --------------------------------------------------------------------------------------------------

    def judge(self, met: Outcome, call: Call, asked: Address, avoided: Collection[Address]) -> Outcome:
        """Note what a read has met at this node, and say what it means where others may serve it.

        avoided: who could not serve it before.
        """
        reader = self._readers.get(asked)
        if reader is not None and _is_unwell(met, reader):
            self._let_rest(reader)
        never_primary = call.read_from is not None and call.read_from.never_primary
        return unfit(met, others=self.has_others(call, {asked, *avoided}), never_primary=never_primary)

    def is_well(self, asked: Address) -> None:
        """The node has answered."""
        reader = self._readers.get(asked)
        if reader is not None and reader.failures:
            reader.failures = 0
            self._sick.discard(reader)

    def _let_rest(self, reader: Reader) -> None:
        now = monotonic()
        if now >= reader.rests_until or not reader.failures:  # many calls may fail at once
            reader.rests_until = now + rest(reader.failures, self._state.options.rng.random())
            reader.failures += 1
            self._sick.add(reader)

    def _see_to_the_sick(self) -> None:
        now = monotonic()
        for reader in self._sick:
            if now >= reader.rests_until and not reader.is_asked:
                self._loop.spawn(self._ask, reader)
                reader.is_asked = True

    def _ask(self, reader: Reader) -> None:
        """Ask it how it is."""
        try:
            lane = reader.pool.wait_lane(monotonic() + self._state.options.connect_timeout)
            deadline = monotonic() + min(_PATIENCE, self._state.command_timeout)
            questions = _QUESTIONS if reader.pool.read_only else _QUESTIONS[:1]
            is_well = all(_is_kind(lane.call_within(question, deadline)) for question in questions)
        except GvClusterError:
            is_well = False
        finally:
            reader.is_asked = False
        if is_well:
            self.is_well(reader.address)
        elif self._readers.get(reader.address) is reader:  # it has not left meanwhile
            self._let_rest(reader)

    def close(self, cause: BaseException | None = None) -> None:
        """End every connection now. Never switches."""
        self.table[:] = [None] * SLOTS
        for pool in self.pools.values():
            pool.close(cause)


def _is_kind(reply: object) -> bool:
    """Whether the answer means that the node serves. A user who may not ask is no matter of health."""
    return not isinstance(reply, Exception) or (isinstance(reply, ReplyError) and reply.code == "NOPERM")


def _is_unwell(met: Outcome, reader: Reader) -> bool:
    """Whether it is about the node. What a script may have made up is not, nor a call's own haste."""
    if isinstance(met, Doubtful):
        return False
    if isinstance(met.error, ReplyTimeout):
        return not reader.pool.lanes.are_responsive()  # its lane is late, or was closed for that
    return isinstance(met, Refused | Lost) or (isinstance(met, NotNow) and met.stale)
