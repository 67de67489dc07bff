"""What makes a slot covered, and what makes it begin anew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address
from gvcluster.core.coverage import LONGEST_WINDOW, Coverage, Half, Sweep
from gvcluster.core.looks import Look, parse_look
from gvcluster.core.members import UnusableMap
from gvcluster.core.runs import Run, run_at
from gvcluster.core.scan_cursor import Place, read_cursor, write_cursor
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ConfigError

ALL = frozenset(range(16384))
HERE = Address("10.0.0.1", 1)


def look(id_="n", *, run="r", epoch=1, owned=(1, 2), leaving=None, arriving=None, others=(), is_primary=True) -> Look:
    return Look(id_, run, epoch, is_primary, frozenset(owned), leaving or {}, arriving or {}, tuple(others), {})


def begun(first: Look, halves=None) -> tuple[Coverage, Sweep]:
    coverage = Coverage(ALL - {1, 2})
    coverage.halves.update(halves or {})
    return coverage, Sweep(coverage, first)


def left(coverage: Coverage) -> set[int]:
    return set(ALL) - coverage.done


def test_slots_that_stay_are_covered_at_the_end_and_not_before():
    coverage, sweep = begun(look())
    sweep.fetched(b"5", False)
    assert sweep.take(look(), coverage)
    assert (sweep.kept, left(coverage)) == (b"5", {1, 2})
    sweep.fetched(b"0", True)
    assert sweep.owes_look
    assert sweep.take(look(), coverage)
    assert sweep.end(coverage) == {}
    assert coverage.is_whole


def test_a_window_in_which_the_epoch_changed_is_fetched_again():
    """A slot may have left and come back meanwhile: only that raises the epoch of who owns it before and after."""
    coverage, sweep = begun(look())
    sweep.fetched(b"5", False)
    assert sweep.take(look(), coverage)
    sweep.fetched(b"0", True)
    assert sweep.take(look(epoch=4), coverage)
    assert (sweep.cursor, sweep.kept, sweep.has_ended) == (b"5", b"5", False)
    assert sweep.slots == {1, 2}
    sweep.fetched(b"0", True)
    assert sweep.take(look(epoch=4), coverage)
    assert sweep.has_ended


def test_a_slot_that_was_leaving_when_the_epoch_changed_begins_anew():
    coverage, sweep = begun(look(leaving={1: "m"}))
    sweep.fetched(b"5", False)
    assert sweep.take(look(epoch=2, leaving={1: "m"}), coverage)
    assert sweep.slots == {2}
    assert coverage.fresh == {1, 2}


@pytest.mark.parametrize(
    "second",
    [
        look(),  # taken back
        look(leaving={1: "x"}),  # to another node than at first
        look(owned=(2,), others=[(1, 1, "x")]),
        look(owned=(2,)),  # and nobody knows whose it is
    ],
    ids=["back", "turned", "elsewhere", "nowhere"],
)
def test_a_slot_that_does_not_go_one_way_is_dropped(second):
    coverage, sweep = begun(look(leaving={1: "m"}))
    sweep.fetched(b"5", False)
    assert sweep.take(second, coverage)
    assert sweep.slots == {2}


def test_a_slot_that_was_gone_and_is_back_is_dropped():
    coverage, sweep = begun(look())
    sweep.fetched(b"5", False)
    assert sweep.take(look(owned=(2,), others=[(0, 1, "m")]), coverage)
    assert sweep.slots == {1, 2}
    sweep.fetched(b"6", False)
    assert sweep.take(look(leaving={1: "m"}), coverage)
    assert sweep.slots == {2}


@pytest.mark.parametrize("changed", [{"run": "another"}, {"is_primary": False}, {"id_": "another"}])
def test_another_process_or_role_ends_the_sweep(changed):
    coverage, sweep = begun(look())
    assert not sweep.take(look(**changed), coverage)


def half_way() -> tuple[Coverage, Half]:
    """Slot 1 left n for m while n was swept."""
    coverage, sweep = begun(look(leaving={1: "m"}))
    sweep.fetched(b"0", True)
    assert sweep.take(look(leaving={1: "m"}), coverage)
    assert sweep.end(coverage) == {}
    assert left(coverage) == {1}
    assert coverage.fresh == set()
    return coverage, coverage.halves[1]


@pytest.mark.parametrize("target", [{"owned": (), "arriving": {1: "n"}}, {"owned": (1,)}])
def test_a_slot_on_its_way_is_covered_when_its_target_was_swept_too(target):
    coverage, half = half_way()
    sweep = Sweep(coverage, look("m", **target))
    sweep.fetched(b"0", True)
    assert sweep.take(look("m", **target), coverage)
    halves = sweep.end(coverage)
    assert halves == {1: half}
    coverage.settle(sweep.look, halves, {"n": look(leaving={1: "m"})})
    assert coverage.is_whole


@pytest.mark.parametrize(
    "source",
    [None, look(epoch=2, owned=(2,)), look(owned=(1, 2)), look(leaving={1: "x"}), look(owned=(2,), is_primary=False)],
    ids=["unknown", "epoch", "back", "elsewhere", "replica"],
)
def test_it_begins_anew_unless_its_source_says_that_it_went_one_way(source):
    coverage, _ = half_way()
    sweep = Sweep(coverage, look("m", owned=(1,)))
    sweep.fetched(b"0", True)
    assert sweep.take(look("m", owned=(1,)), coverage)
    coverage.settle(sweep.look, sweep.end(coverage), {"n": source} if source else {})
    assert left(coverage) == coverage.fresh == {1}


def test_it_begins_anew_if_its_target_does_not_get_it_from_there():
    for arriving in ({}, {1: "x"}):
        coverage, _ = half_way()
        assert Sweep(coverage, look("m", owned=(), arriving=arriving)).slots == set()
        assert coverage.fresh == {1}


def test_it_begins_anew_if_the_targets_sweep_came_to_nothing():
    coverage, _ = half_way()
    Sweep(coverage, look("m", owned=(1,))).give_up(coverage)
    assert coverage.fresh == {1}


def test_the_looks_become_rarer_at_a_quiet_node():
    coverage, sweep = begun(look())
    windows = []
    for _ in range(8):
        fetches = 0
        while not sweep.owes_look:
            sweep.fetched(b"7", False)
            fetches += 1
        windows.append(fetches)
        assert sweep.take(look(), coverage)
    assert windows == [1, 2, 4, 8, 16, 32, 32, LONGEST_WINDOW]
    assert sweep.take(look(epoch=2), coverage)
    sweep.fetched(b"8", False)
    assert sweep.owes_look


# -- what a node says ---------------------------------------------------------------------------------------------

A, B = "a" * 40, "b" * 40
NODES = (
    f"{B} 10.0.0.2:2@10002 master - 0 0 7 connected 100-200 5\n"
    f"{A} :1@10001 myself,master - 0 0 3 connected 0-4 7 [3->-{B}] [150-<-{B}]\n"
).encode()


def test_a_look_is_what_the_node_says_of_itself():
    got = parse_look(NODES, b"# Server\r\nredis_version:9\r\nrun_id:00ff\r\n", HERE)
    assert (got.id, got.run, got.epoch, got.is_primary) == (A, "00ff", 3, True)
    assert got.owned == {0, 1, 2, 3, 4, 7}
    assert (got.leaving, got.arriving) == ({3: B}, {150: B})
    assert [got.owner_of(slot) for slot in (5, 150, 6)] == [B, B, None]
    assert got.addresses == {A: HERE, B: Address("10.0.0.2", 2)}
    assert not parse_look(NODES.replace(b"myself,master", b"myself,slave"), b"", HERE).is_primary


def test_a_node_that_names_its_slots_again_and_again_is_not_believed():
    with pytest.raises(UnusableMap, match="more than once"):
        parse_look(NODES.replace(b"0-4", b"0-16383 0-4"), b"", HERE)


@given(st.binary() | st.none() | st.integers())
def test_garbage_is_no_look(reply):
    with pytest.raises(UnusableMap):
        parse_look(reply, reply, HERE)


# -- stored cursors -----------------------------------------------------------------------------------------------

SLOT_SETS = st.frozensets(st.integers(0, 16383), max_size=30)
PLACES = st.builds(
    Place, st.text(max_size=40), st.text(), st.integers(), st.integers(0, 2**64 - 1).map(b"%d".__mod__), SLOT_SETS
)


@given(SLOT_SETS, st.none() | PLACES, st.binary())
def test_what_was_written_is_read(done, place, filters):
    text = write_cursor(done, place, filters)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert read_cursor(text, filters) == (done, place)


def test_the_longest_cursor_can_be_read():
    odd = frozenset(range(1, 16384, 2))
    place = Place("a" * 40, "b" * 40, 2**63, b"%d" % (2**64 - 1), ALL - odd)
    assert read_cursor(write_cursor(odd, place, b""), b"") == (odd, place)


@given(st.text())
def test_what_is_no_cursor_is_refused(text):
    for wrong in (text, f"scan1-{text}"):
        with pytest.raises(ConfigError, match="cursor must be the text"):
            read_cursor(wrong, b"")


@pytest.mark.parametrize("cursor", [b"%d" % 2**64, b"9" * 5000])
def test_a_cursor_that_no_server_would_take_is_refused(cursor):
    text = write_cursor([], Place("a" * 40, "b" * 40, 1, cursor, frozenset([1])), b"")
    with pytest.raises(ConfigError, match="damaged"):
        read_cursor(text, b"")


def test_a_cursor_of_another_scan_is_refused():
    with pytest.raises(ConfigError, match="another match= or type="):
        read_cursor(write_cursor([1], None, b"MATCH a"), b"MATCH b")
    for wrong in (0, b"0", None):
        with pytest.raises(ConfigError, match="cursor must be the text"):
            read_cursor(wrong, b"")


# -- runs of CLUSTERSCAN --------------------------------------------------------------------------------------------

TAGS = {hash_slot(tag): tag for tag in (b"%d" % number for number in range(100_000)) if hash_slot(tag) < 6}


def at(slot: int) -> bytes:
    return b"f-{%b}-7" % TAGS[slot]


def test_slots_before_the_cursors_are_covered_with_the_next_look():
    mine = look(owned=range(5))
    coverage = Coverage(ALL - set(range(5)))
    run = Run(coverage, mine, at(0), range(5))
    run.fetched(at(3), False)
    assert run.take(mine, coverage)
    assert left(coverage) == {3, 4}
    run.fetched(at(5), False)  # the next node's
    assert run.take(mine, coverage)
    assert run.has_ended
    assert coverage.is_whole


def test_a_slot_that_moves_key_by_key_is_left_to_another_sweep():
    coverage = Coverage(ALL - set(range(5)))
    run = Run(coverage, look(owned=range(5)), at(0), range(5))
    run.fetched(b"0", True)
    assert run.take(look(owned=range(5), leaving={2: "m"}), coverage)
    assert left(coverage) == coverage.fresh == run.troubled(coverage) == {2}


def test_a_run_that_was_sent_elsewhere_leaves_what_comes_after_to_the_next():
    mine = look(owned=range(5))
    coverage = Coverage(ALL - set(range(5)))
    run = Run(coverage, mine, at(0), range(5))
    run.fetched(at(2), False)
    run.is_stopped = True
    assert run.take(mine, coverage)
    assert run.troubled(coverage) == {2}
    assert run_at(coverage, mine, {2}) == range(3, 5)


def test_a_cursor_that_goes_back_ends_the_run_and_covers_nothing():
    mine = look(owned=range(5))
    coverage = Coverage(ALL - set(range(5)))
    run = Run(coverage, mine, at(3), range(3, 5))
    run.fetched(at(1), False)
    assert run.take(mine, coverage)
    assert run.has_ended
    assert left(coverage) == set(range(5))
    back = Run(coverage, mine, at(0), range(5))
    back.fetched(at(3), False)
    back.fetched(at(1), False)
    assert back.has_ended


def test_slots_that_are_strewn_about_are_no_run_unless_they_are_few():
    many = look(owned=range(0, 16384, 2))
    assert run_at(Coverage(), many, ()) is None
    assert run_at(Coverage(ALL - set(range(100))), many, ()) == range(1)
    assert run_at(Coverage(), look(owned=range(70)), ()) == range(70)
    assert run_at(Coverage(), look(owned=()), ()) is None
