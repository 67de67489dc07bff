"""Greenlets are killed and timed out at random moments, and nobody ever gets another one's reply."""

import os
import random
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import Cluster, ReplyError
from gvcluster.testing import LocalCluster

CALLERS = 200
# What must have happened before the storm is over; a fifth of it where the server or the run is not the usual one.
COMMANDS, KILLS, TIMEOUTS = 100_000, 1_000, 1_000
# A storm that takes longer has failed, seconds.
LIMIT = 100.0

NAME = "storm"
# What two replies of this script have in common is nothing but their type.
NESTED = "return {ARGV[1], {7, ARGV[2]}, false}"
FAILING = "return redis.error_reply('STORM ' .. ARGV[1])"
# RESP3's own false, which a parser may take for "not enough data"; in RESP2 it is a 0.
FALSE = "redis.setresp(3); return false"


def test_in_a_storm_of_kills_and_timeouts_no_reply_is_wrong_and_no_connection_is_lost(
    live_cluster: LocalCluster, server: str, protocol: int, is_plain: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("GVCLUSTER_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"GVCLUSTER_TEST_SEED={seed} repeats this choice of commands, kills and timeouts")
    share = 1 if is_plain and server.startswith("valkey-9") else 5
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, client_name=NAME) as cluster:
        storm = Storm(cluster, random.Random(seed), protocol, share)
        storm.prepare()
        gevent.sleep(0.5)  # replicas are asked who is primary while connecting takes long, and a little longer
        began, connections = cluster.statistics(), connections_of(live_cluster)
        storm.run()
        # On one connection replies come in the order of the commands: after these, none is owed to anybody.
        for primary in cluster.primaries():
            assert cluster.execute("PING", node=primary) == b"PONG"
        ended = cluster.statistics()
        print(storm, ended)

        assert storm.wrong == []
        assert (storm.answered >= COMMANDS // share, storm.killed >= KILLS // share) == (True, True), storm
        assert storm.timed_out >= TIMEOUTS // share, storm
        for node in ended.nodes:
            assert node.opened == node.connections == len(connections[node.address]) <= 1
            assert node.in_flight == 0
        assert connections_of(live_cluster) == connections
        assert [len(connections[primary.address]) for primary in cluster.primaries()] == [1, 1, 1]
        assert (ended.redirects, ended.retries, ended.refreshes) == (0, 0, began.refreshes)
        # Whatever was answered was sent, and of what was cut off, some was.
        assert storm.answered <= ended.commands - began.commands <= storm.begun + 3
        for caller in storm.callers:
            assert caller.low <= int(cluster.execute("GET", caller.counter) or 0) <= caller.high
    out, err = capfd.readouterr()
    print(out)
    assert err == "", "the hub reports here what died in it"


class Caller:
    """Somebody who sends commands and knows which replies are right, also after being cut off in the middle.

    What a command may change is noted before it is sent, and settled by the first reply that tells: commands of one
    connection run in the order in which they were sent, and one that was not sent by then never is.
    """

    def __init__(self, cluster: Cluster, number: int, rng: random.Random, protocol: int) -> None:
        self.execute = cluster.execute
        self.name = f"caller-{number:03}"
        self.number = number
        self.sequence = 0
        self.counter = f"{self.name}:counter"
        self.low = self.high = 0
        self.values: set[bytes | None] = {None}
        # Of another length for each.
        self.big = f"{self.name};".encode() * (1500 + number)
        self.protocol = protocol
        self._rng = rng
        self._steps: list[Callable[[], str | None]] = [
            *[self.set, self.get, self.count] * 5,
            *[self.echo, self.missing, self.mapping, self.number_of, self.listing] * 2,
            *[self.nested, self.failing, self.false, self.read_big],
        ]

    def prepare(self) -> None:
        self.execute("HSET", f"{self.name}:hash", "name", self.name, "number", self.number)
        self.execute("ZADD", f"{self.name}:zset", self.number + 0.5, "member")
        self.execute("RPUSH", f"{self.name}:list", self.name, "", self.number)
        self.execute("SET", f"{self.name}:big", self.big)

    def step(self) -> str | None:
        """Send one command. Returns what is wrong with its reply."""
        self.sequence += 1
        return self._rng.choice(self._steps)()

    def token(self) -> bytes:
        return f"{self.name}-{self.sequence}".encode()

    def set(self) -> str | None:
        value = self.token()
        self.values.add(value)
        reply = self.execute("SET", f"{self.name}:value", value)
        self.values = {value}
        return self.compare(reply, b"OK")

    def get(self) -> str | None:
        reply = self.execute("GET", f"{self.name}:value")
        if not isinstance(reply, bytes | None) or reply not in self.values:
            return f"{self.name}: {reply!r:.200} instead of one of {self.values}"
        self.values = {reply}
        return None

    def count(self) -> str | None:
        self.high += 1
        reply = self.execute("INCR", self.counter)
        low, high = self.low, self.high
        if type(reply) is not int or not low < reply <= high:
            return f"{self.name}: {reply!r} instead of a number above {low} and up to {high}"
        self.low = self.high = reply
        return None

    def echo(self) -> str | None:
        return self.compare(self.execute("ECHO", self.token()), self.token())

    def missing(self) -> str | None:
        return self.compare(self.execute("GET", f"{self.name}:missing"), None)

    def mapping(self) -> str | None:
        expected = [b"name", self.name.encode(), b"number", str(self.number).encode()]
        pairs = dict(zip(expected[::2], expected[1::2], strict=True))
        return self.compare(self.execute("HGETALL", f"{self.name}:hash"), pairs if self.protocol == 3 else expected)

    def number_of(self) -> str | None:
        score = self.number + 0.5
        expected = score if self.protocol == 3 else str(score).encode()
        return self.compare(self.execute("ZSCORE", f"{self.name}:zset", "member"), expected)

    def listing(self) -> str | None:
        expected = [self.name.encode(), b"", str(self.number).encode()]
        return self.compare(self.execute("LRANGE", f"{self.name}:list", 0, -1), expected)

    def nested(self) -> str | None:
        first, second = self.token(), self.token()[::-1]
        reply = self.execute("EVAL", NESTED, 1, f"{self.name}:value", first, second)
        return self.compare(reply, [first, [7, second], None])

    def failing(self) -> str | None:
        try:
            reply = self.execute("EVAL", FAILING, 1, f"{self.name}:value", self.token())
        except ReplyError as error:
            return self.compare(error.message, f"STORM {self.token().decode()}")
        return f"{self.name}: {reply!r} instead of an error"

    def false(self) -> str | None:
        return self.compare(self.execute("EVAL", FALSE, 1, self.name), False if self.protocol == 3 else 0)

    def read_big(self) -> str | None:
        reply = self.execute("GET", f"{self.name}:big")
        return None if reply == self.big else f"{self.name}: {reply!r:.60} instead of its {len(self.big)} bytes"

    def compare(self, reply: Any, expected: Any) -> str | None:
        if reply == expected and type(reply) is type(expected):
            return None
        return f"{self.name}: {reply!r:.200} instead of {expected!r:.200}"


class Storm:
    """The callers, each in a greenlet that has a successor when it is killed, and those who kill them."""

    def __init__(self, cluster: Cluster, rng: random.Random, protocol: int, share: int) -> None:
        self.callers = [Caller(cluster, number, rng, protocol) for number in range(CALLERS)]
        self.begun = self.answered = self.killed = self.timed_out = 0
        self.wrong: list[str] = []
        self._goals = COMMANDS // share, KILLS // share, TIMEOUTS // share
        self._rng = rng
        self._deadline = monotonic() + LIMIT
        self._took = 0.0
        self._running: dict[Caller, gevent.Greenlet] = {}

    def __repr__(self) -> str:
        return (
            f"<Storm {self.answered} answered of {self.begun}, {self.killed} killed, {self.timed_out} timed out,"
            f" {len(self.wrong)} wrong, {self._took:.1f} s>"
        )

    def prepare(self) -> None:
        gevent.joinall([gevent.spawn(caller.prepare) for caller in self.callers], raise_error=True)

    def run(self) -> None:
        began = monotonic()
        for caller in self.callers:
            self._spawn(caller)
        while not self._is_over():
            # Between two turns of the hub; those that the callers do come in the middle of its reading.
            gevent.sleep(self._rng.uniform(0.001, 0.007))
            self._kill_one()
        while self._running:
            gevent.joinall(list(self._running.values()))
        self._took = monotonic() - began

    def _is_over(self) -> bool:
        commands, kills, timeouts = self._goals
        enough = self.answered >= commands and self.killed >= kills and self.timed_out >= timeouts
        return enough or bool(self.wrong) or monotonic() > self._deadline

    def _kill_one(self) -> None:
        if self.killed < self._goals[1] and self._running:
            self._rng.choice(list(self._running.values())).kill(block=False)

    def _spawn(self, caller: Caller) -> None:
        greenlet = self._running[caller] = gevent.spawn(self._live, caller)
        greenlet.link(lambda ended: self._on_end(caller, ended))

    def _on_end(self, caller: Caller, ended: gevent.Greenlet) -> None:
        if ended.exception is not None:
            self.wrong.append(f"{caller.name}: {ended.exception!r}")
        if isinstance(ended.value, gevent.GreenletExit):
            self.killed += 1
            if not self._is_over():
                return self._spawn(caller)
        del self._running[caller]

    def _live(self, caller: Caller) -> None:
        random_number = self._rng.random
        while not self._is_over():
            self.begun += 1
            if self.timed_out < self._goals[2] and random_number() < 0.03:
                problem = self._hurried(caller)
            else:
                problem = caller.step()
            self.answered += 1
            if problem is not None:
                self.wrong.append(problem)
            if random_number() < 0.006:
                self._kill_one()

    def _hurried(self, caller: Caller) -> str | None:
        # With 200 callers a reply takes some 5 ms: half of these are too short. libuv knows no parts of a millisecond.
        timer = gevent.Timeout.start_new(self._rng.choice((0, *[self._rng.uniform(0.001, 0.01)] * 9)))
        try:
            return caller.step()
        except gevent.Timeout as fired:
            if fired is not timer:
                raise
            self.timed_out += 1
            self.answered -= 1
            return None
        finally:
            timer.close()


def connections_of(cluster: LocalCluster) -> dict[gvcluster.Address, list[str]]:
    """What each node itself says of our connections: their ids, which are never used twice."""
    told = {node.address: node.command("CLIENT", "LIST").decode().splitlines() for node in cluster.nodes}
    return {address: [line.split()[0] for line in lines if f" name={NAME} " in line] for address, lines in told.items()}
