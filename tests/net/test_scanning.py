"""A scan of a small world in which anything may happen between any two questions: no key may be missed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.coverage import Coverage
from gvcluster.core.looks import Look
from gvcluster.core.scan_cursor import Place, read_cursor, write_cursor
from gvcluster.core.slots import hash_slot
from gvcluster.core.topology import Topology, parse_slots
from gvcluster.errors import ConfigError, ConnectionLost, Redirected, ReplyError, SlotNotCovered, TopologyUnavailable
from gvcluster.net.scanning import Scanning
from gvcluster.scan import ScanIterator

ALL = frozenset(range(16384))
SLOTS = range(100, 104)
TAGS = {hash_slot(tag): tag for tag in (b"%d" % number for number in range(200_000)) if hash_slot(tag) in SLOTS}
KEYS = tuple(b"{%b}%d" % (TAGS[slot], number) for slot in SLOTS for number in range(3))


@dataclass
class Server:
    id: str
    address: Address
    epoch: int
    run: int
    owned: set[int] = field(default_factory=set)
    leaving: dict[int, str] = field(default_factory=dict)
    arriving: dict[int, str] = field(default_factory=dict)
    keys: set[bytes] = field(default_factory=set)

    def order(self) -> list[bytes]:
        """Another process has another seed, and so another order of its keys."""
        return random.Random(f"{self.id} {self.run}").sample(KEYS, len(KEYS))


class World:
    """Three primaries, what they hold, and an orchestrator that does what it is told, in the right order."""

    timeout = 1000.0

    def __init__(self, choose: Any, events: int = 40) -> None:
        """`choose(n)` is a number below n."""
        self.choose, self.events = choose, events
        self.log: list[str] = []
        self.servers = [Server(f"{n:040d}", Address("h", n + 1), n + 1, n) for n in range(3)]
        self.has_clusterscan = False
        for n, slot in zip((0, 0, 1, 2), SLOTS, strict=True):
            self.servers[n].owned.add(slot)
            self.servers[n].keys.update(key for key in KEYS if hash_slot(key) == slot)
        self.births = 3
        self.cancelled: set[tuple[int, str, str]] = set()
        self.map = self._map()

    # -- what the scan asks -------------------------------------------------------------------------------------------

    def topology(self) -> Topology:
        return self.map

    def look(self, address: Address) -> Look:
        self._live()
        server = self._at(address)
        others = [(slot, slot, other.id) for other in self.servers if other is not server for slot in other.owned]
        return Look(
            id=server.id,
            run=str(server.run),
            epoch=server.epoch,
            is_primary=True,
            owned=frozenset(server.owned),
            leaving=dict(server.leaving),
            arriving=dict(server.arriving),
            others=tuple(others),
            addresses={other.id: other.address for other in self.servers},
        )

    def fetch(self, address: Address, command: tuple[Any, ...]) -> tuple[bytes, list[bytes]]:
        self._live()
        if command[0] == "CLUSTERSCAN":
            return self._cluster_scan(self._at(address), command[1])
        server, first = self._at(address), int(command[1])
        last = first + 1 + self.choose(3)
        found = [key for key in server.order()[first:last] if key in server.keys]
        return (b"0" if last >= len(KEYS) else b"%d" % last), found

    def first_cursor(self, slot: int) -> bytes | None:
        self._live()
        return b"0-{%b}-0" % TAGS[slot] if self.has_clusterscan else None

    def _cluster_scan(self, server: Server, cursor: bytes) -> tuple[bytes, list[bytes]]:
        """As Valkey 9.1 does it: its slots without a gap; the keys of a slot that are here; no place in other runs."""
        slot, (run, _, first) = hash_slot(cursor), cursor.split(b"-")
        if slot not in server.owned or slot in server.leaving:
            raise Redirected(f"{'ASK' if slot in server.owned else 'MOVED'} {slot} h:1")
        begin = int(first) if run == b"%d" % server.run else 0
        last = begin + 1 + self.choose(6)
        found = [key for key in server.order()[begin:last] if key in server.keys and hash_slot(key) == slot]
        if last < len(KEYS):
            return b"%d-{%b}-%d" % (server.run, TAGS[slot], last), found
        if slot + 1 not in SLOTS:
            return b"0", found
        return b"%d-{%b}-0" % (server.run if slot + 1 in server.owned else 0, TAGS[slot + 1]), found

    def translated(self, address: Address) -> Address:
        return address

    def wait_for_news(self, failures: int) -> None:
        self._live()
        self.map = self._map()

    # -- what happens -------------------------------------------------------------------------------------------------

    def _at(self, address: Address) -> Server:
        for server in self.servers:
            if server.address == address:
                return server
        raise ConnectionLost("gone", address=address)

    def _map(self) -> Topology:
        told: dict[int, Server] = {}
        for server in sorted(self.servers, key=lambda server: server.epoch):
            told.update(dict.fromkeys(server.owned, server))
        ranges = [
            [slot, slot, [s.address.host.encode(), s.address.port, s.id.encode(), []]] for slot, s in told.items()
        ]
        return parse_slots(ranges, Address("h", 1))

    def _live(self) -> None:
        while self.events and self.choose(2):
            self.events -= 1
            happenings = [self._begin, self._move, self._move, self._move, self._finish, self._tell_source]
            happenings += [self._atomic, self._turn_back, self._fail_over, self._restart, self._tell_clients]
            happening = happenings[self.choose(len(happenings))]
            slot, target = SLOTS[self.choose(len(SLOTS))], self.servers[self.choose(3)]
            source = next(s for s in sorted(self.servers, key=lambda s: -s.epoch) if slot in s.owned)
            happening(slot, source, target)

    def _by_id(self, id_: str) -> Server:
        return next(server for server in self.servers if server.id == id_)

    def _is_open(self, slot: int) -> bool:
        claims = sum(slot in server.owned for server in self.servers)
        return claims > 1 or any(slot in server.leaving or slot in server.arriving for server in self.servers)

    def _raise_epoch(self, server: Server) -> None:
        highest = max(each.epoch for each in self.servers)
        if server.epoch != highest:
            server.epoch = highest + 1

    def _begin(self, slot: int, source: Server, target: Server) -> None:
        if target is source or self._is_open(slot) or (slot, source.id, target.id) in self.cancelled:
            return
        target.arriving[slot] = source.id
        source.leaving[slot] = target.id
        self.log.append(f"{slot} begins {source.run}->{target.run}")

    def _move(self, slot: int, source: Server, target: Server) -> None:
        if slot in source.leaving:
            for key in sorted(source.keys):
                if hash_slot(key) == slot:
                    source.keys.discard(key)
                    self._by_id(source.leaving[slot]).keys.add(key)
                    return

    def _finish(self, slot: int, source: Server, target: Server) -> None:
        """Tell the target, when no key is left at the source."""
        if slot in source.leaving and not any(hash_slot(key) == slot for key in source.keys):
            target = self._by_id(source.leaving[slot])
            target.arriving.pop(slot, None)
            target.owned.add(slot)
            self._raise_epoch(target)
            self.log.append(f"{slot} is {target.run}'s")

    def _tell_source(self, slot: int, source: Server, target: Server) -> None:
        for server in self.servers:
            to = server.leaving.get(slot)
            if to is not None and slot in self._by_id(to).owned:
                del server.leaving[slot]
                server.owned.discard(slot)
                self.log.append(f"{server.run} knows of {slot}")

    def _atomic(self, slot: int, source: Server, target: Server) -> None:
        if target is source or self._is_open(slot):
            return
        moved = {key for key in source.keys if hash_slot(key) == slot}
        source.keys -= moved
        target.keys |= moved
        source.owned.discard(slot)
        target.owned.add(slot)
        self._raise_epoch(target)
        self.log.append(f"{slot} jumps {source.run}->{target.run}")

    def _turn_back(self, slot: int, source: Server, target: Server) -> None:
        """Take a migration back, as `redis-cli --cluster fix` may; it is not begun again."""
        to = source.leaving.get(slot)
        if to is None or slot in self._by_id(to).owned:
            return
        there = self._by_id(to)
        moved = {key for key in there.keys if hash_slot(key) == slot}
        there.keys -= moved
        source.keys |= moved
        del source.leaving[slot], there.arriving[slot]
        self.cancelled.add((slot, source.id, there.id))
        self.log.append(f"{slot} stays {source.run}'s")

    def _fail_over(self, slot: int, source: Server, target: Server) -> None:
        if any(self._is_open(each) for each in SLOTS):
            return
        self.births += 1
        place = self.servers.index(target)
        highest = max(each.epoch for each in self.servers)
        name, address = f"{self.births:040d}", Address("h", self.births + 1)
        self.servers[place] = Server(name, address, highest + 1, self.births, target.owned, {}, {}, target.keys)
        self.log.append(f"{target.run} is now {self.births}")

    def _restart(self, slot: int, source: Server, target: Server) -> None:
        self.births += 1
        self.log.append(f"{target.run} begins anew as {self.births}")
        target.run = self.births

    def _tell_clients(self, slot: int, source: Server, target: Server) -> None:
        self.map = self._map()


def scan_all(world: World, *, stores: int = 0) -> list[bytes]:
    """All that a scan returns; so many times it is begun anew from its cursor."""
    coverage = Coverage(ALL.difference(SLOTS))
    scan = Scanning(world, (), coverage, None)
    found: list[bytes] = []
    while not scan.coverage.is_whole:
        try:
            scan.go_on()
        except TopologyUnavailable:
            continue
        found += scan.keys
        scan.keys.clear()
        if stores and not world.choose(9):
            stores -= 1
            done, place = read_cursor(write_cursor(scan.coverage.done, scan.place, b""), b"")
            scan = Scanning(world, (), Coverage(done), place)
    return found


def finish(scan: Scanning) -> None:
    while not scan.coverage.is_whole:
        scan.go_on()


def random_world(seed: int, events: int) -> World:
    return World(random.Random(seed).randrange, events)


def test_in_a_quiet_world_each_key_comes_once():
    world = World(lambda n: 0, 0)
    assert sorted(scan_all(world)) == sorted(KEYS)
    world.has_clusterscan = True
    assert sorted(scan_all(world)) == sorted(KEYS)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**16)), st.integers(0, 2), st.booleans())
def test_no_key_is_missed_whatever_happens_in_between(choices, stores, has_clusterscan):
    chosen = iter(choices)
    world = World(lambda n: next(chosen, 0) % n, 25)
    world.has_clusterscan = has_clusterscan
    assert set(scan_all(world, stores=stores)) == set(KEYS), world.log


@pytest.mark.parametrize("events", [5, 40])
def test_no_key_is_missed_in_many_worlds(events):
    for seed in range(30):
        world = random_world(seed, events)
        world.has_clusterscan = seed % 2 == 1
        assert set(scan_all(world, stores=seed % 3)) == set(KEYS), (seed, world.log)


def test_one_naive_way_does_miss_keys_there():
    """The worlds are wild enough: SCAN of one node after the other, as most clients do it, fails in them."""

    def naive(world: World) -> set[bytes]:
        found: set[bytes] = set()
        for address in [node.address for node in world.topology().primaries]:
            cursor = b"0"
            while True:
                try:
                    cursor, keys = world.fetch(address, ("SCAN", cursor))
                except ConnectionLost:
                    break
                found.update(keys)
                if cursor == b"0":
                    break
        return found

    assert sum(naive(random_world(seed, 40)) != set(KEYS) for seed in range(100)) > 20


def test_a_slot_that_nobody_has_is_told_after_all_other_keys():
    world = World(lambda n: 0, 0)
    world.timeout = 0.0
    lost = SLOTS[0]
    world.servers[0].owned.discard(lost)
    world.map = world._map()
    scan = Scanning(world, (), Coverage(ALL.difference(SLOTS)), None)
    with pytest.raises(SlotNotCovered) as caught:
        finish(scan)
    assert caught.value.slot == lost
    assert set(scan.keys) == {key for key in KEYS if hash_slot(key) != lost}
    world.servers[1].owned.add(lost)
    world.servers[1].keys |= world.servers[0].keys
    world.map = world._map()
    finish(scan)
    assert set(scan.keys) == set(KEYS)


def test_what_will_not_pass_is_told_at_once():
    world = World(lambda n: 0, 0)

    def refuse(address: Address) -> Look:
        raise ReplyError("NOPERM this user may not")

    world.look = refuse  # type: ignore[method-assign]
    with pytest.raises(ReplyError, match="NOPERM"):
        Scanning(world, (), Coverage(), None).go_on()


def test_a_node_that_answers_all_but_scan_is_told():
    world = World(lambda n: 0, 0)
    world.timeout = 0.05
    asked = iter(range(200))

    def lost(address: Address, command: tuple[Any, ...]) -> Any:
        assert next(asked, None) is not None, "asked for ever"
        gevent.sleep(0.002)
        raise ConnectionLost("lost again", address=address)

    world.fetch = lost  # type: ignore[method-assign]
    with pytest.raises(ConnectionLost, match="lost again"):
        finish(Scanning(world, (), Coverage(ALL.difference(SLOTS)), None))


def test_who_was_busy_with_a_key_for_longer_than_the_timeout_is_told_of_no_failure():
    world = World(lambda n: 0, 0)
    keys = ScanIterator(world, (), 10, None)
    fetch, losses = world.fetch, iter([True])
    found = [next(keys)]
    keys._scan._good -= 2 * world.timeout

    def lost_once(address: Address, command: tuple[Any, ...]) -> tuple[bytes, list[bytes]]:
        if next(losses, False):
            raise ConnectionLost("once", address=address)
        return fetch(address, command)

    world.fetch = lost_once  # type: ignore[method-assign]
    found.append(next(keys))
    assert set(found) < set(KEYS)


def test_where_only_some_servers_know_clusterscan_all_are_scanned():
    world = World(lambda n: 0, 0)
    world.has_clusterscan = True
    fetch, older = world.fetch, world.servers[1].address

    def fetch_as_version_9(address: Address, command: tuple[Any, ...]) -> tuple[bytes, list[bytes]]:
        if address == older and command[0] == "CLUSTERSCAN":
            raise ReplyError("ERR unknown command 'CLUSTERSCAN'")
        return fetch(address, command)

    world.fetch = fetch_as_version_9  # type: ignore[method-assign]
    assert sorted(scan_all(world)) == sorted(KEYS)


def test_a_cluster_that_never_rests_is_told_and_the_scan_goes_on_when_it_does():
    world = World(lambda n: 0, 0)
    whirl = iter(range(10**6))

    class Whirl(World):
        def _live(self) -> None:
            for server in self.servers:
                server.run = 1000 + next(whirl)

    world.__class__ = Whirl
    scan = Scanning(world, (), Coverage(ALL.difference(SLOTS)), None)
    with pytest.raises(TopologyUnavailable, match="4 slots change hands faster than they can be scanned"):
        finish(scan)
    world.__class__ = World
    finish(scan)
    assert set(scan.keys) == set(KEYS)


class Interrupted:
    """Keys of which the second one can not be had: a signal handler raises there."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[bytes]:
        yield self.keys[0]
        raise KeyboardInterrupt


def test_what_a_signal_handler_interrupts_is_fetched_again():
    world = World(lambda n: 2 if n == 3 else 0, 0)
    fetch, strikes = world.fetch, iter([True])

    def struck(address: Address, command: tuple[Any, ...]) -> tuple[bytes, Any]:
        cursor, keys = fetch(address, command)
        return cursor, Interrupted(keys) if len(keys) > 1 and next(strikes, False) else keys

    world.fetch = struck  # type: ignore[method-assign]
    scan = Scanning(world, (), Coverage(ALL.difference(SLOTS)), None)
    with pytest.raises(KeyboardInterrupt):
        finish(scan)
    finish(scan)
    assert set(scan.keys) == set(KEYS)


def test_a_place_of_a_process_that_has_no_name_is_not_gone_on_from():
    world = World(lambda n: 0, 0)
    server = world.servers[0]
    server.run = ""  # type: ignore[assignment]  # no run_id in INFO: it may have been restarted since
    place = Place(server.id, "", server.epoch, b"5", frozenset(server.owned))
    scan = Scanning(world, (), Coverage(ALL.difference(SLOTS)), place)
    finish(scan)
    assert set(scan.keys) == set(KEYS)


def test_an_iterator_serves_one_greenlet_at_a_time():
    world = World(lambda n: 0, 0)
    keys = ScanIterator(world, (), 10, None)
    look = world.look

    def slow(address: Address) -> Look:
        gevent.sleep(0)
        return look(address)

    world.look = slow  # type: ignore[method-assign]
    first, second = gevent.spawn(next, keys), gevent.spawn(next, keys)
    gevent.joinall([first, second])
    assert first.value in KEYS
    assert isinstance(second.exception, ConfigError)
    assert next(keys) in KEYS
