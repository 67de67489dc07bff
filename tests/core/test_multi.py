"""What the replies to MULTI … EXEC say, server by server; the texts are the servers' own."""

import pytest

from gvcluster.core.address import Address
from gvcluster.core.multi import AskedInVain, is_over, not_asked, result_of
from gvcluster.core.outcome import Aborted, Ask, Failed, Moved, NotNow, classify
from gvcluster.core.resp import reply_error
from gvcluster.core.retry import pause_after_abort
from gvcluster.errors import AuthFailed, Busy, ProtocolError, TransactionAborted

ASKED = Address("10.0.0.1", 7000)
SLOT = 7629
ABORT = "EXECABORT Transaction discarded because of previous errors."
BECAUSE = "EXECABORT Transaction discarded because of: "
MOVED, ASK = f"MOVED {SLOT} 10.0.0.2:7001", f"ASK {SLOT} 10.0.0.2:7001"
TRYAGAIN = "TRYAGAIN Multiple keys request during rehashing of slot"


def replies(*texts):
    """Errors are those with a code in capitals and a blank behind it."""
    return [reply_error(text) if isinstance(text, str) else text for text in texts]


def result(*texts, scripts=()):
    return result_of(replies(*texts), SLOT, ASKED, scripts)


def test_a_transaction_that_was_executed_has_execs_list():
    assert result(b"OK", b"QUEUED", b"QUEUED", [b"OK", 1]) == [b"OK", 1]
    assert result(b"OK", []) == []


@pytest.mark.parametrize(
    ("texts", "kind", "code"),
    [
        ((b"OK", MOVED, ABORT), Moved, "MOVED"),  # all servers, at a node that does not have the slot
        ((b"OK", b"QUEUED", ASK, ABORT), Ask, "ASK"),  # Redis 6.2 and 7.0, Valkey 8
        ((b"OK", b"QUEUED", ASK), Ask, "ASK"),  # Valkey 9.1, Garnet
        ((b"OK", b"QUEUED", MOVED), Moved, "MOVED"),  # the slot has moved between; and Garnet
        ((b"OK", b"QUEUED", b"QUEUED", TRYAGAIN), NotNow, "TRYAGAIN"),
        ((b"OK", "CLUSTERDOWN The cluster is down", ABORT), NotNow, "CLUSTERDOWN"),
        ((b"OK", "ERR wrong number of arguments for 'set' command", b"QUEUED", ABORT), Failed, "ERR"),
        ((b"OK", b"QUEUED", BECAUSE + "OOM command not allowed"), Failed, "OOM"),
        ((b"OK", b"QUEUED", BECAUSE + "LOADING wait"), NotNow, "LOADING"),
        ((b"OK", b"QUEUED", ABORT), Failed, "EXECABORT"),
        ((b"OK", b"QUEUED", f"MOVED {SLOT + 1} 10.0.0.2:7001"), Failed, "MOVED"),  # not our slot
    ],
)
def test_the_first_reason_counts_and_nothing_was_executed(texts, kind, code):
    outcome = result(*texts)
    assert type(outcome) is kind
    assert (outcome.error.code, outcome.error.maybe_executed) == (code, False)


def test_reasons_have_their_own_classes():
    assert isinstance(result(b"OK", b"QUEUED", BECAUSE + "NOPERM User x has no permissions").error, AuthFailed)
    assert isinstance(result(b"OK", "BUSY running a script", BECAUSE + "BUSY running a script").error, Busy)


def test_null_means_that_a_watched_key_changed():
    outcome = result(b"OK", b"QUEUED", None)
    assert isinstance(outcome, Aborted)
    assert isinstance(outcome.error, TransactionAborted)
    assert not outcome.error.maybe_executed


def test_without_multi_what_was_not_refused_may_have_been_executed():
    refused, not_in = "NOPERM no permissions to run the 'multi' command", "ERR EXEC without MULTI"
    assert result(refused, b"OK", not_in).error.maybe_executed
    assert not result(refused, "NOPERM no SET either", not_in).error.maybe_executed
    assert result(refused, "ERR from the script", not_in, scripts=(True,)).error.maybe_executed
    assert isinstance(result("LOADING wait", "LOADING wait", "LOADING wait"), NotNow)
    # It was executed in part: not to be sent again, whatever MULTI met.
    assert isinstance(result("LOADING wait", b"OK", not_in), Failed)


def test_errors_among_the_replies_are_left_alone_and_say_whether_they_did_something():
    moved, wrong = replies(MOVED, "WRONGTYPE no list")
    found = result_of([b"OK", b"QUEUED", b"QUEUED", [moved, wrong]], SLOT, ASKED, (True, False))
    assert found == [moved, wrong]
    assert [error.maybe_executed for error in found] == [True, False]


@pytest.mark.parametrize(
    "texts", [(b"OK", b"QUEUED", [1, 2]), (b"OK", b"QUEUED", b"OK"), (b"QUEUED", b"QUEUED", [1]), (b"OK", b"QUEUED", 1)]
)
def test_what_is_no_answer_to_a_transaction_is_ambiguous(texts):
    outcome = result(*texts)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ProtocolError)
    assert outcome.error.maybe_executed


def test_when_it_is_certain_that_a_connection_has_left_multi():
    for over in ([b"OK", []], [b"OK", b"QUEUED", None], [b"OK", ABORT], [b"OK", MOVED], [b"OK", BECAUSE + "NOPERM x"]):
        assert is_over(replies(*over)), over
    assert is_over(replies("NOPERM no MULTI", "ERR EXEC without MULTI"))
    for inside in (
        [b"OK", "ERR unknown command 'EXEC'"],
        [b"OK", "NOPERM no EXEC"],
        [b"QUEUED", b"QUEUED"],
        [b"OK", 1],
    ):
        assert not is_over(replies(*inside)), inside


def test_ask_is_in_vain_once_the_importing_node_has_sent_back():
    vain = AskedInVain()
    ask, moved = (classify(reply_error(text), SLOT, ASKED) for text in (ASK, MOVED))
    assert vain.read(moved, asking=False) is moved
    assert vain.read(ask, asking=False) is ask
    assert vain.read(moved, asking=True) is moved
    later = vain.read(ask, asking=False)
    assert later == NotNow(ask.error, stale=False)
    assert vain.read(moved, asking=False) is moved
    assert not_asked(moved) is moved


def test_rivals_fall_out_of_step_after_two_attempts():
    assert [pause_after_abort(aborted, 0.5) for aborted in (1, 2, 3, 4, 7, 100)] == [0, 0, 0.001, 0.002, 0.016, 0.016]
