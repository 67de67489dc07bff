"""The generated table: current, complete, and what the router relies on in it."""

import dataclasses
import json
from pathlib import Path

import gencommands
import pytest
from command_facts import EXTRA, SCRIPTS, STATEFUL, TIMEOUTS

from gvcluster.core.command_spec import KeySpec
from gvcluster.core.commands import COMMANDS, Command

WIRE = Path(__file__).parent / "wire"
RECORDING = WIRE / "command-valkey-9.1.2.json"


def named(name: str) -> Command:
    command = COMMANDS.named(name)
    assert command is not None
    return command


def test_the_committed_table_is_what_the_generator_makes_of_the_recorded_reply() -> None:
    server, rows = gencommands.read_recording(RECORDING)
    written = gencommands.table(server, {row.name: row for row in rows})
    assert gencommands.TABLE.read_text() == written
    assert written == gencommands.table(server, {row.name: row for row in reversed(rows)})


def test_a_recording_is_written_as_it_is_read() -> None:
    assert gencommands.recording(*gencommands.read_recording(RECORDING)) == RECORDING.read_text()


def test_check_says_by_its_exit_status_whether_the_table_is_current(tmp_path: Path) -> None:
    changed = tmp_path / "command.json"
    changed.write_text(RECORDING.read_text().replace('["get", 2,', '["get", 3,'))
    assert gencommands.main(["--recorded", str(RECORDING), "--check"]) == 0
    assert gencommands.main(["--recorded", str(changed), "--check"]) == 1


def test_a_raw_reply_of_redis_6_2_is_read_too() -> None:
    reply = [["get", 2, ["readonly", "fast"], 1, 1, 1, ["@read"]], ["append", 3, ["write"], 1, 1, 1, []]]
    entries = list(gencommands._entries(reply))
    assert [(entry.name, entry.arity, entry.flags, entry.tips, entry.specs) for entry in entries] == [
        ("append", 3, ("write",), (), ()),
        ("get", 2, ("fast", "readonly"), (), ()),
    ]


@pytest.mark.parametrize("gone", ["client|reply", "eval", "blpop"])
def test_a_fact_about_a_command_that_is_gone_stops_the_generator(gone: str) -> None:
    server, rows = gencommands.read_recording(RECORDING)
    with pytest.raises(SystemExit, match=gone.upper().replace("|", " ")):
        gencommands.table(server, {row.name: row for row in rows if row.name != gone})


def test_a_blocking_command_whose_timeout_nobody_looked_up_stops_the_generator() -> None:
    server, rows = gencommands.read_recording(RECORDING)
    described = {row.name: row for row in rows}
    described["get"] = dataclasses.replace(described["get"], flags=("blocking",))
    with pytest.raises(SystemExit, match=r"blocks in \{'GET'\}"):
        gencommands.table(server, described)


def test_the_table_has_every_command_of_the_recording_and_the_extra_ones() -> None:
    _, rows = gencommands.read_recording(RECORDING)
    names = [command.name for command in COMMANDS]
    assert names == sorted({row.name.upper().replace("|", " ") for row in rows} | EXTRA.keys())
    assert len(COMMANDS) == 410
    assert repr(COMMANDS) == "<CommandTable of 410 commands>"


def test_the_table_asks_for_no_more_arguments_than_any_of_the_four_servers() -> None:
    arities = json.loads((WIRE / "command-arities.json").read_text())
    assert len(arities) == 4
    for server, commands in arities.items():
        for name, arity in commands.items():
            known = named(name)
            assert abs(known.arity) <= abs(arity), (server, name)


def test_what_the_facts_say_is_in_the_table() -> None:
    assert {command.name: command.stateful for command in COMMANDS if command.stateful} == STATEFUL
    assert {command.name for command in COMMANDS if command.script} == SCRIPTS
    blocking = {command.name: (command.timeout_at, command.timeout_scale) for command in COMMANDS if command.blocking}
    assert blocking == TIMEOUTS


def test_no_command_both_reads_only_and_writes() -> None:
    assert [command.name for command in COMMANDS if command.read_only and command.write] == []


def test_commands_whose_keys_no_specification_tells_are_searched_by_hand() -> None:
    by_option = {command.name for command in COMMANDS for spec in command.keys if spec.keyword or spec.incomplete}
    assert by_option == {
        *("GEORADIUS", "GEORADIUSBYMEMBER", "MIGRATE", "SORT", "XREAD", "XREADGROUP"),
        "SORT_RO",  # its only other keys are what BY and GET make up
        "STRALGO",
    }


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("GET", (KeySpec(1),)),
        ("MSET", (KeySpec(1, last=-1, step=2),)),
        ("BLPOP", (KeySpec(1, last=-2),)),
        ("RENAME", (KeySpec(1), KeySpec(2))),
        ("ZUNIONSTORE", (KeySpec(1), KeySpec(2, numkeys=0, first=1))),
        ("MSETEX", (KeySpec(1, numkeys=0, first=1, step=2),)),
        ("XREAD", (KeySpec(1, "STREAMS", last=-1, limit=2),)),
        ("MIGRATE", (KeySpec(3), KeySpec(-2, "KEYS", last=-1, incomplete=True))),
        ("SORT_RO", (KeySpec(1), KeySpec(0, incomplete=True))),
        ("SPUBLISH", (KeySpec(1, not_key=True),)),
        ("OBJECT ENCODING", (KeySpec(2),)),
        ("PING", ()),
    ],
)
def test_key_specifications_are_the_servers(name: str, keys: tuple[KeySpec, ...]) -> None:
    assert named(name).keys == keys


@pytest.mark.parametrize(
    ("name", "request_policy", "response_policy"),
    [
        ("DBSIZE", "all_shards", "agg_sum"),
        ("CONFIG SET", "all_nodes", "all_succeeded"),
        ("SCRIPT EXISTS", "all_shards", "agg_logical_and"),
        ("MGET", "multi_shard", None),
        ("DEL", "multi_shard", "agg_sum"),
        ("SCAN", "special", "special"),
        ("GET", None, None),
    ],
)
def test_policies_are_the_servers(name: str, request_policy: str | None, response_policy: str | None) -> None:
    assert (named(name).request_policy, named(name).response_policy) == (request_policy, response_policy)


def test_the_facts_of_one_command_in_full() -> None:
    command = named("BLMPOP")
    assert {slot: getattr(command, slot) for slot in Command.__slots__} == {
        "name": "BLMPOP",
        "arity": -5,
        "keys": (KeySpec(2, numkeys=0, first=1),),
        "read_only": False,
        "write": True,
        "blocking": True,
        "script": False,
        "movable_keys": True,
        "stateful": None,
        "request_policy": None,
        "response_policy": None,
        "timeout_at": 1,
        "timeout_scale": 1,
        "lone_key": 0,
    }
