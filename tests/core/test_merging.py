"""Who is asked by a command for many nodes, and what becomes of the answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.command_spec import Command
from gvcluster.core.commands import COMMANDS
from gvcluster.core.merging import asks_several, merge, nodes_to_ask
from gvcluster.core.topology import parse_slots
from gvcluster.errors import ConnectionLost, PartialFailure, ProtocolError, ReplyError

A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))
FOR_MANY = [command for command in COMMANDS if asks_several(command)]
DRAWS = st.floats(0, 1, exclude_max=True)
COUNTS = st.lists(st.integers(0, 2**40), min_size=1, max_size=9)


def command(name: str = "X", *, policy: str | None) -> Command:
    return Command(name, 1, request_policy="all_shards", response_policy=policy)


def by_node(values: list[object]) -> dict[Address, object]:
    return {Address("10.0.0.1", n + 1): value for n, value in enumerate(values)}


def merged(policy: str | None, values: list[object], *, name: str = "X", draw: float = 0.0) -> object:
    return merge(command(name, policy=policy), by_node(values), draw)


def test_each_command_of_the_table_for_many_nodes_has_a_merge_that_is_meant_for_it():
    known = {None, "special", "one_succeeded", "all_succeeded", "agg_sum", "agg_min", "agg_logical_and"}
    assert {each.response_policy for each in FOR_MANY} == known
    assert len(FOR_MANY) >= 44
    specials = {each.name for each in FOR_MANY if each.response_policy == "special"}
    assert specials >= {"INFO", "FUNCTION STATS", "LATENCY LATEST", "MEMORY STATS", "RANDOMKEY"}
    lists = {each.name for each in FOR_MANY if each.response_policy is None}
    assert lists == {"KEYS", "SLOWLOG GET", "COMMANDLOG GET", "CLUSTER SLOT-STATS"}


@pytest.mark.parametrize("each", FOR_MANY, ids=lambda each: each.name)
def test_the_replies_of_two_nodes_become_one_of_the_same_kind(each):
    kinds = {None: [b"a"], "special": b"text", "agg_sum": 2, "agg_min": 2, "agg_logical_and": [1, 0]}
    reply = kinds.get(each.response_policy, b"OK")
    got = merge(each, {A: reply, B: reply}, 0.5)
    if each.response_policy == "special" and each.name != "RANDOMKEY":
        assert got == {A: reply, B: reply}
    else:
        assert type(got) is type(reply)


@given(COUNTS)
def test_numbers_are_taken_together(counts):
    assert merged("agg_sum", counts) == sum(counts)
    assert merged("agg_min", counts) == min(counts)
    assert merged("agg_max", counts) == max(counts)


@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=9))
def test_lists_of_numbers_are_taken_together_place_by_place(rows):
    places = list(zip(*rows, strict=True))
    assert merged("agg_logical_and", rows) == [int(all(place)) for place in places]
    assert merged("agg_logical_or", rows) == [int(any(place)) for place in places]
    assert merged("agg_sum", rows) == [sum(place) for place in places]


@given(st.lists(st.lists(st.binary()), min_size=1))
def test_without_a_policy_lists_are_joined_and_nothing_is_lost(rows):
    assert merged(None, rows) == [item for row in rows for item in row]


@given(st.lists(st.none() | st.binary(max_size=3), min_size=1), DRAWS)
def test_a_random_key_is_one_of_the_keys_and_nil_only_if_there_is_none(keys, draw):
    got = merged("special", keys, name="RANDOMKEY", draw=draw)
    assert got in [key for key in keys if key is not None] or (got is None and set(keys) == {None})


def test_every_node_with_keys_can_win():
    draws = [n / 10 for n in range(10)]
    keys = [b"a", None, b"b"]
    assert {merged("special", keys, name="RANDOMKEY", draw=draw) for draw in draws} == {b"a", b"b"}


def test_one_success_is_enough_where_the_policy_says_so():
    replies = [ReplyError("NOTBUSY no script"), b"OK", ConnectionLost("gone")]
    assert merged("one_succeeded", replies) == b"OK"
    assert merged("special", [ConnectionLost("gone"), b"k"], name="RANDOMKEY") == b"k"


def test_what_failed_at_some_nodes_is_told_by_node():
    lost = ConnectionLost("gone", maybe_executed=True)
    with pytest.raises(PartialFailure, match=r"X failed at 1 of 3 nodes; the first, 10\.0\.0\.1:2: gone") as caught:
        merged("all_succeeded", [b"OK", lost, b"OK"])
    assert caught.value.results == {A: b"OK", B: lost, C: b"OK"}
    assert caught.value.maybe_executed
    assert caught.value.__cause__ is lost


def test_a_command_that_has_run_at_one_node_has_run():
    with pytest.raises(PartialFailure) as caught:
        merged("agg_sum", [1, ReplyError("LOADING")])
    assert caught.value.maybe_executed
    with pytest.raises(PartialFailure) as caught:
        merged("agg_sum", [ReplyError("NOPERM"), ReplyError("LOADING")])
    assert not caught.value.maybe_executed


def test_what_all_nodes_refuse_alike_is_one_error():
    with pytest.raises(ReplyError, match="ERR bad") as caught:
        merged("all_succeeded", [ReplyError("ERR bad argument"), ReplyError("ERR bad argument")])
    assert not caught.value.maybe_executed
    with pytest.raises(ConnectionLost):
        merged("all_succeeded", [ConnectionLost("the only node")])
    with pytest.raises(PartialFailure):
        merged("all_succeeded", [ConnectionLost("one"), ConnectionLost("another")])


@pytest.mark.parametrize(
    ("policy", "values"),
    [("agg_sum", [1, b"2"]), ("agg_sum", [[1], 2]), ("agg_min", [[1], [1, 2]])],
)
def test_replies_that_do_not_go_together_are_said_to_be_wrong(policy, values):
    with pytest.raises(ProtocolError, match="can not be taken together") as caught:
        merged(policy, values)
    assert caught.value.maybe_executed


def test_an_unknown_policy_gives_each_nodes_own_reply_and_so_do_replies_that_can_not_be_joined():
    assert merged("agg_magic", [1, 2]) == {A: 1, B: 2}
    assert merged(None, [[b"a"], b"b"]) == {A: [b"a"], B: b"b"}


def test_shards_are_their_primaries_and_nodes_are_all():
    def told(port: int) -> list[object]:
        return [b"10.0.0.1", port, b"%040d" % port, []]

    topology = parse_slots([[0, 99, told(1), told(2)], [100, 16383, told(3)]], A)
    asked = [nodes_to_ask(COMMANDS.named(name), topology) for name in ("DBSIZE", "CONFIG SET", "GET", "DEL", "SCAN")]
    assert [[node.address for node in nodes] for nodes in asked] == [[A, C], [A, C, B], [], [], []]
    assert topology.first_slots() == {A: 0, C: 100}
