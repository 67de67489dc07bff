"""Calls whose bytes are cut at every place, and what the servers say afterwards about what has become of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import gevent

from gvcluster import Cluster, GvClusterError
from gvcluster.testing import LocalCluster, Node, ProxiedCluster, Recorder, Rule
from gvcluster.testing.faults import Cut, Frame, Pass

# No call may take longer: its own timeout is shorter.
STUCK = 20.0
# What must not be repeated: here each is unlike all others, as each case has a key of its own.
WRITES = frozenset((b"SET", b"MSET", b"INCR", b"RPUSH", b"BLPOP", b"EVAL", b"EVALSHA", b"PUBLISH"))


@dataclass(frozen=True)
class Effect:
    """How one sees at a server whether a command was executed: what `asked` answers before, and after it."""

    asked: tuple[str, ...]
    before: Any
    after: Any


@dataclass(frozen=True)
class Part:
    """One outcome of a call: what it is if all goes well, and what the command does. What only reads does nothing."""

    reply: Any
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of call.

    cut: the names of the commands whose requests and replies are cut; `also` chooses more frames.
    call: makes the call with a key, and returns the outcome of each part, in order.
    parts: what these are for a key.
    prepare: commands that a server is told before.
    """

    name: str
    cut: str
    call: Callable[[Cluster, str], list[Any]]
    parts: Callable[[str], list[Part]]
    prepare: Callable[[str], list[tuple[str, ...]]] = lambda key: []
    ends: dict[str, tuple[str, ...]] | None = None  # those of all kinds, if None
    also: Callable[[Frame], bool] = lambda frame: False

    def rule(self, fault: Any, direction: Any, nth: int | None = None) -> Rule:
        """A rule that strikes the frames of such calls."""
        names = self.cut.split()
        return Rule(fault, direction, when=lambda frame: frame.name in names or self.also(frame), nth=nth)


@dataclass(eq=False)
class Case:
    """One call, and where it is cut."""

    kind: Kind
    key: str
    direction: Any
    nth: int
    at: int
    end: Any
    outcomes: list[Any] = field(default_factory=list)
    has_struck: bool = False

    def __str__(self) -> str:
        where = f"{self.direction} {self.nth} of {self.kind.cut} cut after {self.at} bytes, {self.end}"
        return f"{self.kind.name} {self.key}: {where}: {self.outcomes}"


def one(call: Callable[[Cluster, str], Any]) -> Callable[[Cluster, str], list[Any]]:
    """A call of one part, whose outcome is its reply or what it raises."""

    def outcomes(cluster: Cluster, key: str) -> list[Any]:
        try:
            return [call(cluster, key)]
        except GvClusterError as error:
            return [error]

    return outcomes


class EveryByte:
    """Cuts calls at every byte, some calls at a time, each over proxies and a client of its own.

    Args:
        servers: Where they are executed.
        options: Of the clients.
        ends: How requests, and how replies, are cut.
    """

    def __init__(
        self,
        servers: LocalCluster,
        options: dict[str, Any],
        ends: dict[str, tuple[str, ...]],
        workers: int = 12,
    ) -> None:
        self._servers, self._options, self._ends, self._workers = servers, options, ends, workers
        self._primaries = servers.primaries()
        self.recorder = Recorder()
        self.cases: list[Case] = []

    def cut(self, kind: Kind) -> None:
        """Make all calls of this kind. Their outcomes are held against the effects by `check`."""
        cases = list(self._plan(kind))
        self.cases += cases
        self._prepare(cases)
        left = iter(cases)
        gevent.joinall([gevent.spawn(self._work, kind, left) for _ in range(self._workers)], raise_error=True)

    def check(self) -> dict[str, int]:
        """Compare all outcomes with what the servers say now, and the wire with both. Returns how many of each."""
        self._wait_until_all_is_over()
        told = self._effects_now()
        counts: Counter[str] = Counter()
        for case in self.cases:
            assert case.has_struck, f"nothing was cut: {case}"
            counts["offsets cut"] += 1
            parts = case.kind.parts(case.key)
            assert len(parts) == len(case.outcomes), str(case)
            for part, outcome in zip(parts, case.outcomes, strict=True):
                counts[_judged(case, part, outcome, told)] += 1
        self._check_wire()
        return dict(counts)

    def _check_wire(self) -> None:
        """No write was sent again, unless the server had refused it."""
        for token, sent in self.recorder.sent.items():
            if token[0] in WRITES:  # type: ignore[index]
                assert sent <= 1 + self.recorder.refused[token], f"sent {sent} times: {token!r}"

    def _plan(self, kind: Kind) -> Iterator[Case]:
        """Look at the frames of one call that is not cut, and choose the places."""
        frames: list[Frame] = []

        def note(frame: Frame) -> bool:
            if frame.name in kind.cut.split() or kind.also(frame):
                frames.append(frame)
            return False

        key = f"{{{kind.name}}}0000"
        self._prepare([Case(kind, key, "", 0, 0, "")])
        with self._client() as client:
            client.proxied.add(Rule(Pass(), "request", when=note), Rule(Pass(), "reply", when=note))
            outcomes = kind.call(client.cluster, key)
            assert outcomes == [part.reply for part in kind.parts(key)], f"{kind.name}: {outcomes}"
        number = 0
        seen: Counter[str] = Counter()
        for frame in frames:
            seen[frame.direction] += 1
            for end in (kind.ends or self._ends)[frame.direction]:
                for at in range(len(frame.data) + 1):
                    number += 1
                    key = f"{{{kind.name}}}{number:04}"
                    yield Case(kind, key, frame.direction, seen[frame.direction], at, end)

    def _client(self) -> _Client:
        return _Client(self._primaries, self._options, self.recorder)

    def _work(self, kind: Kind, left: Iterator[Case]) -> None:
        for first in left:
            with self._client() as client:
                client.make(first)
                for case in left:
                    client.make(case)

    def _prepare(self, cases: list[Case]) -> None:
        commands = [(case.key, command) for case in cases for command in case.kind.prepare(case.key)]
        self._ask(commands)

    def _effects_now(self) -> dict[tuple[str, ...], Any]:
        asked = [
            (case.key, effect.asked)
            for case in self.cases
            for part in case.kind.parts(case.key)
            for effect in part.effects
        ]
        return self._ask(asked)

    def _ask(self, commands: list[tuple[str, tuple[str, ...]]]) -> dict[tuple[str, ...], Any]:
        """Have the owners of the keys that the commands name first execute them; command → reply."""
        by_tag: dict[str, list[tuple[str, ...]]] = {}
        for _, command in commands:
            by_tag.setdefault(command[1].partition("}")[0] + "}", []).append(command)
        told: dict[tuple[str, ...], Any] = {}
        for tag, these in by_tag.items():
            with self._servers.primary_of(tag).connection() as connection:
                told |= dict(zip(these, connection.calls(these), strict=True))
        return told

    def _wait_until_all_is_over(self) -> None:
        """A server that has closed a connection has executed all that came over it."""
        with gevent.Timeout(STUCK):
            for node in self._primaries:
                while len(node.command("CLIENT", "LIST", "TYPE", "normal").splitlines()) > 1:
                    gevent.sleep(0.01)


class _Client:
    """A client and its own proxies, as long as a `with` lasts."""

    def __init__(self, nodes: list[Node], options: dict[str, Any], recorder: Recorder) -> None:
        self._ended = 0
        self.proxied = ProxiedCluster(nodes, recorder=recorder)
        self.cluster = Cluster(
            self.proxied.seeds,
            address_map=self.proxied.address_map,
            on_disconnect=self._note_end,
            **({"client_info": False} | options),
        )

    def __enter__(self) -> Self:
        self.proxied.start()
        self.cluster.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.close()
        self.proxied.stop()

    def make(self, case: Case) -> None:
        """Make a call, cut where its case says, and wait until the client has noticed all of that."""
        rule = case.kind.rule(Cut(case.at, case.end), case.direction, case.nth)
        self.proxied.add(rule)
        ended = self._ended
        with gevent.Timeout(STUCK, AssertionError(f"stuck: {case}")):
            case.outcomes = case.kind.call(self.cluster, case.key)
            while self._ended == ended:
                gevent.sleep(0.001)
        self.proxied.clear()
        case.has_struck = rule.made == 1

    def _note_end(self, _connection: object, _error: object) -> None:
        self._ended += 1


def _judged(case: Case, part: Part, outcome: Any, told: dict[tuple[str, ...], Any]) -> str:
    """Whether the outcome is true, and which one it is."""
    now = [told[effect.asked] for effect in part.effects]
    executed = now == [effect.after for effect in part.effects]
    untouched = now == [effect.before for effect in part.effects]
    assert executed or untouched, f"the server has {now}: {case}"
    if not isinstance(outcome, Exception):
        assert outcome == part.reply, str(case)
        assert executed, f"not executed: {case}"
        return "answered"
    assert isinstance(outcome, GvClusterError), str(case)
    assert part.effects, f"a read was not repeated: {case}"
    if outcome.maybe_executed:
        return "ambiguous, and executed" if executed else "ambiguous, and not executed"
    assert untouched, f"executed, and denied: {case}"
    return "not executed, and proved"
