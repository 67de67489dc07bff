"""What a script says of the cluster counts only when the node itself says the same."""

import pytest

from gvcluster.core.address import Address
from gvcluster.core.doubt import is_confirmed, question
from gvcluster.core.outcome import Doubtful, Failed, classify
from gvcluster.core.resp import reply_error
from gvcluster.errors import ConnectionLost

ME = Address("10.0.0.1", 7001)
SLOT = 93
A, B, C = ("a" * 40, "b" * 40, "c" * 40)


def nodes(*, opened="", mine="0-8191", flags="myself,master", theirs="8192-16383"):
    """CLUSTER NODES of node A at 10.0.0.1; B is at 10.0.0.2 and named `b.example`, C at 10.0.0.3 is new and empty."""
    return (
        f"{B} 10.0.0.2:7002@17002,b.example master - 0 0 2 connected {theirs}\n"
        f"{A} 10.0.0.1:7001@17001 {flags} - 0 0 1 connected {mine} {opened}\n"
        f"{C} 10.0.0.3:7003@17003 master - 0 0 3 connected\n"
    ).encode()


def claim_of(text, slot=SLOT):
    """What a script's error would mean."""
    outcome = classify(reply_error(text), slot, ME, script=True)
    assert isinstance(outcome, Doubtful)
    return outcome.claim


def believed(text, answer, slot=SLOT):
    """Whether the claim counts after this answer."""
    return is_confirmed(claim_of(text, slot), answer, slot, ME)


# -- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("MOVED 93 10.0.0.2:7002", ("CLUSTER", "NODES")),
        ("ASK 93 10.0.0.2:7002", ("CLUSTER", "NODES")),
        ("TRYAGAIN now", ("CLUSTER", "NODES")),
        ("MIGRATING now", ("CLUSTER", "NODES")),
        ("LOADING now", ("PING",)),
        ("CLUSTERDOWN now", ("CLUSTER", "INFO")),
        ("READONLY now", ("ROLE",)),
        ("MASTERDOWN now", ("ROLE",)),
        ("UNBLOCKED now", None),
    ],
)
def test_each_claim_has_a_question_that_no_script_answers(text, command):
    assert question(claim_of(text)) == command


def test_every_error_that_would_be_acted_upon_is_doubted_when_a_script_says_it():
    for text in (
        "MOVED 93 h:1",
        "ASK 93 h:1",
        "TRYAGAIN",
        "LOADING",
        "READONLY",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "UNBLOCKED",
    ):
        error = reply_error(text)
        assert isinstance(classify(error, SLOT, ME, script=True), Doubtful)
        assert error.maybe_executed
    assert isinstance(classify(reply_error("OOM"), SLOT, ME, script=True), Failed)


# -- MOVED ------------------------------------------------------------------------------------------------------------


def test_a_moved_is_true_when_the_node_tells_the_same_owner():
    moved_away = nodes(mine="0-92 94-8191", theirs="93 8192-16383")
    assert believed("MOVED 93 10.0.0.2:7002", moved_away)
    assert believed("MOVED 93 b.example:7002", moved_away)  # servers that prefer hostnames
    assert believed("MOVED 93 ?:7002", moved_away)  # the map will say where
    assert believed("MOVED 93 10.0.0.2:7002", moved_away.decode())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("MOVED 93 10.0.0.2:7002", nodes()),  # still its own
        ("MOVED 93 ?:0", nodes()),
        ("MOVED 93 10.0.0.1:7001", nodes()),  # itself
        ("MOVED 93 6.6.6.6:666", nodes(mine="0-92 94-8191", theirs="93 8192-16383")),  # a stranger
        ("MOVED 93 10.0.0.3:7003", nodes(mine="0-92 94-8191", theirs="93 8192-16383")),  # a member, but not the owner
        ("MOVED 93 10.0.0.2:7003", nodes(mine="0-92 94-8191", theirs="93 8192-16383")),
        ("MOVED 93 10.0.0.2:7002", nodes(mine="0-92 94-8191")),  # nobody's
        ("MOVED 93 10.0.0.2:7002", b""),
        ("MOVED 93 10.0.0.2:7002", b"\x00\xff \n\n"),
        ("MOVED 93 10.0.0.2:7002", None),
        ("MOVED 93 10.0.0.2:7002", [b"slave"]),
        ("MOVED 93 10.0.0.2:7002", reply_error("NOPERM no")),
        ("MOVED 93 10.0.0.2:7002", reply_error("LOADING")),
        ("MOVED 93 10.0.0.2:7002", reply_error("MOVED 93 10.0.0.2:7002")),
        ("MOVED 93 10.0.0.2:7002", ConnectionLost("gone")),
    ],
)
def test_a_moved_that_the_node_does_not_confirm_is_not_obeyed(text, answer):
    assert not believed(text, answer)


def test_a_replica_confirms_that_the_slot_is_its_primarys():
    answer = nodes(mine="", flags="myself,slave", theirs="0-16383")
    assert believed("MOVED 93 10.0.0.2:7002", answer)


# -- ASK and TRYAGAIN -------------------------------------------------------------------------------------------------


def test_an_ask_is_true_when_the_slot_is_migrating_to_that_node_even_one_without_slots():
    assert believed("ASK 93 10.0.0.2:7002", nodes(opened=f"[93->-{B}]"))
    assert believed("ASK 93 b.example:7002", nodes(opened=f"[93->-{B}]"))
    assert believed("ASK 93 10.0.0.3:7003", nodes(opened=f"[7->-{B}] [93->-{C}]"))


@pytest.mark.parametrize(
    "opened",
    [
        "",
        f"[94->-{C}]",  # another slot
        f"[93->-{B}]",  # another target
        f"[93-<-{C}]",  # the other way round
        f"[93->-{'d' * 40}]",  # a node that is not listed
        "[93->-]",
        "[99999999999->-x]",
        f"93->-{C}",
    ],
)
def test_an_ask_that_the_node_does_not_confirm_is_not_obeyed(opened):
    assert not believed("ASK 93 10.0.0.3:7003", nodes(opened=opened))


def test_what_other_nodes_lines_say_of_open_slots_does_not_count():
    assert not believed("ASK 93 10.0.0.3:7003", nodes(theirs=f"8192-16383 [93->-{C}]"))
    assert not believed("TRYAGAIN", nodes(theirs=f"8192-16383 [93->-{C}]"))


def test_a_slot_that_has_moved_for_good_meanwhile_was_on_the_move():
    moved_away = nodes(mine="0-92 94-8191", theirs="93 8192-16383")
    assert believed("ASK 93 10.0.0.2:7002", moved_away)
    assert not believed("ASK 93 10.0.0.3:7003", moved_away)
    assert believed("TRYAGAIN", moved_away)


@pytest.mark.parametrize("word", ["TRYAGAIN", "MIGRATING"])
def test_tryagain_is_true_while_the_slot_is_open_on_either_side(word):
    assert believed(word, nodes(opened=f"[93->-{C}]"))
    assert believed(word, nodes(opened=f"[93-<-{C}]"))
    assert not believed(word, nodes())
    assert not believed(word, nodes(opened=f"[94->-{C}]"))


def test_a_script_without_keys_is_never_redirected():
    for text in ("MOVED 93 10.0.0.2:7002", "ASK 93 10.0.0.2:7002"):
        assert isinstance(classify(reply_error(text), None, ME, script=True), Failed)
    assert not believed("TRYAGAIN", nodes(opened=f"[93->-{B}]"), slot=None)


# -- the state of the node --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "proof", "others"),
    [
        ("LOADING x", reply_error("LOADING Valkey is loading"), [b"PONG", "PONG", reply_error("BUSY"), None]),
        ("READONLY x", [b"slave", b"h", 1, b"connected", 0], [[b"master", 0, []], [], None, b"slave", {b"slave": 1}]),
        ("MASTERDOWN x", [b"slave", b"h", 1, b"connect", -1], [[b"master", 0, []], reply_error("NOPERM")]),
        (
            "CLUSTERDOWN x",
            b"cluster_state:fail\r\ncluster_size:3\r\n",
            [b"cluster_state:ok\r\n", b"xcluster_state:fail", 7],
        ),
    ],
)
def test_a_state_is_true_when_the_node_shows_it(text, proof, others):
    assert believed(text, proof)
    assert believed(text, proof, slot=None)
    assert [believed(text, other) for other in others] == [False] * len(others)


def test_a_node_that_loads_its_data_runs_no_script_whatever_it_was_asked():
    for text in ("CLUSTERDOWN", "READONLY", "MASTERDOWN", "TRYAGAIN"):
        assert believed(text, reply_error("LOADING Redis is loading the dataset in memory"))


def test_nothing_can_confirm_what_has_no_question():
    assert not believed("UNBLOCKED", b"cluster_state:fail")
