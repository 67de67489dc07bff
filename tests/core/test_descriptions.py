"""What servers and description files tell of commands, and what is made of it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gvcluster.core.command_spec import KeySpec
from gvcluster.core.commands import COMMANDS, CommandTable, find_command, route
from gvcluster.core.descriptions import command_from, described_by_server, described_in, display_name
from gvcluster.errors import ConfigError, RoutingError
from gvcluster.tables import commands_from, registered

INDEX = {"begin_search": {"index": {"pos": 1}}, "find_keys": {"range": {"lastkey": -1, "step": 2, "limit": 0}}}
KEYWORD = {
    "begin_search": {"keyword": {"keyword": "streams", "startfrom": -2}},
    "find_keys": {"range": {"lastkey": -1, "step": 1, "limit": 2}},
}
KEYNUM = {
    "flags": ["RO", "NOT_KEY"],
    "begin_search": {"index": {"pos": 2}},
    "find_keys": {"keynum": {"keynumidx": 0, "firstkey": 1, "step": 1}},
}
UNKNOWN = {"begin_search": {"unknown": None}, "find_keys": {"unknown": None}}


@pytest.mark.parametrize(
    ("spec", "key_spec"),
    [
        (INDEX, KeySpec(1, last=-1, step=2)),
        (KEYWORD, KeySpec(-2, "STREAMS", last=-1, limit=2)),
        (KEYNUM, KeySpec(2, numkeys=0, first=1, not_key=True)),
        (UNKNOWN, KeySpec(0, incomplete=True)),
        (INDEX | {"flags": ["INCOMPLETE"]}, KeySpec(1, last=-1, step=2, incomplete=True)),
        # As the documentation's commands.json and COMMAND have it.
        (
            {
                "begin_search": {"type": "index", "spec": {"index": 3}},
                "find_keys": {"type": "range", "spec": {"lastkey": 0, "keystep": 1, "limit": 0}},
                "RO": True,
                "incomplete": True,
            },
            KeySpec(3, incomplete=True),
        ),
        (
            {
                "begin_search": {"type": "keyword", "spec": {"keyword": "KEYS", "startfrom": 2}},
                "find_keys": {"type": "keynum", "spec": {"keynumidx": 1, "firstkey": 2, "keystep": 3}},
            },
            KeySpec(2, "KEYS", numkeys=1, first=2, step=3),
        ),
    ],
)
def test_key_specifications_are_read_in_every_form(spec: Any, key_spec: KeySpec) -> None:
    (described,) = described_in({"NEW": {"arity": -2, "key_specs": [spec]}})
    assert command_from(described).keys == (key_spec,)


def test_a_description_file_tells_flags_policies_and_the_container() -> None:
    told = {
        "arity": -3,
        "container": "MY",
        "command_flags": ["READONLY", "BLOCKING"],
        "command_tips": ["REQUEST_POLICY:MULTI_SHARD", "NONDETERMINISTIC_OUTPUT"],
        "hints": ["response_policy:agg_sum"],
    }
    (described,) = described_in({"DO": told})
    assert described[:4] == ("my do", -3, ("blocking", "readonly"), described.tips)
    command = command_from(described, stranger=True)
    assert (command.name, command.read_only, command.write, command.blocking) == ("MY DO", True, False, True)
    assert (command.request_policy, command.response_policy) == ("multi_shard", "agg_sum")
    assert command.script


MODULE = [b"my.get", 2, [b"readonly", b"fast"], 1, -1, 2, [b"@read"]]
NEWER = [
    *([b"my", -2, {b"readonly"}, 0, 0, 0, [], [b"request_policy:all_shards"], []]),
    [
        [
            b"my|get",
            3,
            set(),
            2,
            2,
            1,
            [],
            [],
            [
                {
                    b"flags": {b"RO"},
                    b"begin_search": {b"type": b"index", b"spec": {b"index": 2}},
                    b"find_keys": {b"type": b"range", b"spec": {b"lastkey": 0, b"keystep": 1, b"limit": 0}},
                }
            ],
            [],
        ]
    ],
]
FLAT = [
    *([b"my", -2, [b"readonly"], 0, 0, 0, [], [b"request_policy:all_shards"], []]),
    [
        [
            b"my|get",
            3,
            [],
            2,
            2,
            1,
            [],
            [],
            [
                [
                    b"flags",
                    [b"RO"],
                    b"begin_search",
                    [b"type", b"index", b"spec", [b"index", 2]],
                    b"find_keys",
                    [b"type", b"range", b"spec", [b"lastkey", 0, b"keystep", 1, b"limit", 0]],
                ]
            ],
            [],
        ]
    ],
]


def test_a_reply_of_redis_6_2_tells_the_keys_without_specifications() -> None:
    (described,) = described_by_server([MODULE])
    command = command_from(described)
    assert (command.name, command.arity, command.keys) == ("MY.GET", 2, (KeySpec(1, last=-1, step=2),))
    assert (command.read_only, command.script, command.ask_keys) == (True, False, False)


@pytest.mark.parametrize("entry", [NEWER, FLAT], ids=["RESP3", "RESP2"])
def test_a_reply_tells_subcommands_and_specifications(entry: Any) -> None:
    container, get = map(command_from, described_by_server([None, entry]))
    assert (container.name, container.keys, container.request_policy) == ("MY", (), "all_shards")
    assert (get.name, get.arity, get.keys) == ("MY GET", 3, (KeySpec(2),))


@pytest.mark.parametrize(
    ("flags", "specs", "asks"),
    [
        ([], [], False),
        ([], [INDEX], False),
        (["movablekeys"], [KEYNUM], False),
        (["movablekeys"], [INDEX], True),
        (["movablekeys"], [], True),
        ([], [UNKNOWN], True),
        ([], [INDEX, UNKNOWN], True),
        ([], [KEYNUM | {"flags": ["INCOMPLETE"]}], True),
    ],
)
def test_a_stranger_whose_keys_are_not_all_told_has_them_asked_for(flags: Any, specs: Any, asks: bool) -> None:
    (described,) = described_in({"NEW": {"arity": -2, "command_flags": flags, "key_specs": specs}})
    assert command_from(described, stranger=True).ask_keys is asks
    assert command_from(described).ask_keys is False


def test_a_function_that_only_looks_what_is_done_with_the_key_makes_it_not_movable() -> None:
    told = {"arity": 2, "get_keys_function": "f", "key_specs": [INDEX | {"flags": ["RW", "VARIABLE_FLAGS"]}]}
    plain = told | {"key_specs": [INDEX]}
    assert [command_from(row).movable_keys for row in described_in({"A": told, "B": plain})] == [False, True]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "mapping"),
        ([], "mapping"),
        ({"NEW": 1}, "mapping"),
        ({"NEW": {}}, "arity"),
        ({"NEW": {"arity": 0}}, "arity"),
        ({"NEW": {"arity": True}}, "arity"),
        ({"NEW": {"arity": "2"}}, "arity"),
        ({"NEW": {"arity": 2**40}}, "arity"),
        ({"NEW": {"arity": 2, "command_flags": "readonly"}}, "list of words"),
        ({"NEW": {"arity": 2, "command_flags": [1]}}, "list of words"),
        ({"NEW": {"arity": 2, "key_specs": {}}}, "list"),
        ({"NEW": {"arity": 2, "key_specs": [1]}}, "mappings"),
        ({"NEW": {"arity": 2, "key_specs": [{}]}}, "mappings"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"flags": 1}]}}, "flags"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"begin_search": {"index": {"pos": 0}}}]}}, "index"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"begin_search": {"index": None}}]}}, "mappings"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"begin_search": {"other": {}}}]}}, "startfrom|begin"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"find_keys": {"other": {}}}]}}, "found by"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"find_keys": {"range": {"lastkey": 0, "step": 0}}}]}}, "step"),
        ({"NEW": {"arity": 2, "key_specs": [INDEX | {"find_keys": {"range": {"lastkey": "x"}}}]}}, "lastkey"),
        ({"A B C": {"arity": 2}}, "name"),
        ({"": {"arity": 2}}, "name"),
        ({"A\n": {"arity": 2}}, "name"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(document: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        [command_from(row) for row in described_in(document)]


JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-3, 3) | some.text(max_size=3) | some.binary(max_size=3),
    lambda inner: (
        some.lists(inner, max_size=10)
        | some.dictionaries(
            some.sampled_from(
                "arity key_specs begin_search find_keys type spec index range keynum unknown flags".split()
            ),
            inner,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=60)
@given(JSON | some.lists(some.tuples(some.binary(), JSON, JSON, JSON, JSON, JSON, JSON, JSON, JSON, JSON).map(list)))
def test_whatever_is_described_is_a_command_or_a_config_error(told: Any) -> None:
    for described in (described_by_server, described_in):
        try:
            commands = [command_from(row, stranger=True) for row in described(told)]
            commands += [command_from(row, stranger=True) for row in described_in({"NEW": told})]
        except ConfigError:
            continue
        table = CommandTable(commands)
        for command in commands:
            try:
                route([*command.name.split(), "3", "2", "x"], table)
            except (ConfigError, RoutingError):
                continue


# -- tables with additions ---------------------------------------------------------------------------------------------


def test_what_is_listed_already_stays_and_a_container_comes_with_its_subcommands() -> None:
    table = COMMANDS.plus(commands_from({"GET": {"arity": 7}, "MY DO": {"arity": -2}, "CONFIG NEW": {"arity": 3}}))
    assert table.named("GET") is COMMANDS.named("GET")
    assert find_command(["my", "do"], table).name == "MY DO"
    assert find_command(["CONFIG", b"new", "x"], table).arity == 3
    assert len(table) == len(COMMANDS) + 3
    assert COMMANDS.named("MY DO") is None


def test_display_names() -> None:
    assert display_name("config|set") == display_name("Config Set") == "CONFIG SET"
    assert display_name("ünd") == "ünd"


def test_a_registered_command_has_its_keys_where_it_says() -> None:
    table = COMMANDS.plus([registered("my.set", -3, (1, -1, 2), read_only=False, blocking=True)])
    way = route(["MY.SET", "{a}1", "x", "{a}2", "y"], table)
    assert (way.keys, way.blocking, way.command.script) == (("{a}1", "{a}2"), True, True)


@pytest.mark.parametrize(
    ("name", "arity", "keys"),
    [
        *[("GET", 2, (1, 1, 1)), ("client setname", 2, (1, 1, 1)), (b"NEW", 2, (1, 1, 1)), ("", 2, (1, 1, 1))],
        *[("NEW", 0, (1, 1, 1)), ("NEW", "2", (1, 1, 1)), ("NEW", 2, (1, 1)), ("NEW", 2, (1, 1, 0)), ("NEW", 2, 1)],
        *[("NEW", 2, (-1, 1, 1)), ("NEW", 2, ("1", 1, 1)), ("NEW", 2, None)],
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(name: Any, arity: Any, keys: Any) -> None:
    with pytest.raises(ConfigError):
        registered(name, arity, keys, read_only=False, blocking=False)


def test_the_option_reads_a_file_or_a_mapping(tmp_path: Any) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"MY.GET": {"arity": 2}}')
    for told in (file, str(file), {"MY.GET": {"arity": 2}}):
        assert [command.name for command in commands_from(told)] == ["MY.GET"]
    assert commands_from(None) == ()
    file.write_text("{")
    for told in (file, str(tmp_path / "nowhere"), 7, "\0"):
        with pytest.raises(ConfigError, match="command_table"):
            commands_from(told)
    file.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="command_table"):
        commands_from(file)
