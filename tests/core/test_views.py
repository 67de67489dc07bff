"""Which of two slot maps is believed."""

import random

import pytest

from gvcluster.core.address import Address
from gvcluster.core.topology import Topology, parse_nodes, parse_slots
from gvcluster.core.views import Memory, View, judge

A, B, C = (Address("127.0.0.1", port) for port in (7001, 7002, 7003))
REPLICA = Address("127.0.0.1", 7004)  # of A
OTHER = Address("127.0.0.1", 7005)  # of B


def slots(*ranges: tuple[int, int, Address, Address | None]) -> Topology:
    """A map from (first, last, primary, replica)."""
    reply = []
    for first, last, primary, replica in ranges:
        nodes = [[address.host, address.port, f"{address.port:040}"] for address in (primary, replica) if address]
        reply.append([first, last, *nodes])
    return parse_slots(reply, A)


def nodes(*lines: tuple[Address, str, int, str]) -> Topology:
    """A map with epochs from (address, flags, epoch, ranges)."""
    text = "".join(
        f"{address.port:040} {address}@1{address.port} {flags} - 0 0 {epoch} connected {ranges}\n"
        for address, flags, epoch, ranges in lines
    )
    return parse_nodes(text, A)


BEFORE = slots((0, 8191, A, REPLICA), (8192, 16383, B, None))
AFTER = slots((0, 8191, REPLICA, A), (8192, 16383, B, None))


def test_the_first_map_is_believed_whoever_tells_it() -> None:
    verdict = judge(None, View(BEFORE, C, 1.0), Memory())
    assert verdict.topology is BEFORE
    assert verdict.memory.accepted == 1.0


def test_a_map_that_was_asked_for_before_the_accepted_one_is_refused() -> None:
    verdict = judge(AFTER, View(BEFORE, B, 1.0), Memory(accepted=2.0))
    assert verdict.topology is None
    assert verdict.ask is None


def test_the_same_routes_are_no_news_but_renew_the_time() -> None:
    verdict = judge(BEFORE, View(slots((0, 8191, A, REPLICA), (8192, 16383, B, None)), B, 5.0), Memory(accepted=2.0))
    assert verdict.topology is not None
    assert verdict.memory.accepted == 5.0


def test_a_map_with_fewer_slots_needs_a_second_node_that_says_the_same() -> None:
    smaller = slots((0, 8191, A, REPLICA))
    first = judge(BEFORE, View(smaller, A, 1.0), Memory())
    again = judge(BEFORE, View(smaller, A, 2.0), first.memory)
    second = judge(BEFORE, View(smaller, B, 3.0), again.memory)
    assert first.topology is None
    assert again.topology is None
    assert second.topology is smaller
    assert second.memory.smaller is None


def test_where_there_is_only_one_node_its_word_is_enough() -> None:
    known, smaller = slots((0, 16383, A, None)), slots((0, 8191, A, None))
    assert judge(known, View(smaller, A, 1.0), Memory()).topology is smaller


def test_two_nodes_with_different_smaller_maps_convince_nobody() -> None:
    first = judge(BEFORE, View(slots((0, 8191, A, REPLICA)), A, 1.0), Memory())
    second = judge(BEFORE, View(slots((8192, 16383, B, None)), B, 2.0), first.memory)
    assert second.topology is None


def test_a_node_that_is_behind_does_not_undo_a_promotion() -> None:
    promoted = judge(BEFORE, View(AFTER, REPLICA, 1.0), Memory())
    behind = judge(AFTER, View(BEFORE, B, 2.0), promoted.memory)
    assert promoted.topology is AFTER
    assert dict(promoted.memory.replaced) == {A: REPLICA}
    assert behind.topology is None
    assert behind.ask == A


def test_a_former_primary_is_believed_when_it_says_itself_that_it_is_back() -> None:
    promoted = judge(BEFORE, View(AFTER, REPLICA, 1.0), Memory())
    back = judge(AFTER, View(BEFORE, A, 2.0), promoted.memory)
    assert back.topology is BEFORE
    assert dict(back.memory.replaced) == {REPLICA: A}


def test_former_primaries_of_two_shards_that_are_back_are_believed_when_both_have_said_so() -> None:
    first = slots((0, 8191, A, REPLICA), (8192, 16383, B, OTHER))
    failed_over = slots((0, 8191, REPLICA, A), (8192, 16383, OTHER, B))
    memory = judge(first, View(failed_over, REPLICA, 1.0), Memory()).memory
    assert dict(memory.replaced) == {A: REPLICA, B: OTHER}
    one = judge(failed_over, View(first, A, 2.0), memory)
    assert (one.topology, one.ask) == (None, B)
    behind = judge(failed_over, View(first, REPLICA, 3.0), one.memory)
    assert (behind.topology, behind.ask) == (None, B)
    both = judge(failed_over, View(first, B, 4.0), behind.memory)
    assert both.topology is first
    assert dict(both.memory.replaced) == {REPLICA: A, OTHER: B}
    assert both.memory.returned == frozenset()


def test_what_a_former_primary_has_said_counts_until_it_says_otherwise_or_a_map_is_accepted() -> None:
    first = slots((0, 8191, A, REPLICA), (8192, 16383, B, OTHER))
    failed_over = slots((0, 8191, REPLICA, A), (8192, 16383, OTHER, B))
    memory = judge(first, View(failed_over, REPLICA, 1.0), Memory()).memory
    one = judge(failed_over, View(first, A, 2.0), memory)
    only_b = slots((0, 8191, REPLICA, A), (8192, 16383, B, OTHER))
    not_any_more = judge(failed_over, View(only_b, A, 3.0), one.memory)
    assert (not_any_more.topology, not_any_more.ask) == (None, B)
    assert judge(failed_over, View(first, B, 4.0), not_any_more.memory).ask == A
    still = judge(failed_over, View(failed_over, OTHER, 3.0), one.memory)
    assert judge(failed_over, View(first, B, 4.0), still.memory).ask == A


def test_slots_that_move_between_primaries_are_no_promotion() -> None:
    moved = slots((0, 4095, A, REPLICA), (4096, 16383, B, None))
    there = judge(BEFORE, View(moved, B, 1.0), Memory())
    and_back = judge(moved, View(BEFORE, C, 2.0), there.memory)
    assert dict(there.memory.replaced) == {}
    assert and_back.topology is BEFORE


def test_where_epochs_are_told_the_higher_one_wins_for_each_slot() -> None:
    known = nodes((A, "master", 7, "0-99"), (B, "master", 2, "100-16383"))
    told = nodes((A, "master", 1, "200-16383"), (B, "master", 3, "0-199"))
    verdict = judge(known, View(told, B, 1.0), Memory())
    assert verdict.topology is not None
    owners = verdict.topology.owners
    assert [owners[slot].address for slot in (0, 99, 100, 199)] == [A, A, B, B]  # type: ignore[union-attr]
    assert owners[200].address == B  # type: ignore[union-attr]  # epoch 2 is higher than 1


def test_an_epoch_of_a_node_that_left_counts_for_nothing() -> None:
    known = nodes((A, "master", 9, "0-16383"))
    told = nodes((B, "master", 1, "0-16383"))
    verdict = judge(known, View(told, B, 1.0), Memory())
    assert verdict.topology is told or verdict.topology == told


@pytest.mark.parametrize("seed", range(10))
def test_when_failovers_are_over_the_map_is_accepted_after_a_question_or_two_for_each_shard(seed: int) -> None:
    rng = random.Random(seed)
    # Four shards: the primary, then its replicas.
    shards = [[Address("127.0.0.1", 7000 + 10 * shard + node) for node in range(2)] for shard in range(4)]
    views, known, memory = [], None, Memory()

    def ask(teller: Address, told: Topology) -> Address | None:
        nonlocal known, memory
        verdict = judge(known, View(told, teller, float(len(views))), memory)
        memory, known = verdict.memory, verdict.topology or known
        views.append(told)
        return verdict.ask

    for _ in range(20):
        for shard in rng.sample(shards, rng.randint(0, 3)):
            shard.reverse()
        now = slots(*((4096 * number, 4096 * number + 4095, *shard) for number, shard in enumerate(shards)))
        is_behind = bool(views) and rng.random() < 0.3
        if rng.random() < 0.7:
            ask(rng.choice(rng.choice(shards)), views[-1] if is_behind else now)
    wanted = None
    for _ in range(2 * len(shards)):
        wanted = ask(wanted or rng.choice(rng.choice(shards)), now)
    assert known is not None
    assert known.same_routes(now)
