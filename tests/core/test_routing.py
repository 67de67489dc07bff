"""Who may serve a read, in which order, and who of them does."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.commands import COMMANDS
from gvcluster.core.members import Node
from gvcluster.core.routing import (
    LONGEST_REST,
    SHORTEST_REST,
    ReadPolicy,
    choose,
    may_leave_primary,
    preference,
    read_policy,
    rest,
)
from gvcluster.errors import ConfigError


def node(number: int, role: str = "replica", zone: str | None = None) -> Node:
    return Node(str(number), Address("10.0.0.1", number), role, "1", zone)


P, A, B, C = node(1, "primary", "a"), node(2, zone="a"), node(3, zone="b"), node(4, zone="b")


@pytest.mark.parametrize("name", ["prefer_replica", "replica", "any"])
def test_a_policy_is_its_name(name):
    assert read_policy(name) == ReadPolicy(name)


def test_primary_is_no_policy_for_nothing_is_to_be_chosen():
    assert read_policy("primary") is None


def test_a_zone_may_have_colons_and_blanks():
    assert read_policy("az:eu:west 1") == ReadPolicy("az", "eu:west 1")


@pytest.mark.parametrize("value", ["", "az", "az:", "az:\n", "Primary", "replicas", "zone:a", None, True, b"any", 1])
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigError, match="prefer_replica"):
        read_policy(value)


@pytest.mark.parametrize(
    ("policy", "tiers"),
    [
        ("prefer_replica", ((A, B, C), (P,))),
        ("replica", ((A, B, C),)),
        ("any", ((P, A, B, C),)),
        ("az:a", ((A,), (P,), (B, C))),
        ("az:b", ((B, C), (A,), (P,))),
        ("az:nowhere", ((A, B, C), (P,))),
    ],
)
def test_each_policy_has_its_order(policy, tiers):
    assert preference(read_policy(policy), P, (A, B, C)) == tiers


@pytest.mark.parametrize(
    ("policy", "tiers"), [("prefer_replica", ((P,),)), ("replica", ()), ("any", ((P,),)), ("az:b", ((P,),))]
)
def test_a_shard_without_replicas_has_its_primary_but_not_for_replica(policy, tiers):
    assert preference(read_policy(policy), P, ()) == tiers


def test_where_no_zone_is_told_a_zone_is_prefer_replica():
    primary, replicas = node(1, "primary"), (node(2), node(3))
    assert preference(read_policy("az:a"), primary, replicas) == (replicas, (primary,))


@pytest.mark.parametrize(
    ("name", "may"),
    [
        *(("GET", True), ("MGET", True), ("EXISTS", True), ("EVAL_RO", True), ("FCALL_RO", True), ("ZRANGE", True)),
        *(("SET", False), ("EVAL", False), ("FCALL", False), ("GETEX", False), ("BLPOP", False)),
        # Only reads, but: blocks, touches, or has a cursor that means nothing elsewhere.
        *(("XREAD", False), ("TOUCH", False), ("HSCAN", False), ("SSCAN", False), ("ZSCAN", False), ("SCAN", False)),
    ],
)
def test_what_a_replica_may_serve(name, may):
    assert may_leave_primary(COMMANDS.named(name)) is may


def test_no_command_with_a_cursor_leaves_the_primary():
    assert [each.name for each in COMMANDS if "SCAN" in each.name and may_leave_primary(each)] == []


def test_nothing_that_writes_leaves_the_primary():
    assert all(each.read_only for each in COMMANDS if may_leave_primary(each))


@dataclass
class Candidate:
    address: Address
    failures: int = 0
    late: bool = False
    tier: int = field(default=0, compare=False)

    def is_late(self) -> bool:
        return self.late


def candidates(*told: tuple[int, bool], tier: int = 0) -> list[Candidate]:
    return [Candidate(Address(f"t{tier}", n + 1), failures, late, tier) for n, (failures, late) in enumerate(told)]


def test_those_of_a_tier_have_their_turns():
    tier = candidates((0, False), (0, False), (0, False))
    assert [choose([tier], turn, ()) for turn in range(4)] == [tier[0], tier[1], tier[2], tier[0]]


def test_a_lower_tier_serves_only_where_the_upper_one_does_not():
    upper, lower = candidates((1, False), (0, True)), candidates((0, False), tier=1)
    assert choose([upper, lower], 0, ()) is lower[0]


def test_one_that_is_late_is_better_than_one_that_has_failed():
    tier = candidates((1, False), (0, True))
    assert choose([tier], 0, ()) is tier[1]


def test_the_one_that_has_failed_least_is_tried_when_nobody_is_well():
    upper, lower = candidates((5, False), (3, False)), candidates((1, False), tier=1)
    assert choose([upper, lower], 0, ()) is lower[0]
    assert choose([upper, lower], 0, {lower[0].address}) is upper[1]


def test_nobody_is_left_when_all_are_avoided():
    tier = candidates((0, False), (0, False))
    assert choose([tier], 0, {each.address for each in tier}) is None
    assert choose([], 0, ()) is None


_TIER = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=4)


@given(st.lists(_TIER, max_size=3), st.integers(0, 10**6), st.sets(st.integers(0, 11)))
def test_whoever_is_chosen_is_not_avoided_and_nobody_better_was_left_out(told, turn, avoided_at):
    tiers = [candidates(*each, tier=number) for number, each in enumerate(told)]
    everybody = [each for tier in tiers for each in tier]
    avoided = {each.address for at, each in enumerate(everybody) if at in avoided_at}
    willing = [each for each in everybody if each.address not in avoided]
    chosen = choose(tiers, turn, avoided)
    assert (chosen is None) == (not willing)
    if chosen is None:
        return
    assert chosen in willing
    well = [each for each in willing if not each.failures and not each.late]
    if well:
        assert chosen in well
        assert chosen.tier == min(each.tier for each in well)
    else:
        assert chosen.failures == min(each.failures for each in willing)


def test_rests_become_longer_up_to_a_limit():
    longest = [rest(failures, 1.0) for failures in range(20)]
    assert longest[0] == SHORTEST_REST
    assert longest == sorted(longest)
    assert longest[-1] == LONGEST_REST
    assert rest(0, 0.0) == SHORTEST_REST / 2
