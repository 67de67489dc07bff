"""Commands with many keys over all slots: split, sent to all nodes at once, merged in order."""

from typing import Any

import gevent
import pytest

from gvcluster import (
    BlockedInHub,
    ClosedError,
    ConfigError,
    ConnectionLost,
    CrossSlot,
    PartialFailure,
    ReplyError,
    hash_slot,
)
from gvcluster.testing.answers import Close


def keys_of(fake, count: int) -> list[str]:
    """So many keys, in turn of each node, no two in one slot."""
    names = [fake.key_at(node, f"p{number}") for number in range(count) for node in fake.nodes]
    assert len({hash_slot(name) for name in names}) == len(names)
    return names[:count]


def data_of(fake) -> dict[bytes, bytes]:
    return {key: value for node in fake.nodes for key, value in node.data.items()}


def test_values_come_in_the_order_of_the_keys_whichever_node_gave_them(fake, cluster):
    keys = keys_of(fake, 9)
    cluster.mset({key: f"of {key}" for key in keys})
    assert data_of(fake) == {key.encode(): f"of {key}".encode() for key in keys}
    asked = [keys[4], "nothing", keys[0], keys[8], keys[4]]
    assert cluster.mget(asked) == [b"of " + keys[4].encode(), None, *(b"of " + keys[n].encode() for n in (0, 8, 4))]


def test_keys_of_one_slot_go_in_one_command_and_a_node_gets_all_of_its_at_once(fake, cluster):
    cluster.connect()
    node, other = fake.nodes[0], fake.nodes[1]
    a, b = fake.key_at(node, "a"), fake.key_at(node, "b")
    tagged = [f"{{{a}}}{n}" for n in range(3)]
    cluster.mget([tagged[0], b, tagged[1], fake.key_at(other), tagged[2]])
    assert node.work() == [[b"MGET", *(key.encode() for key in tagged)], [b"MGET", b.encode()]]
    assert len(other.work()) == 1


@pytest.mark.parametrize(
    ("method", "command"), [("delete", b"DEL"), ("unlink", b"UNLINK"), ("exists", b"EXISTS"), ("touch", b"TOUCH")]
)
def test_counts_are_added_up(fake, cluster, method, command):
    for number, node in enumerate(fake.nodes):
        node.on(command.decode(), b":%d\r\n" % (number + 1))
    keys = [fake.key_at(node) for node in fake.nodes]
    assert getattr(cluster, method)(*keys) == 6
    assert [[args[0] for args in node.work()] for node in fake.nodes] == [[command]] * 3


def test_nothing_is_asked_for_no_keys(fake, cluster):
    assert (cluster.mget([]), cluster.mset({}), cluster.delete(), cluster.exists()) == ([], None, 0, 0)
    assert [node.work() for node in fake.nodes] == [[], [], []]


def test_a_part_that_fails_names_its_keys_and_the_rest_has_its_values(fake, cluster):
    keys = keys_of(fake, 6)
    cluster.mset(dict.fromkeys(keys, "v"))
    fake.nodes[1].on("MGET", b"-WRONGTYPE no\r\n")
    with pytest.raises(PartialFailure, match="MGET failed for 2 of 6 keys; the first: WRONGTYPE") as caught:
        cluster.mget(keys)
    error = caught.value
    assert list(error.keys) == [keys[1], keys[4]]
    assert [one if isinstance(one, bytes) else type(one) for one in error.results] == [b"v", ReplyError, b"v"] * 2
    assert isinstance(error.__cause__, ReplyError)
    assert not error.maybe_executed
    assert keys[1] not in str(error)


def test_a_lost_part_of_a_write_may_have_run(fake, cluster):
    keys = [fake.key_at(node) for node in fake.nodes]
    fake.nodes[2].on("MSET", Close())
    with pytest.raises(PartialFailure) as caught:
        cluster.mset(dict.fromkeys(keys, "v"))
    assert caught.value.maybe_executed
    assert list(caught.value.keys) == [keys[2]]
    assert [type(one) for one in caught.value.results] == [type(None), type(None), ConnectionLost]
    assert len(fake.nodes[2].commands("MSET")) == 1


@pytest.mark.parametrize(("write", "command"), [(True, "MSET"), (False, "MGET")])
def test_parts_of_a_write_that_have_run_are_told_even_if_the_others_have_not(fake, cluster, write, command):
    keys = [fake.key_at(node) for node in fake.nodes]
    fake.nodes[1].on(command, b"-OOM command not allowed\r\n")
    with pytest.raises(PartialFailure) as caught:
        cluster.mset(dict.fromkeys(keys, "v")) if write else cluster.mget(keys)
    assert not caught.value.results[1].maybe_executed
    assert caught.value.maybe_executed is write


def test_a_write_that_has_run_nowhere_is_told(fake, cluster):
    for node in fake.nodes:
        node.on("MSET", b"-OOM command not allowed\r\n")
    with pytest.raises(PartialFailure) as caught:
        cluster.mset({fake.key_at(node): "v" for node in fake.nodes})
    assert not caught.value.maybe_executed


class Name(str):
    """A str and more, as many libraries have them."""


def test_keys_and_values_of_subclasses_are_what_they_are(fake, cluster):
    keys = [Name(fake.key_at(node, "é")) for node in fake.nodes]
    cluster.mset({key: Name("ä") for key in keys})
    assert data_of(fake) == {key.encode(): "ä".encode() for key in keys}
    assert cluster.mget(keys) == ["ä".encode()] * 3


def test_where_all_keys_are_in_one_slot_its_error_is_raised_as_it_is(fake, cluster):
    fake.nodes[0].on("MGET", b"-WRONGTYPE no\r\n")
    key = fake.key_at(fake.nodes[0])
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        cluster.mget([key, f"{{{key}}}2"])


@pytest.mark.parametrize("answer", [b"*1\r\n$1\r\nv\r\n", b"+OK\r\n", b":2\r\n"])
def test_a_reply_that_does_not_fit_is_an_error_and_not_a_value_of_another_key(fake, cluster, answer):
    keys = [fake.key_at(fake.nodes[0]), fake.key_at(fake.nodes[1])]
    fake.nodes[0].on("MGET", answer)
    with pytest.raises(PartialFailure, match="does not fit the command") as caught:
        cluster.mget([keys[0], f"{{{keys[0]}}}2", keys[1]])
    assert caught.value.results[2] is None
    assert len(caught.value.keys) == 2


def test_moved_keys_are_followed(fake, cluster):
    keys = keys_of(fake, 6)
    cluster.mset(dict.fromkeys(keys, "v"))
    fake.move_slot(hash_slot(keys[0]), fake.nodes[1])
    assert cluster.mget(keys) == [b"v"] * 6
    assert cluster.statistics().redirects == 1


@pytest.mark.parametrize("option", ["client", "call"])
def test_keys_of_several_slots_are_refused_if_one_says_so(fake, make, option):
    cluster = make(**({"cross_slot": "error"} if option == "client" else {}))
    options: dict[str, Any] = {} if option == "client" else {"cross_slot": "error"}
    keys = [fake.key_at(node) for node in fake.nodes]
    cluster.connect()
    for call in (lambda: cluster.mget(keys, **options), lambda: cluster.delete(*keys, **options)):
        with pytest.raises(CrossSlot) as caught:
            call()
        assert list(caught.value.keys) == keys
    assert [node.work() for node in fake.nodes] == [[], [], []]
    assert cluster.mget([keys[0], f"{{{keys[0]}}}2"], **options) == [None, None]
    assert cluster.mget(keys, cross_slot="split") == [None] * 3


@pytest.mark.parametrize(
    "call",
    [
        lambda cluster: cluster.mget("abc"),
        lambda cluster: cluster.mget(b"abc"),
        lambda cluster: cluster.mget(7),
        lambda cluster: cluster.mget({"a": 1}),
        lambda cluster: cluster.mget(["a", None]),
        lambda cluster: cluster.mget(["a"], cross_slot="no"),
        lambda cluster: cluster.mget(["a"], node="h:1"),
        lambda cluster: cluster.mget(["a"], timeout=0),
        lambda cluster: cluster.mset([("a", 1)]),
        lambda cluster: cluster.mset({"a": "v", "b": None}),
        lambda cluster: cluster.delete(["a", "b"]),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_byte_is_sent(fake, cluster, call):
    with pytest.raises(ConfigError):
        call(cluster)
    assert [node.work() for node in fake.nodes] == [[], [], []]


def test_in_the_hub_and_after_the_end_they_are_refused(fake, cluster):
    told: list[BaseException] = []

    def in_hub() -> None:
        try:
            cluster.mget(["a", "b"])
        except BlockedInHub as error:
            told.append(error)

    gevent.get_hub().loop.run_callback(in_hub)
    gevent.sleep(0.01)
    assert len(told) == 1
    cluster.close()
    with pytest.raises(ClosedError):
        cluster.mget(["a", "b"])
