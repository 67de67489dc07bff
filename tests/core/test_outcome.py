"""Every end of an attempt has a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.outcome import Ask, Doubtful, Failed, Lost, Moved, NotNow, Refused, Unfit, classify, unfit
from gvcluster.core.resp import reply_error
from gvcluster.errors import (
    AuthFailed,
    BlockedInHub,
    ClosedError,
    ConnectFailed,
    ConnectionLost,
    PoolFull,
    PoolTimeout,
    ProtocolError,
    Redirected,
    ReplyTimeout,
)

ASKED = Address("10.0.0.9", 6379)
SLOT = 1234


def met(text, slot=SLOT, *, script=False):
    """What a reply of `-text` is named."""
    return classify(reply_error(text), slot, ASKED, script=script)


# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "kind"), [("MOVED", Moved), ("ASK", Ask)])
@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("10.0.0.1:7000", Address("10.0.0.1", 7000)),
        ("node-1.example.com:7000", Address("node-1.example.com", 7000)),
        ("::1:7000", Address("::1", 7000)),
        ("[::1]:7000", Address("::1", 7000)),
        (":7000", Address("10.0.0.9", 7000)),
        ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
        ("?:7000", None),
        ("?:0", None),
        (":0", None),
        ("10.0.0.1:0", None),
        ("unassigned:0", None),
    ],
)
def test_a_redirect_names_the_node_or_says_look_into_a_fresh_map(word, kind, target, address):
    error = reply_error(f"{word} {SLOT} {target}")
    told = {"port": int(target.rpartition(":")[2])} if kind is Ask else {}
    assert classify(error, SLOT, ASKED) == kind(error, SLOT, address, **told)
    assert not error.maybe_executed


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
@pytest.mark.parametrize(
    "rest",
    [
        "",  # the word alone
        " ",
        " 1234",
        " 1234 ",
        " 1235 10.0.0.1:7000",  # another slot
        " 16384 10.0.0.1:7000",
        " 16390 10.0.0.1:7000",
        " -1 10.0.0.1:7000",
        " +1234 10.0.0.1:7000",
        " 1_234 10.0.0.1:7000",
        " ١٢٣٤ 10.0.0.1:7000",
        " 0x4d2 10.0.0.1:7000",
        " 1234.0 10.0.0.1:7000",
        " 000001234 10.0.0.1:7000",
        " 99999999999999999999 10.0.0.1:7000",
        " 1234 10.0.0.1",
        " 1234 10.0.0.1:",
        " 1234 10.0.0.1:-1",
        " 1234 10.0.0.1:65536",
        " 1234 10.0.0.1:70000",
        " 1234 10.0.0.1:port",
        " 1234 a b:7000",
        " 1234 user@host:7000",
        " 1234 host/path:7000",
        " 1234 a:b:7000",
        " 1234 10.0.0.1:7000 more",  # words after it
        " 1234 10.0.0.1:7000 ",
        "  1234 10.0.0.1:7000",
        "\t1234 10.0.0.1:7000",
    ],
)
def test_a_redirect_that_makes_no_sense_is_the_callers_error_and_sends_no_byte_anywhere(word, rest):
    error = reply_error(word + rest)
    assert classify(error, SLOT, ASKED) == Failed(error)


@pytest.mark.parametrize("text", ["MO", "MOVE", "MOVEDX 1234 10.0.0.1:7000", "moved 1234 10.0.0.1:7000", "ASKING", "A"])
def test_a_truncated_or_other_code_is_no_redirect(text):
    assert type(met(text)) is Failed


@pytest.mark.parametrize("slot", [0, 1, 16383])
def test_nobody_redirects_a_command_without_a_key(slot):
    assert type(met(f"MOVED {slot} 10.0.0.1:7000", None)) is Failed


@given(st.text(max_size=40), st.sampled_from(["MOVED", "ASK"]), st.booleans())
def test_whatever_follows_the_code_a_redirect_leads_to_a_possible_address_or_nowhere(rest, word, has_slot):
    outcome = met(f"{word} {rest}", SLOT if has_slot else None)
    if isinstance(outcome, Moved | Ask):
        assert 0 <= outcome.slot <= 16383
        assert outcome.address is None or Address.parse(str(outcome.address)) == outcome.address
    else:
        assert type(outcome) is Failed


WHERE = st.sampled_from(["127.0.0.1", "::1", "[::1]", "[", "h.example", "?", "", "unassigned", "a" * 300, "a b", "\0"])
PORT = st.sampled_from(["7000", "0", "65535", "65536", "-1", "07000", "٣", "", "7000@17000", "7000 "])
NUMBER = st.just(str(SLOT)) | st.sampled_from(["16384", "-1", f"0{SLOT}", "9" * 30, "٣", ""])


@given(st.sampled_from(["MOVED", "ASK", "moved", "MOVED "]), NUMBER, WHERE, st.sampled_from([":", "", "::"]), PORT)
def test_whatever_a_redirect_is_made_of_it_leads_to_a_possible_address_or_nowhere(word, slot, host, colon, port):
    outcome = met(f"{word} {slot} {host}{colon}{port}", SLOT)
    if isinstance(outcome, Moved | Ask):
        assert outcome.slot == SLOT
        assert outcome.address is None or Address.parse(str(outcome.address)) == outcome.address
    else:
        assert type(outcome) is Failed


# -- other replies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stale"),
    [
        ("TRYAGAIN Multiple keys request during rehashing of slot", False),
        ("MIGRATING slot is being migrated", False),
        ("LOADING Valkey is loading the dataset in memory", True),
        ("CLUSTERDOWN Hash slot not served", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("UNBLOCKED force unblock from blocking operation", True),
        ("READONLY You can't write against a read only replica.", True),
        ("TRYAGAIN", False),
    ],
)
def test_codes_that_mean_come_back_later_say_whether_the_map_is_stale(text, stale):
    error = reply_error(text)
    assert classify(error, SLOT, ASKED) == NotNow(error, stale)
    assert not error.maybe_executed


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'FOO'",
        "ERR max number of clients reached",
        "UNBLOCKED client unblocked via CLIENT UNBLOCK",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM this user has no permissions",
        "NOSCRIPT No matching script.",
        "BUSY Valkey is busy running a script.",
        "MISCONF Errors writing to the AOF file",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "EXECABORT Transaction discarded because of previous errors.",
        "tryagain",
        "TRYAGAINX",
        "LOADED",
        "",
        " MOVED 1234 10.0.0.1:7000",
    ],
)
def test_every_other_refusal_is_the_callers(text):
    error = reply_error(text)
    assert classify(error, SLOT, ASKED) == Failed(error)
    assert not error.maybe_executed


# -- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("MOVED 1234 10.0.0.1:7000", Moved),
        ("ASK 1234 10.0.0.1:7000", Ask),
        ("MOVED 1234 ?:0", Moved),
        ("TRYAGAIN", NotNow),
        ("LOADING", NotNow),
        ("CLUSTERDOWN", NotNow),
        ("MASTERDOWN", NotNow),
        ("READONLY", NotNow),
        ("UNBLOCKED", NotNow),
        ("MIGRATING", NotNow),
    ],
)
def test_what_a_script_could_have_made_up_is_doubtful_until_confirmed(text, claim):
    outcome = met(text, script=True)
    assert type(outcome) is Doubtful
    assert type(outcome.claim) is claim
    assert outcome.error is outcome.claim.error
    assert outcome.error.maybe_executed


@pytest.mark.parametrize(
    "text", ["ERR user_script:1: oops", "WRONGTYPE x", "MOVED 99 10.0.0.1:7000", "MOVED", "NOSCRIPT No"]
)
def test_any_other_error_of_a_script_is_the_callers_and_the_script_may_have_run(text):
    outcome = met(text, script=True)
    assert type(outcome) is Failed
    assert outcome.error.maybe_executed


# -- no reply ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConnectFailed, ConnectionLost, ReplyTimeout])
@pytest.mark.parametrize("script", [False, True])
def test_a_command_without_a_reply_is_lost_if_it_may_have_run_else_refused(kind, script):
    error = kind("gone", address=ASKED, maybe_executed=True)
    assert classify(error, SLOT, ASKED, script=script) == Lost(error)
    assert error.maybe_executed
    error = kind("gone", address=ASKED)
    assert classify(error, SLOT, ASKED, script=script) == Refused(error)
    assert not error.maybe_executed


@pytest.mark.parametrize(
    "error",
    [
        ClosedError("closed", maybe_executed=True),
        BlockedInHub("hub"),
        AuthFailed("WRONGPASS"),
        Redirected("MOVED"),
        PoolFull("full"),
        PoolTimeout("late"),
        ProtocolError("not RESP", maybe_executed=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_our_own_are_the_callers_as_they_are(error):
    before = error.maybe_executed
    assert classify(error, SLOT, ASKED) == Failed(error)
    assert error.maybe_executed == before


def test_an_error_that_is_not_ours_is_not_swallowed():
    error = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError) as caught:
        classify(error, SLOT, ASKED)
    assert caught.value is error


def test_outcomes_are_frozen():
    with pytest.raises(AttributeError):
        met("TRYAGAIN").stale = True


# -- reads that several nodes may serve ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["LOADING x", "MASTERDOWN x", "CLUSTERDOWN x", "TRYAGAIN x", "READONLY x"])
@pytest.mark.parametrize("script", [False, True])
def test_who_can_not_now_is_unfit_whoever_says_so_for_nothing_is_written(text, script):
    refused = met(text, script=script)
    found = unfit(refused, others=True, never_primary=False)
    assert isinstance(found, Unfit)
    assert isinstance(found.why, NotNow)
    assert found.error is refused.error


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
@pytest.mark.parametrize("script", [False, True])
def test_a_replicas_redirect_is_what_it_was_unless_no_primary_may_serve(kind, script):
    redirect = met(f"{kind} {SLOT} 10.0.0.9:7000", script=script)
    assert unfit(redirect, others=True, never_primary=False) is redirect
    assert isinstance(unfit(redirect, others=True, never_primary=True), Unfit)


def test_an_error_of_the_callers_is_no_reason_to_ask_another():
    error = met("WRONGTYPE x")
    assert unfit(error, others=True, never_primary=True) is error
