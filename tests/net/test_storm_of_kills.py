"""Twenty thousand commands, three hundred kills and three hundred Timeouts at random moments, and a few collections."""

import gc
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent

from gvcluster import Cluster
from gvcluster.testing.answers import NOT_HANDLED, Pieces
from gvcluster.testing.fake import FakeCluster

COMMANDS, KILLS, TIMEOUTS, GREENLETS = 20_000, 300, 300, 60


class Storm:
    """Greenlets that execute commands, and one that lets none of them be."""

    def __init__(self, fake: FakeCluster, connect_to: Callable[..., Cluster], seed: int) -> None:
        self.rng, self.fake = random.Random(seed), fake
        for node in fake.nodes:
            node.override = self._answer
        self.cluster = connect_to(fake, client_info=False, rng=random.Random(seed), command_timeout=30, timeout=30)
        self.executed: Counter[bytes] = Counter()
        self.done = self.kills = self.timeouts = self.numbered = 0
        self.wrong: list[str] = []
        self.workers: list[gevent.Greenlet] = []

    def _answer(self, node: Any, _connection: object, args: list[bytes]) -> Any:
        if args[0] not in (b"GET", b"INCR"):
            return NOT_HANDLED
        self.executed[args[1]] += 1
        node.received.clear()
        reply = b"$%d\r\n%b\r\n" % (len(args[1]), args[1])
        return Pieces(reply, 9) if self.rng.random() < 0.05 else reply

    def _is_raging(self) -> bool:
        return self.done < COMMANDS or self.kills < KILLS or self.timeouts < TIMEOUTS

    def _work(self) -> None:
        while self._is_raging():
            self.numbered += 1
            key = f"key-{self.numbered}"
            own_timer = {"command_timeout": 20.0} if self.numbered % 7 == 0 else {}
            patience = (
                0.001 + self.rng.random() * 0.004 if self.timeouts < TIMEOUTS and self.numbered % 8 == 0 else None
            )
            with gevent.Timeout(patience, False) as timeout:
                reply = self.cluster.execute("INCR" if self.numbered % 2 else "GET", key, **own_timer)
                if reply != key.encode():
                    self.wrong.append(f"{key} got {reply!r}")
                self.done += 1
                continue
            self.timeouts += timeout is not None

    def _kill(self) -> None:
        """Kill a worker at some moment, and put another in its place."""
        while self.kills < KILLS:
            gevent.sleep(0.001 + self.rng.random() * 0.003)  # libuv counts in milliseconds
            place = self.rng.randrange(GREENLETS)
            self.workers[place].kill(block=self.rng.random() < 0.5)
            self.workers[place] = gevent.spawn(self._work)
            self.kills += 1
            if self.kills % 10 == 0:
                gc.collect()

    def rage(self) -> None:
        """Until all commands are done, and all kills."""
        self.workers = [gevent.spawn(self._work) for _ in range(GREENLETS)]
        killer = gevent.spawn(self._kill)
        killer.join()
        while any(not worker.dead for worker in self.workers):
            gevent.joinall(self.workers)


def test_in_a_storm_of_kills_and_timeouts_no_reply_is_wrong_and_no_connection_is_lost(connect_to):
    seed = int.from_bytes(os.urandom(4))
    with FakeCluster(3) as fake:
        storm = Storm(fake, connect_to, seed)
        storm.rage()
        print(f"seed {seed}: {storm.done} commands, {storm.kills} kills, {storm.timeouts} timeouts")
        assert storm.wrong == []
        assert storm.done >= COMMANDS
        assert storm.kills == KILLS
        assert storm.timeouts >= TIMEOUTS
        assert [node.connections.accepted for node in fake.nodes] == [1, 1, 1]
        assert max(storm.executed.values()) == 1
        for node in storm.cluster.primaries():
            assert storm.cluster.execute("PING", node=node) == b"PONG"
        assert [node.in_flight for node in storm.cluster.statistics().nodes] == [0, 0, 0]
