"""F25, F26: requests and replies that end after every byte; each outcome is held against what the servers did."""

from collections.abc import Callable
from typing import Any

import pytest
from every_byte import Effect, EveryByte, Kind, Part, one

import gvcluster
from gvcluster import Cluster, ConnectionLost, GvClusterError, PartialFailure
from gvcluster.testing import LocalCluster, ProxiedCluster, Rule
from gvcluster.testing.faults import Cut

SOURCE = "return redis.call('INCR',KEYS[1])"
ENDS = {"request": ("fin", "rst"), "reply": ("fin", "rst")}


def count(key: str, after: int = 1) -> Effect:
    return Effect(("GET", key), None, str(after).encode())


def elements(key: str) -> Effect:
    return Effect(("LRANGE", key, "0", "-1"), [], [b"x"])


def kind(name: str, cut: str, call: Any, parts: Any, **more: Any) -> Kind:
    return Kind(name, cut, call, parts, **more)


def pipeline(cluster: Cluster, key: str) -> list[Any]:
    with cluster.pipeline() as pipe:
        pipe.append("INCR", key)
        pipe.append("GET", key + "r")
        pipe.append("RPUSH", key + "l", "x")
        return pipe.execute()


def transaction(cluster: Cluster, key: str) -> list[Any]:
    tx = cluster.transaction()
    tx.append("INCR", key)
    tx.append("RPUSH", key + "l", "x")
    return tx.commit()


READ = kind(
    "rd",
    "GET",
    one(lambda cluster, key: cluster.execute("GET", key)),
    lambda key: [Part(b"value")],
    prepare=lambda key: [("SET", key, "value")],
)
SET = kind(
    "st",
    "SET",
    one(lambda cluster, key: cluster.execute("SET", key, "v")),
    lambda key: [Part(b"OK", (Effect(("GET", key), None, b"v"),))],
)
INCR = kind("in", "INCR", one(lambda cluster, key: cluster.execute("INCR", key)), lambda key: [Part(1, (count(key),))])
RPUSH = kind(
    "rp",
    "RPUSH",
    one(lambda cluster, key: cluster.execute("RPUSH", key, "x")),
    lambda key: [Part(1, (elements(key),))],
)
EVAL = kind(
    "ev",
    "EVAL",
    one(lambda cluster, key: cluster.execute("EVAL", SOURCE, 1, key)),
    lambda key: [Part(1, (count(key),))],
)
SCRIPT = kind(
    "sc",
    "SCRIPT EVAL EVALSHA",
    one(lambda cluster, key: cluster.script(SOURCE)([key])),
    lambda key: [Part(1, (count(key),))],
    ends={"request": ("fin",), "reply": ("rst",)},
)
PIPELINE = kind(
    "pi",
    "INCR GET RPUSH",
    pipeline,
    lambda key: [Part(1, (count(key),)), Part(b"value"), Part(1, (elements(key + "l"),))],
    prepare=lambda key: [("SET", key + "r", "value")],
)
TRANSACTION = kind(
    "tx",
    "MULTI INCR RPUSH EXEC",
    one(transaction),
    lambda key: [Part([1, 1], (count(key), elements(key + "l")))],
)
BLPOP = kind(
    "bl",
    "BLPOP",
    one(lambda cluster, key: cluster.execute("BLPOP", key, 5)),
    lambda key: [Part([key.encode(), b"x"], (Effect(("LRANGE", key, "0", "-1"), [b"x"], []),))],
    prepare=lambda key: [("RPUSH", key, "x")],
)


def split(cluster: Cluster, key: str) -> list[Any]:
    try:
        cluster.mset({key: "v", elsewhere(key): "v"})
    except PartialFailure as error:
        return list(error.results)
    return [None, None]


def elsewhere(key: str) -> str:
    return key.replace("sp", "sq")


SPLIT = kind(
    "sp",
    "MSET SET",
    split,
    lambda key: [Part(None, (Effect(("GET", each), None, b"v"),)) for each in (key, elsewhere(key))],
)
ASKED = kind(
    "as", "INCR ASKING", one(lambda cluster, key: cluster.execute("INCR", key)), lambda key: [Part(1, (count(key),))]
)


def listen(cluster: Cluster, channel: str) -> list[Any]:
    """The message that is published once all is confirmed; where it is lost, a Gap says so."""
    with cluster.pubsub() as pubsub:
        pubsub.subscribe(channel)
        cluster.execute("PUBLISH", channel, "m")
        while True:
            item = pubsub.get(timeout=10)
            if isinstance(item, gvcluster.Gap):
                return ["told"]
            assert item is not None, "neither the message nor a Gap"
            return ["told" if (item.channel, item.data) == (channel.encode(), b"m") else item]


SUBSCRIBING = kind(
    "su",
    "SUBSCRIBE",
    listen,
    lambda key: [Part("told")],
    also=lambda frame: b"subscribe\r\n" in frame.data or b"message\r\n" in frame.data,
)


def check(cut: EveryByte, figures: dict[str, int]) -> dict[str, int]:
    counts = cut.check()
    for name, number in counts.items():
        figures[name] = figures.get(name, 0) + number
    return counts


def test_f26_a_request_or_reply_truncated_at_every_byte_has_the_outcome_that_the_server_tells(
    live_cluster: LocalCluster, protocol: int, figures: dict[str, int]
) -> None:
    cut = EveryByte(live_cluster, {"protocol": protocol}, ENDS)
    for each in (READ, SET, INCR, RPUSH, EVAL, SCRIPT, PIPELINE, TRANSACTION, BLPOP):
        cut.cut(each)
    counts = check(cut, figures)
    # A reply that was cut has been executed; a request that was cut may not be known to be.
    assert counts["offsets cut"] > 1000
    assert min(counts["ambiguous, and executed"], counts["ambiguous, and not executed"], counts["answered"]) > 100


def test_f26_calls_of_several_nodes_truncated_at_every_byte_tell_the_outcome_of_each_part(
    live_cluster: LocalCluster, protocol: int, figures: dict[str, int]
) -> None:
    cut = EveryByte(live_cluster, {"protocol": protocol}, ENDS)
    cut.cut(SPLIT)
    source = live_cluster.primary_of("{as}")
    target = next(node for node in live_cluster.primaries() if node is not source)
    move = live_cluster.begin_move(gvcluster.hash_slot("{as}"), target)
    cut.cut(ASKED)
    live_cluster.finish_move(move)
    check(cut, figures)


def test_f26_what_subscribers_get_truncated_at_every_byte_comes_or_is_told_as_a_gap(
    live_cluster: LocalCluster, protocol: int, figures: dict[str, int]
) -> None:
    cut = EveryByte(live_cluster, {"protocol": protocol}, ENDS)
    cut.cut(SUBSCRIBING)
    counts = check(cut, figures)
    assert set(counts) == {"offsets cut", "answered"}


def test_f26_half_closed_at_every_byte_in_each_direction_the_outcome_is_true(
    live_cluster: LocalCluster, protocol: int, figures: dict[str, int]
) -> None:
    cut = EveryByte(live_cluster, {"protocol": protocol}, {"request": ("half",), "reply": ("half",)})
    for each in (INCR, PIPELINE):
        cut.cut(each)
    check(cut, figures)


# -- a proof that cannot fail proves nothing --------------------------------------------------------------------------


def repeating(cluster: Cluster, key: str) -> Any:
    return cluster.execute("INCR", key, retry="always")


def denying(cluster: Cluster, key: str) -> Any:
    try:
        return cluster.execute("INCR", key)
    except GvClusterError as error:
        error.maybe_executed = False
        raise


def inventing(cluster: Cluster, key: str) -> Any:
    try:
        return cluster.execute("INCR", key)
    except GvClusterError:
        return 1


@pytest.mark.parametrize(
    ("client", "found"),
    [(repeating, "the server has"), (denying, "executed, and denied"), (inventing, "not executed: ")],
)
def test_f26_a_client_that_repeats_denies_or_invents_is_found_out(
    live_cluster: LocalCluster, protocol: int, client: Callable[[Cluster, str], Any], found: str
) -> None:
    cut = EveryByte(live_cluster, {"protocol": protocol}, {"request": ("fin",), "reply": ("fin",)})
    cut.cut(kind("li", "INCR", one(client), INCR.parts))
    with pytest.raises(AssertionError, match=found):
        cut.check()


# -- lost replies -----------------------------------------------------------------------------------------------------


def submitted(cluster: Cluster, key: str) -> list[Any]:
    return one(lambda cluster, key: cluster.submit("INCR", key).get())(cluster, key)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("INCR", INCR.call),
        ("INCR", submitted),
        ("RPUSH", RPUSH.call),
        ("EVAL", EVAL.call),
        ("EVAL", SCRIPT.call),
        ("INCR", PIPELINE.call),
        ("EXEC", TRANSACTION.call),
        ("BLPOP", BLPOP.call),
    ],
)
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_f25_a_write_whose_reply_is_lost_ten_times_is_executed_once_and_says_that_it_may_have_been(
    live_cluster: LocalCluster, protocol: int, name: str, call: Callable[[Cluster, str], list[Any]], end: Any
) -> None:
    key = "{lost}" + name
    primary = live_cluster.primary_of(key)
    primary.command("DEL", key, key + "l")
    if name == "BLPOP":
        primary.command("RPUSH", key, "x", "x")
    with (
        ProxiedCluster(live_cluster.primaries()) as proxied,
        gvcluster.connect(proxied.seeds, address_map=proxied.address_map, protocol=protocol) as cluster,
    ):
        if name == "EXEC":
            call(cluster, "{lost}before")  # the first transaction over a connection follows an empty one
        lost = Rule(Cut(end=end), command=name, times=10)
        proxied.add(lost)
        outcome = call(cluster, key)[0]
        assert isinstance(outcome, ConnectionLost)
        assert outcome.maybe_executed
        assert lost.made == 1
        sent = [
            times
            for token, times in proxied.recorder.sent.items()
            if token[0] == name.encode() and key.encode() in token
        ]
        assert sent == ([] if name == "EXEC" else [1])
    if name in ("RPUSH", "BLPOP"):
        assert primary.command("LLEN", key) == 1
    else:
        assert primary.command("GET", key) == b"1"
