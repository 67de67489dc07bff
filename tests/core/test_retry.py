"""The table of "what happened, what is done", row by row. Time and chance are arguments."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.outcome import Ask, Doubtful, Failed, Lost, Moved, NotNow, Refused, Unfit, Unserved
from gvcluster.core.resp import reply_error
from gvcluster.core.retry import (
    FREE_HOPS,
    LONGEST_WAIT,
    SHORTEST_WAIT,
    Call,
    Confirm,
    Fail,
    Follow,
    Pace,
    Progress,
    Refetch,
    Retry,
    backoff,
    decide,
    hints_at_stale_map,
    question_gap,
)
from gvcluster.core.routing import ReadPolicy
from gvcluster.errors import ConnectFailed, ConnectionLost, ReplyTimeout, RetriesExhausted, SlotNotCovered

BEGAN, DEADLINE, NOW = 100.0, 110.0, 101.0
NODE = Address("10.0.0.1", 7000)


def call(**changes):
    a_write = Call("SET", 5, False, False, "safe", BEGAN, DEADLINE, 16)
    return replace(a_write, **changes)


def met(kind, *rest, error=None):
    """An outcome with an error that fits."""
    if error is None:
        if kind in (Moved, Ask):
            error = reply_error("MOVED 5 10.0.0.1:7000")
            rest = rest or (5, NODE)
        elif kind is Lost:
            error = ConnectionLost("gone", address=NODE, maybe_executed=True)
        elif kind is Refused:
            error = ConnectFailed("refused", address=NODE)
        elif kind is Unserved:
            error = SlotNotCovered("nobody serves it", slot=5)
        else:
            error = reply_error("TRYAGAIN" if kind is NotNow else "ERR no")
    return kind(error, *rest)


def decided(outcome, progress=None, *, now=NOW, jitter=0.5, **changes):
    """What is decided, after noting the outcome's error as the executor does."""
    progress = progress or Progress()
    progress.errors.append(outcome.error)
    return decide(outcome, call(**changes), progress, now, jitter)


POLICIES = ["safe", "never", "always"]

# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_moved_is_followed_at_once(policy):
    assert decided(met(Moved), policy=policy) == Follow(NODE, asking=False, after=0.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_ask_is_followed_at_once_with_asking(policy):
    assert decided(met(Ask), policy=policy) == Follow(NODE, asking=True, after=0.0)


@pytest.mark.parametrize("kind", [Moved, Ask])
def test_a_redirect_to_nobody_is_looked_up_in_a_fresh_map(kind):
    assert decided(met(kind, 5, None), jitter=0.0) == Retry(SHORTEST_WAIT / 2, for_news=True)


@pytest.mark.parametrize("kind", [Moved, Ask])
def test_the_first_hops_are_free_then_they_back_off(kind):
    waits = [decided(met(kind), Progress(redirects=hops), jitter=0.0).after for hops in range(8)]
    assert waits == [0.0] * FREE_HOPS + [0.005, 0.010, 0.020, 0.040, 0.080]


@pytest.mark.parametrize("limit", [0, 1, 16])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_number_of_redirects_is_limited(limit, policy):
    for redirects in range(limit):
        assert isinstance(
            decided(met(Moved), Progress(redirects=redirects), max_redirects=limit, policy=policy), Follow
        )
    first_too_many = decided(met(Moved), Progress([reply_error("MOVED")] * limit, limit), max_redirects=limit)
    assert type(first_too_many) is Fail
    if limit == 0:
        assert first_too_many.error.code == "MOVED"
    else:
        assert type(first_too_many.error) is RetriesExhausted
        assert len(first_too_many.error.attempts) == limit + 1


def test_retries_do_not_count_as_redirects():
    assert isinstance(decided(met(Moved), Progress(retries=1000), max_redirects=1), Follow)


# -- come back later --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("policy", ["safe", "always"])
@pytest.mark.parametrize("read_only", [False, True])
def test_not_now_is_retried_after_a_while_and_refreshes_where_it_helps(stale, policy, read_only):
    decision = decided(met(NotNow, stale), jitter=0.0, policy=policy, read_only=read_only)
    assert decision == Retry(SHORTEST_WAIT / 2, for_news=stale)


def test_a_stale_map_is_refreshed_when_a_replica_refuses_a_write():
    refusal = reply_error("READONLY You can't write against a read only replica.")
    assert hints_at_stale_map(NotNow(refusal, True))
    assert decided(NotNow(refusal, True)).for_news


@pytest.mark.parametrize("policy", ["safe", "always"])
@pytest.mark.parametrize("read_only", [False, True])
def test_what_was_never_sent_is_retried(policy, read_only):
    assert decided(met(Refused), jitter=0.0, policy=policy, read_only=read_only) == Retry(SHORTEST_WAIT / 2, True)


# -- lost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ConnectionLost("gone", maybe_executed=True), ReplyTimeout("late", maybe_executed=True)]
)
@pytest.mark.parametrize(
    ("policy", "read_only", "again"),
    [
        ("safe", True, True),
        ("safe", False, False),
        ("always", True, True),
        ("always", False, True),
        ("never", True, False),
        ("never", False, False),
    ],
)
def test_a_lost_command_is_repeated_only_if_it_reads_or_the_caller_says_always(error, policy, read_only, again):
    decision = decided(Lost(error), jitter=0.0, policy=policy, read_only=read_only)
    if again:
        assert decision == Retry(SHORTEST_WAIT / 2, for_news=True)
    else:
        assert decision == Fail(error)
        assert decision.error.maybe_executed


@pytest.mark.parametrize("outcome", [met(NotNow, True), met(Refused), met(Lost)])
def test_never_repeats_nothing(outcome):
    assert decided(outcome, policy="never", read_only=True) == Fail(outcome.error)


# -- slots without an owner -------------------------------------------------------------------------------------------


def test_a_slot_unserved_by_an_old_map_is_looked_up_in_a_fresh_one():
    assert decided(met(Unserved, False)) == Refetch()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_slot_unserved_by_a_fresh_map_is_not_covered(policy):
    outcome = met(Unserved, True)
    decision = decided(outcome, policy=policy)
    assert decision == Fail(outcome.error)
    assert type(decision.error) is SlotNotCovered


# -- everything else --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("read_only", [False, True])
def test_every_other_error_is_raised(policy, read_only):
    outcome = met(Failed)
    assert decided(outcome, policy=policy, read_only=read_only) == Fail(outcome.error)


@pytest.mark.parametrize("claim", [met(Moved), met(Ask), met(NotNow, True)])
def test_what_a_script_says_is_confirmed_first(claim):
    claim.error.maybe_executed = True
    assert decided(Doubtful(claim.error, claim), script=True) == Confirm(claim)


def test_what_a_script_says_too_late_is_raised():
    claim = met(Moved)
    claim.error.maybe_executed = True
    decision = decided(Doubtful(claim.error, claim), script=True, now=DEADLINE)
    assert decision == Fail(claim.error)
    assert decision.error.maybe_executed


# -- deadlines --------------------------------------------------------------------------------------------------------

REPEATABLE = [
    met(Moved),
    met(Ask),
    met(Moved, 5, None),
    met(NotNow, False),
    met(NotNow, True),
    met(Refused),
    met(Lost),
    met(Unserved, False),
]


@pytest.mark.parametrize("outcome", REPEATABLE)
@pytest.mark.parametrize("now", [DEADLINE, DEADLINE + 1])
def test_the_deadline_ends_a_single_attempt_with_its_plain_cause(outcome, now):
    assert decided(outcome, now=now, read_only=True) == Fail(outcome.error)


@pytest.mark.parametrize("outcome", [each for each in REPEATABLE if not isinstance(each, Unserved)])
def test_the_deadline_ends_several_attempts_with_all_that_they_met(outcome):
    earlier = ConnectFailed("refused", address=NODE)
    decision = decided(outcome, Progress([earlier], 3, 2), now=DEADLINE + 0.25, read_only=True)
    error = decision.error
    assert type(error) is RetriesExhausted
    assert error.attempts == (earlier, outcome.error)
    assert error.__cause__ is outcome.error
    assert str(error).startswith(
        "SET gave up after 10.250 s and 2 attempts (3 redirects, waited 2 times); the last met: "
    )
    assert error.maybe_executed == outcome.error.maybe_executed


@pytest.mark.parametrize("outcome", [met(Moved, 5, None), met(NotNow, True), met(Refused), met(Lost)])
@pytest.mark.parametrize("left", [0.001, 0.3])
def test_no_wait_outlasts_the_deadline(outcome, left):
    decision = decided(outcome, Progress(retries=10), now=DEADLINE - left, read_only=True)
    assert decision.after == pytest.approx(left)


def test_no_wait_before_a_hop_outlasts_the_deadline():
    decision = decided(met(Moved), Progress(redirects=12), now=DEADLINE - 0.1)
    assert decision == Follow(NODE, asking=False, after=pytest.approx(0.1))


# -- maybe_executed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [met(Failed), met(Unserved, True), met(Refused), met(NotNow, True), met(Moved), met(Unserved, False)],
    ids=["failed", "unserved by a fresh map", "refused", "not now", "moved", "unserved"],
)
def test_no_error_claims_less_than_an_earlier_attempt_may_have_done(outcome):
    lost = ReplyTimeout("late", maybe_executed=True)
    outcome.error.maybe_executed = False
    decision = decided(outcome, Progress([lost]), now=DEADLINE, read_only=True)
    assert type(decision) is Fail
    assert decision.error.maybe_executed


def test_attempts_that_were_never_sent_claim_nothing():
    decision = decided(met(Refused), Progress([ConnectFailed("refused")] * 3), now=DEADLINE)
    assert type(decision.error) is RetriesExhausted
    assert not decision.error.maybe_executed


def test_progress_remembers_any_attempt_that_may_have_run():
    progress = Progress()
    assert not progress.maybe_executed
    progress.errors.append(ConnectFailed("refused"))
    assert not progress.maybe_executed
    progress.errors.append(ReplyTimeout("late", maybe_executed=True))
    progress.errors.append(ConnectFailed("refused"))
    assert progress.maybe_executed


# -- back-off and pace ------------------------------------------------------------------------------------------------


def test_back_off_doubles_from_10_ms_to_1_s():
    longest = [round(backoff(attempt, 0.9999999), 4) for attempt in range(10)]
    assert longest == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0]
    assert [backoff(attempt, 0.0) for attempt in (0, 1, 6, 7, 1000)] == [0.005, 0.01, 0.32, 0.5, 0.5]


@given(st.integers(0, 10_000), st.floats(0, 0.999))
def test_back_off_stays_between_half_and_whole(attempt, jitter):
    whole = min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(attempt, 20))
    assert whole / 2 <= backoff(attempt, jitter) < whole


def test_retries_wait_longer_each_time():
    waits = [decided(met(NotNow, False), Progress(retries=n), jitter=0.999).after for n in range(9)]
    assert waits == sorted(waits)
    assert waits[0] <= 0.01
    assert 0.9 < waits[-1] <= 1.0


def test_a_promotion_after_a_node_timeout_of_2_s_is_noticed_within_50_ms_even_by_the_unlucky():
    assert max(question_gap(waited / 10, 1.0) for waited in range(33)) < 0.0501


@given(st.floats(0.0, 1e6), st.floats(0.0, 1.0, exclude_max=True))
def test_whoever_waits_for_a_failover_asks_less_often_the_longer_it_takes(waited, jitter):
    gap = question_gap(waited, jitter)
    assert 0.75 * 0.030 <= gap <= 1.25 * 0.150
    assert gap <= question_gap(2 * waited, jitter)
    assert question_gap(15.0, jitter) == 0.150 * (0.75 + jitter / 2)


def test_the_first_fetch_of_the_map_begins_at_once():
    assert Pace().wait(0.0, 0.999) == 0.0


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_fetches_that_repeat_slow_down_from_100_ms_to_1_s(jitter):
    pace, now, gaps = Pace(), 50.0, []
    pace.begin(now)
    for _ in range(8):
        wait = pace.wait(now, jitter)
        gaps.append(wait)
        now += wait
        pace.begin(now)
    assert gaps[0] >= 0.1
    assert gaps == sorted(gaps)
    assert 0.75 <= gaps[-1] <= 1.25
    assert sum(gap < 0.7 for gap in gaps) <= 4


def test_time_that_has_passed_since_the_last_fetch_counts():
    pace = Pace()
    pace.begin(50.0)
    whole = pace.wait(50.0, 0.5)
    assert pace.wait(50.0 + whole / 2, 0.5) == pytest.approx(whole / 2)
    assert pace.wait(50.0 + whole, 0.5) == pytest.approx(0.0)


def test_f18_f55_after_three_seconds_there_are_at_most_two_fetches_a_second_whatever_the_jitter():
    for jitter in (0.0, 0.5, 0.999):
        pace, now, begun = Pace(), 50.0, []
        while now < 70.0:
            pace.begin(now)
            begun.append(now)
            now += pace.wait(now, jitter)
        for second in range(53, 69):
            assert sum(second <= each < second + 1 for each in begun) <= 2


def test_after_a_quiet_while_the_next_fetch_begins_at_once_and_the_pace_is_quick_again():
    pace, now = Pace(), 50.0
    for _ in range(8):
        now += pace.wait(now, 0.5)
        pace.begin(now)
    assert pace.wait(now, 0.5) == pytest.approx(1.0)
    now += 2.01
    assert pace.wait(now, 0.999) == 0.0
    pace.begin(now)
    assert pace.wait(now, 0.5) == pytest.approx(0.2)


# -- whole calls ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(POLICIES))
def test_whatever_a_call_meets_it_ends_by_its_deadline_and_claims_enough(seed, read_only, policy):
    rng, progress, now = random.Random(seed), Progress(), BEGAN
    outcomes = [(Moved,), (Ask,), (Moved, 5, None), (NotNow, True), (NotNow, False), (Refused,), (Lost,)]
    outcomes += [(Unserved, False), (Unserved, True), (Failed,)]
    sent_after_lost_write = 0
    for _ in range(10_000):
        outcome = met(*rng.choices(outcomes, [5, 5, 3, 5, 5, 5, 3, 2, 0.1, 0.1])[0])
        progress.errors.append(outcome.error)
        decision = decide(outcome, call(read_only=read_only, policy=policy), progress, now, rng.random())
        if isinstance(decision, Fail):
            break
        sent_after_lost_write += isinstance(outcome, Lost) and not read_only and policy != "always"
        if isinstance(decision, Follow | Retry):
            assert 0 <= decision.after <= DEADLINE - now
            now += decision.after
        progress.redirects += isinstance(decision, Follow)
        progress.retries += isinstance(decision, Retry)
        now += rng.random() * 0.01  # the attempt itself
    assert type(decision) is Fail
    assert now <= DEADLINE + 0.01
    assert sent_after_lost_write == 0
    assert decision.error.maybe_executed == any(type(error) is ConnectionLost for error in progress.errors)


# -- a read that several nodes may serve -----------------------------------------------------------------------------

A_READ = {"name": "GET", "read_only": True, "read_from": ReadPolicy("prefer_replica")}


@pytest.mark.parametrize("kind", [Refused, Lost, NotNow])
def test_a_read_goes_elsewhere_at_once_while_somebody_is_left(kind):
    why = met(kind, *((True,) if kind is NotNow else ()))
    outcome = Unfit(why.error, why, others=True)
    progress = Progress()
    progress.add(outcome, NODE)
    assert decide(outcome, call(**A_READ), progress, NOW, 0.5) == Retry(0.0, for_news=False)
    assert progress.avoided == {NODE}
    assert hints_at_stale_map(outcome) is hints_at_stale_map(why)


def test_a_read_backs_off_when_nobody_is_left():
    why = met(NotNow, True)
    decision = decide(Unfit(why.error, why, others=False), call(**A_READ), Progress([why.error]), NOW, 1.0)
    assert decision == Retry(SHORTEST_WAIT, for_news=True)


@pytest.mark.parametrize("policy", ["safe", "never", "always"])
def test_never_repeats_no_read_elsewhere(policy):
    why = met(Refused)
    decision = decide(Unfit(why.error, why, True), call(**A_READ, policy=policy), Progress([why.error]), NOW, 0.5)
    assert isinstance(decision, Fail) is (policy == "never")


def test_a_read_does_not_wait_for_a_new_primary_longer_than_its_back_off():
    assert call().longest_wait(0.1, NOW) == DEADLINE - NOW
    assert call(**A_READ).longest_wait(0.1, NOW) == 0.1


def test_after_a_back_off_nobody_is_avoided_any_more():
    progress = Progress(avoided={NODE})
    progress.repeat(0.0)
    assert progress.avoided == {NODE}
    progress.repeat(0.01)
    assert progress.avoided == set()
    assert progress.retries == 2
