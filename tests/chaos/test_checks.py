"""The checks of the soak: honest clients pass them, and each planted bug is caught by the check that is for it."""

import random
from collections.abc import Sequence
from typing import Any

import gevent
import planted
import pytest
from planted import HonestClient

from gvcluster.cli.soak.book import Book
from gvcluster.cli.soak.counting import bank_problems, counter_problems
from gvcluster.cli.soak.crew import Crew
from gvcluster.cli.soak.desk import Desk
from gvcluster.cli.soak.history import FOREVER, Fate, Op
from gvcluster.cli.soak.linear import PATIENCE, Undecided, register_problem
from gvcluster.cli.soak.lists import list_problems, queue_problems
from gvcluster.cli.soak.resources import Rest, Sample, leak_problems, rest_problems, slope
from gvcluster.cli.soak.wire import Answer, echo_problems, lost_problems, truth_problems, wire_problems
from gvcluster.cli.soak.workers import Place

PLACES = [Place(0, "a"), Place(1, "b"), Place(2, "c")]
STEPS = 20
# A bug strikes at random: so many plays it may hide.
PLAYS = 8


def play(client: HonestClient, seed: int = 1, *, strict: bool = True) -> tuple[Book, dict[str, list[str]]]:
    """Let all kinds of greenlets of the soak work over a client, and check what they wrote down."""
    book, desk, crew = Book("w", strict=strict), Desk(), Crew(128, 0.0)
    steps = {worker.who: worker for worker in crew.hire(PLACES, [client, client], seed)}

    def run(who: int) -> None:
        for _ in range(STEPS):
            desk.enter(who)
            try:
                steps[who].work(book)
            finally:
                desk.leave(who)
            gevent.sleep(0)

    desk.open(book)
    running = [gevent.spawn(run, who) for who in steps]
    gevent.joinall(running, raise_error=True, timeout=60)
    assert desk.close(5) == []
    found = dict(book.problems(client.read))
    asked = book.asked()[0] + book.asked()[1]
    for many in (book.lists, book.queues):
        asked.update(op.argument for ops in many.values() for op in ops if op.argument not in asked)
    for key, ops in book.counters.items():
        asked[key.encode()] = len(ops)
    found["C5"] = wire_problems(asked, client.sent, {})
    return book, found


def caught(make: type[HonestClient], *wanted: str) -> set[str]:
    """Which checks have found something: in one play, or in several until those that are wanted have."""
    found: set[str] = set()
    for seed in range(1, PLAYS + 1):
        _, problems = play(make(seed), seed)
        found |= {check for check, told in problems.items() if told}
        if found.issuperset(wanted):
            break
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_an_honest_client_passes_all_checks_however_often_replies_get_lost(seed: int) -> None:
    book, found = play(HonestClient(seed), seed)
    assert {check: problems for check, problems in found.items() if problems} == {}
    assert book.interrupted > 10
    assert book.answers > 500
    assert min(len(ops) for ops in book.registers.values()) > 30
    for ops in (book.counters, book.lists, book.queues, book.takes):
        fates = {op.fate for each in ops.values() for op in each}
        assert {Fate.DONE, Fate.DOUBTFUL} <= fates


def test_c1_catches_a_client_that_swaps_replies() -> None:
    assert "C1" in caught(planted.SwapsReplies, "C1")


def test_c2_catches_a_client_that_reads_old_values() -> None:
    assert caught(planted.ReadsOldValues, "C2") == {"C2"}


def test_c3_and_c4_and_c5_catch_a_client_that_sends_a_write_twice() -> None:
    assert {"C3", "C4", "C5"} <= caught(planted.SendsTwice, "C3", "C4", "C5")


def test_c5_catches_a_second_sending_that_no_server_has_noticed() -> None:
    assert caught(planted.SendsTwiceUnnoticed, "C5") == {"C5"}


def test_c3_and_c4_catch_a_client_that_denies_what_has_run() -> None:
    assert {"C3", "C4"} <= caught(planted.DeniesWhatRan, "C3", "C4")


def test_c2_and_c3_and_c4_and_c7_catch_a_client_that_acknowledges_what_is_lost() -> None:
    assert {"C2", "C3", "C4", "C7"} <= caught(planted.AcknowledgesTooEarly, "C2", "C3", "C4", "C7")


def test_c4_catches_a_client_whose_writes_overtake_each_other() -> None:
    assert "C4" in caught(planted.Overtakes, "C4")


def test_c6_catches_transactions_that_are_not_atomic() -> None:
    assert caught(planted.HalfTransactions, "C6") == {"C6"}


def test_c7_catches_a_token_that_is_delivered_twice() -> None:
    assert caught(planted.DeliversTwice, "C7") == {"C7"}


def test_c7_catches_a_token_that_was_taken_and_dropped() -> None:
    assert caught(planted.DropsWhatItTook, "C7") == {"C7"}


def test_what_servers_may_lose_is_no_fault_but_what_ran_twice_is() -> None:
    honest = HonestClient()
    book, _ = play(honest, strict=False)
    for tokens in honest.lists.values():
        if tokens and ":list" in next(key for key, value in honest.lists.items() if value is tokens):
            tokens.pop()
    for key in book.counters:
        honest.values[key] -= 1
    assert {check: told for check, told in book.problems(honest.read).items() if told} == {}
    key, ops = next(iter(book.counters.items()))
    honest.values[key] = len(ops) + 1
    assert book.problems(honest.read)["C3"] == [
        f"{key}: {told}" for told in counter_problems(ops, len(ops) + 1, strict=False)
    ]
    assert counter_problems(ops, len(ops) + 1, strict=False)


# -- C2: histories by hand --------------------------------------------------------------------------------------------


def write(value: str, called: float, returned: float, fate: Fate = Fate.DONE) -> Op:
    return Op(1, 1, value, b"OK", called, returned, fate)


def read(value: str | None, called: float, returned: float) -> Op:
    return Op(2, 1, None, value, called, returned)


@pytest.mark.parametrize(
    "ops",
    [
        [],
        [read(None, 0, 1), write("a", 2, 3), read("a", 4, 5)],
        [write("a", 0, 10), read(None, 1, 2), read("a", 3, 4)],  # it took effect in between
        [write("a", 0, 10), write("b", 0, 10), read("b", 1, 2), read("a", 3, 4)],
        [write("a", 0, 1, Fate.DOUBTFUL), read(None, 2, 3), read("a", 4, 5)],  # it took effect late
        [write("a", 0, 1, Fate.DOUBTFUL), write("b", 2, 3), read("b", 4, 5)],  # or never
        [write("a", 0, 1, Fate.NEVER), read(None, 2, 3)],
        [write("a", 0, 3), write("b", 1, 2), read("a", 4, 5)],
    ],
)
def test_c2_accepts_whatever_some_order_explains(ops: Sequence[Op]) -> None:
    assert register_problem(ops) is None


@pytest.mark.parametrize(
    "ops",
    [
        [write("a", 0, 1), read(None, 2, 3)],  # a lost or late write
        [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],  # a stale read
        [write("a", 0, 10), read("a", 1, 2), read(None, 3, 4)],  # back in time
        [write("a", 0, 10), write("b", 0, 10), read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)],
        [write("a", 0, 1, Fate.NEVER), read("a", 2, 3)],  # it ran, and was denied
        [read("x", 0, 1)],  # from nowhere
        [write("a", 5, 6, Fate.DOUBTFUL), read("a", 0, 1)],  # before it was called
        [write("a", 0, 1, Fate.DOUBTFUL), write("b", 2, 3), read("a", 4, 5), read("b", 6, 7)],
    ],
)
def test_c2_refuses_what_no_order_explains(ops: Sequence[Op]) -> None:
    assert register_problem(ops) is not None


def test_c2_names_the_read_that_does_not_fit() -> None:
    told = register_problem([write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)])
    assert (
        told == "2 of 3 operations can be put in order; then greenlet 2 read 'a' where it must be 'b', or a later write"
    )


@pytest.mark.parametrize("seed", range(20))
def test_c2_agrees_with_a_register_that_really_was_one(seed: int) -> None:
    """Operations take effect at a random time between call and return; then one read is made to lie."""
    rng = random.Random(seed)
    effects = sorted((rng.random() * 100, number) for number in range(300))
    value, ops, seen = None, [], [None]
    for at, number in effects:
        called, returned = at - rng.random(), at + rng.random()
        if rng.random() < 0.5:
            value = f"v{number}"
            doubtful = rng.random() < 0.1
            seen += [] if doubtful else [value]
            fate, returned = (Fate.DOUBTFUL, FOREVER) if doubtful else (Fate.DONE, returned)
            ops.append(Op(number, 1, value, b"OK", called, returned, fate))
        else:
            ops.append(Op(number, 1, None, value, called, returned))
    assert register_problem(ops) is None
    late = max(index for index, op in enumerate(ops) if op.argument is None)
    ops[late] = ops[late]._replace(reply=seen[3])
    assert register_problem(ops) is not None


def test_c2_says_so_when_it_gives_up() -> None:
    ops = [write(f"v{number}", 0, 1000) for number in range(60)]
    ops += [read(f"v{number}", 1000 + number, 1000.5 + number) for number in (1, 2)]
    with pytest.raises(Undecided, match=f"{PATIENCE:,} steps"):
        register_problem(ops)


# -- the others: what is caught, one by one ---------------------------------------------------------------------------


def done(argument: object, reply: object, who: int = 1, seq: int = 1, fate: Fate = Fate.DONE) -> Op:
    return Op(who, seq, argument, reply, 0, 1, fate)


def test_c1_looks_at_the_type_as_well() -> None:
    assert echo_problems([Answer(1, "INCR", 1, 1), Answer(1, "ECHO", b"1", b"1")]) == []
    assert (
        len(echo_problems([Answer(1, "INCR", 1, True), Answer(1, "ECHO", b"1", 1), Answer(1, "GET", b"a", None)])) == 3
    )


@pytest.mark.parametrize(
    ("replies", "final"),
    [([1, 2, 4], 3), ([1, 2, 2], 3), ([2, 1, 3], 3), ([1, 2, 3], 5), ([1, 2, 3], 2), ([1, 2, b"3"], 3)],
)
def test_c3_catches_counts_and_replies_that_cannot_be(replies: list[object], final: int) -> None:
    ops = [done(1, reply, seq=seq) for seq, reply in enumerate(replies)]
    assert counter_problems(ops, final, strict=True)
    assert counter_problems([done(1, 1), done(1, 2, seq=2), done(1, 3, seq=3)], 3, strict=True) == []


@pytest.mark.parametrize(
    "final", [[b"1", b"1", b"2"], [b"2", b"1"], [b"1"], [b"1", b"2", b"foreign"], [b"1", b"2", b"denied"]]
)
def test_c4_catches_lists_that_cannot_be(final: list[bytes]) -> None:
    ops = [done(b"1", 1), done(b"2", 2, seq=2), done(b"denied", None, seq=3, fate=Fate.NEVER)]
    assert list_problems(ops, final, strict=True)
    assert list_problems(ops, [b"1", b"2"], [[b"1"]], strict=True) == []
    assert list_problems(ops, [b"1", b"2"], [[b"2"]], strict=True)


def test_c5_counts_what_the_servers_refused() -> None:
    assert wire_problems({b"t": 1}, {b"t": 2}, {b"t": 1}) == []
    assert wire_problems({b"t": 1}, {b"t": 3}, {b"t": 1})
    assert wire_problems({}, {b"foreign": 1}, {})
    assert truth_problems({b"t": 1}, {b"t": 2}, {b"t": 1}) == []
    assert truth_problems({b"t": 2}, {b"t": 2}, {b"t": 1})


def test_c6_catches_money_from_nowhere_and_debts() -> None:
    assert bank_problems([[100, 100], [50, 150]], 200) == []
    assert bank_problems([[100, 100], [50, 100], [50, 150]], 200)
    assert bank_problems([[-50, 250]], 200)


def test_c7_lets_one_token_go_for_each_pop_in_doubt() -> None:
    pushes = [done(b"a", 1), done(b"b", 2)]
    doubtful = done(None, None, fate=Fate.DOUBTFUL)
    assert queue_problems(pushes, [done(None, b"a"), doubtful], [], strict=True) == []
    assert queue_problems(pushes, [doubtful], [], strict=True)
    assert queue_problems(pushes, [done(None, b"a")], [], strict=True)
    assert queue_problems(pushes, [done(None, b"a")], [b"a", b"b"], strict=True)
    assert queue_problems(pushes, [done(None, b"x")], [b"a", b"b"], strict=False)


def test_c8_catches_leaked_connections_files_and_greenlets() -> None:
    before = Sample(0, files=20, greenlets=10, rss=0, connections=6, clients=6, proxied=3)
    assert leak_problems(before, before) == []
    # Two connections more, one of them through a proxy, with its sockets and greenlets, are no leak.
    assert leak_problems(before, Sample(9, 24, 12, 0, connections=8, clients=8, proxied=4)) == []
    assert leak_problems(before, Sample(9, 21, 10, 0, connections=6, clients=7, proxied=3)) == [
        "1 files more are open that are no connections",
        "the servers have 7 clients, where the client has 6 connections",
    ]
    assert leak_problems(before, Sample(9, 20, 11, 0, connections=6, clients=6, proxied=3)) == ["1 greenlets more live"]


@pytest.mark.parametrize(
    "node",
    [
        Rest(3, idle=1, used=1, in_flight=0, waiting=0),
        Rest(2, idle=1, used=0, in_flight=1, waiting=0),
        Rest(2, idle=1, used=0, in_flight=0, waiting=1),
        Rest(4, idle=1, used=0, in_flight=0, waiting=0),
        Rest(1, idle=2, used=0, in_flight=0, waiting=0),
    ],
)
def test_c8_catches_pools_that_do_not_add_up_when_nobody_calls(node: Rest) -> None:
    assert rest_problems([Rest(3, idle=2, used=0, in_flight=0, waiting=0), Rest(0, 0, 0, 0, 0)]) == []
    assert len(rest_problems([node])) == 1


def test_what_only_servers_that_lose_nothing_can_answer_is_judged_in_strict_windows_alone() -> None:
    book = Book("w", strict=True)
    book.expect(1, "GET", b"mine", None, if_kept=True)
    assert len(book.problems(read_nothing)["C1"]) == 1
    book.strict = False  # the servers have failed over by themselves
    assert book.problems(read_nothing)["C1"] == []
    book.expect(1, "ECHO", b"mine", b"foreign")
    assert len(book.problems(read_nothing)["C1"]) == 1


def read_nothing(kind: str, key: str) -> Any:
    raise AssertionError(f"nothing was written to {kind} {key}")


def test_a_loss_in_doubt_needs_a_connection_that_has_ended_at_that_address() -> None:
    assert lost_problems({"a": 5}, {"a": 1}) == []
    assert len(lost_problems({"a": 5, "b": 1}, {"a": 1})) == 1


def test_the_slope_of_the_memory_is_found_through_noise() -> None:
    samples = [Sample(at, 0, 0, rss=at * 100 + (at % 2) * 1000, connections=0, clients=0) for at in range(0, 3600, 60)]
    assert slope(samples) == pytest.approx(360_000, rel=0.05)
