"""Slot maps by their spans: what is compared, served and told without going through all slots."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.topology import Node, Topology, parse_nodes, parse_slots
from gvcluster.core.views import Memory, View, judge

PORTS = (7001, 7002, 7003)


def map_of(*ranges: tuple[int, int, int]) -> Topology:
    """A map from (first, last, port)."""
    told = [[first, last, ["h", port, f"{port:040}"]] for first, last, port in ranges]
    return parse_slots(told, Address("h", PORTS[0]))


def spans_in(owners: Sequence[Node | None]) -> list[tuple[int, Node | None]]:
    """Slot by slot."""
    return [(slot, owners[slot]) for slot in range(16384) if not slot or owners[slot] is not owners[slot - 1]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_spans_and_what_is_spread_over_them_say_what_the_slots_say(kinds: list[int], random: Random) -> None:
    choices = [None, *(Node(f"{port:040}", Address("h", port), "primary", f"{port:040}") for port in PORTS)]
    owners: list[Node | None] = []
    for kind, end in zip(kinds, [*sorted(random.sample(range(1, 16384), len(kinds) - 1)), 16384], strict=True):
        owners += [choices[kind]] * (end - len(owners))
    topology = Topology(tuple(filter(None, choices)), tuple(owners))
    assert list(topology.spans()) == spans_in(owners)
    ports = {id(node): node.address.port for node in topology.nodes}
    assert topology.spread(ports) == [owner and owner.address.port for owner in owners]
    backwards = topology.with_owners(owners[::-1], [1] * 16384)
    assert list(backwards.spans()) == spans_in(owners[::-1])
    moved = {(before, after) for before, after in zip(owners, owners[::-1], strict=True) if before is not after}
    assert set(topology.moves_to(backwards)) == moved
    assert topology.same_routes(backwards) == (not moved)


class Watched(tuple[Any, ...]):
    """Owners that count how many of them are looked at."""

    looked_at = 0

    def __getitem__(self, index: Any) -> Any:
        self.looked_at += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self.looked_at += len(self)
        return super().__iter__()


def test_nobody_goes_through_all_slots_to_judge_a_map_or_to_serve_by_it() -> None:
    def watched(*ranges: tuple[int, int, int]) -> Topology:
        topology = map_of(*ranges)
        topology = Topology(topology.nodes, Watched(topology.owners), starts=topology.starts)
        topology.owners.looked_at = 0  # type: ignore[attr-defined]
        return topology

    known, same = (watched((0, 8191, 7001), (8192, 16383, 7002)) for _ in range(2))
    other = watched((0, 99, 7002), (100, 8191, 7001), (8192, 16383, 7002))
    asked = Address("h", 7001)
    assert judge(known, View(same, asked, 1.0), Memory()).topology is known, "no news"
    assert judge(known, View(other, asked, 1.0), Memory()).topology is other
    assert other.spread({id(node): node for node in other.nodes})[99:101] == [*other.nodes]
    assert other.first_slots() == {Address("h", 7002): 0, Address("h", 7001): 100}
    for each in (known, same, other):
        assert 0 < each.owners.looked_at < 100  # type: ignore[attr-defined]


def test_a_map_of_which_nothing_is_left_but_what_is_known_is_the_known_map() -> None:
    def by_epochs(first: int, second: int) -> Topology:
        lines = ((7001, first, "0-99"), (7002, second, "100-16383"))
        text = "".join(
            f"{port:040} h:{port}@1 master - 0 0 {epoch} connected {slots}\n" for port, epoch, slots in lines
        )
        return parse_nodes(text, Address("h", 7001))

    known, stale = by_epochs(5, 5), by_epochs(1, 1)
    swapped = stale.with_owners([stale.owners[16383]] * 100 + [stale.owners[0]] * 16284, [1] * 16384)
    assert not swapped.same_routes(known)
    assert judge(known, View(swapped, Address("h", 7001), 1.0), Memory()).topology is known
